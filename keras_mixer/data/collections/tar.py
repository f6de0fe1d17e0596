"""Images in tar files, as WebDataset lays them out: a sample's parts share a name."""

import os
import tarfile
from collections.abc import Iterator

from keras_mixer.data.collections import storage
from keras_mixer.data.collections.records import IMAGE_SUFFIXES, Record, in_words, shown


class Tar:
    """A tar file that is not compressed. Each member with an image's suffix counts.

    Args:
        location: Its path or URL.
    """

    def __init__(self, location: str) -> None:
        self._location = location

    def records(self) -> Iterator[Record]:
        """List the images, in their order in the file."""
        found = 0
        try:
            with (
                storage.open_file(self._location) as file,
                tarfile.open(fileobj=file, mode="r:") as members,
            ):
                for member in members:
                    members.members = []  # type: ignore[attr-defined]  # it keeps all
                    suffix = os.path.splitext(member.name)[1].lower()
                    if member.isreg() and suffix in IMAGE_SUFFIXES:
                        found += 1
                        name = shown(f"{self._location}/{member.name}")
                        yield Record(name, self, (member.offset_data, member.size))
        except (tarfile.TarError, OSError, ValueError) as error:
            yield Record(
                shown(self._location),
                problem="A tar file must be whole and not compressed. Received: "
                f"{in_words(error)}, after {found} images.",
            )
        else:
            if not found:
                yield Record(
                    shown(self._location),
                    problem="A tar file must hold images, by the suffixes of their "
                    "names. Received: none.",
                )

    def read(self, at: tuple[int, int]) -> bytes:
        start, length = at
        content = storage.read(self._location, start, length)
        if len(content) < length:
            raise ValueError(
                f"A tar file must be whole. Received: {len(content):,} of this "
                f"member's {length:,} bytes."
            )
        return content
