"""Images in TFRecord files of `tf.Example`, as TensorFlow Datasets writes them."""

import struct
from collections.abc import Iterator

from keras_mixer.data.collections import storage
from keras_mixer.data.collections.records import Record, in_words, shown

_FEATURES = ("image/encoded", "image", "image_bytes", "image_raw")
_HEADER = struct.Struct("<QI")  # a length, and its checksum
_FOOTER_BYTES = 4  # the checksum of the data


class TFRecords:
    """A TFRecord file that is not compressed.

    Args:
        location: Its path or URL.
        feature: Name of the feature with the bytes of the image. None takes
            `image/encoded`, `image`, `image_bytes` or `image_raw`.
    """

    def __init__(self, location: str, feature: str | None = None) -> None:
        self._location = location
        self._feature = feature

    def records(self) -> Iterator[Record]:
        """List the examples, in their order in the file."""
        name = shown(self._location)
        number = 0
        try:
            size = storage.size_of(self._location)
            with storage.open_file(self._location) as file:
                start = 0
                while start < size:
                    file.seek(start)
                    length = _length(file.read(_HEADER.size))
                    start += _HEADER.size
                    yield Record(f"{name}#{number}", self, (start, length))
                    number += 1
                    start += length + _FOOTER_BYTES
                if start > size:
                    raise ValueError("a file that is cut off")
                if not number:
                    raise ValueError("an empty file")
        except (OSError, ValueError) as error:
            yield Record(
                name,
                problem="A TFRecord file must be whole and not compressed. Received: "
                f"{in_words(error)}, after {number} "
                "examples.",
            )

    def read(self, at: tuple[int, int]) -> bytes:
        import tensorflow as tf

        start, length = at
        content = storage.read(self._location, start, length)
        if len(content) < length:
            raise ValueError("A TFRecord file must be whole. Received: the rest of it.")
        try:
            features = tf.train.Example.FromString(content).features.feature
        except Exception as error:  # protobuf's, of whichever implementation
            raise ValueError(
                f"A record must be a tf.Example. Received: {error}."
            ) from error
        wanted = [self._feature] if self._feature else _FEATURES
        name = next((name for name in wanted if name in features), None)
        values = features[name].bytes_list.value if name else []
        if len(values) != 1:
            known = sorted(n for n, f in features.items() if f.bytes_list.value)
            raise ValueError(
                f"An example must have one image in {' or '.join(wanted)}. Received: "
                f"the features {', '.join(known[:20]) or 'of no bytes'}. Name one as "
                "--column."
            )
        return values[0]


def _length(header):
    """Read the header of a record, whose checksum tells what is no TFRecord file."""
    if len(header) < _HEADER.size:
        raise ValueError("a file that is cut off")
    length, checksum = _HEADER.unpack(header)
    crc = _crc32c(header[:8])
    if checksum != ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF:
        raise ValueError("a header with another checksum")
    return length


def _table():
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        yield value


_TABLE = tuple(_table())


def _crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
