"""Images in Parquet files: their bytes, or the paths of their files."""

import collections
import os
import threading
from collections.abc import Iterator

from keras_mixer.catalog import needs_extra
from keras_mixer.data.collections import storage
from keras_mixer.data.collections.records import Record, in_words, shown

# What columns of images are called, the likeliest first.
_BYTES = (
    *("image", "img", "bytes", "image_bytes", "content", "data"),
    *("jpg", "jpeg", "png", "webp"),
)
_PATHS = (
    *("image", "image_path", "path", "file_path", "filepath", "file"),
    *("file_name", "filename", "url", "uri", "image_url"),
)
# Rows read at once, and how many such blocks stay: threads take rows almost in order.
_BLOCK = 16
_BLOCKS = 8


class Parquet:
    """A Parquet file with a column of images.

    The column holds bytes, a struct of `bytes` and `path`, as Hugging Face's data sets
    have it, or paths and URLs; a path is relative to the folder of the file.

    Args:
        location: Its path or URL.
        column: Name of the column. None finds it by name, or as the only one of bytes.
    """

    def __init__(self, location: str, column: str | None = None) -> None:
        self._location = location
        self._column = column
        self._reset()

    def _reset(self):
        self._lock = threading.Lock()
        self._file = None
        self._groups = None
        self._blocks = collections.OrderedDict()
        self._next = None
        self._batches = None

    def __getstate__(self):
        return {"_location": self._location, "_column": self._column}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._reset()

    def records(self) -> Iterator[Record]:
        """List the rows, in their order in the file."""
        name = shown(self._location)
        try:
            with self._lock:
                rows = self._open().metadata.num_rows
            if not rows:
                raise ValueError(
                    "A Parquet file must have rows of images. Received: none."
                )
        except (OSError, ValueError) as error:  # Arrow's errors are among these
            problem = str(error)
            if "Received:" not in problem:
                problem = f"A Parquet file must be whole. Received: {in_words(error)}."
            yield Record(name, problem=problem)
            return
        for row in range(rows):
            yield Record(f"{name}#{row}", self, row)

    def read(self, at: int) -> bytes:
        with self._lock:
            value = self._value(at)
        path = None
        if isinstance(value, dict):
            value, path = value["bytes"], value.get("path")
        elif isinstance(value, str):
            value, path = None, value
        if value is None and path:
            return storage.read(self._beside(path))
        if value is None:
            raise ValueError("A row must hold an image. Received: null.")
        return value

    def _beside(self, path):
        if storage.is_url(path) or os.path.isabs(path):
            return path
        if storage.is_url(self._location):
            first, chain, rest = self._location.partition("::")
            return f"{first.rpartition('/')[0]}/{path}{chain}{rest}"
        return os.path.join(os.path.dirname(self._location), path)

    def _value(self, row):
        self._open()
        group = next(n for n, end in enumerate(self._groups) if row < end)
        start = self._groups[group - 1] if group else 0
        number, place = divmod(row - start, _BLOCK)
        while (group, number) not in self._blocks:
            if self._next is None or not (group, 0) <= self._next <= (group, number):
                self._next = (group, 0)
                self._batches = self._file.iter_batches(
                    _BLOCK, [group], [self._column], use_threads=False
                )
            self._blocks[self._next] = next(self._batches).column(0)
            self._next = (group, self._next[1] + 1)
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        return self._blocks[group, number][place].as_py()

    def _open(self):
        """Open the file, once, and find its column. Who calls holds the lock."""
        if self._file is None:
            with needs_extra("Parquet files and URLs", "bulk"):
                import pyarrow.parquet
            # A buffer, or a whole column of a row group is read at once.
            file = pyarrow.parquet.ParquetFile(
                storage.open_file(self._location), buffer_size=1 << 20
            )
            self._column = _image_column(file.schema_arrow, self._column)
            groups = range(file.metadata.num_row_groups)
            ends, total = [], 0
            for group in groups:
                total += file.metadata.row_group(group).num_rows
                ends.append(total)
            self._groups, self._file = ends, file
        return self._file


def _image_column(schema, wanted):
    kinds = {field.name: _kind(field.type) for field in schema}
    if wanted is not None:
        if not kinds.get(wanted):
            raise ValueError(
                "--column must name a column of bytes or paths. Received: "
                f"{wanted!r}, of the columns {', '.join(kinds)}."
            )
        return wanted
    of_bytes = [name for name, kind in kinds.items() if kind == "bytes"]
    for names, kind in ((_BYTES, "bytes"), (_PATHS, "paths")):
        for name in names:
            if kinds.get(name) == kind:
                return name
        if kind == "bytes" and len(of_bytes) == 1:
            return of_bytes[0]
    raise ValueError(
        "A Parquet file must have a column of images: of their bytes, or of their "
        f"paths. Received: the columns {', '.join(kinds) or 'of nothing'}. Name one as "
        "--column."
    )


def _kind(arrow_type):
    import pyarrow

    is_type = pyarrow.types
    if is_type.is_struct(arrow_type):
        names = [field.name for field in arrow_type]
        return "bytes" if "bytes" in names else None
    if is_type.is_binary(arrow_type) or is_type.is_large_binary(arrow_type):
        return "bytes"
    if is_type.is_string(arrow_type) or is_type.is_large_string(arrow_type):
        return "paths"
    return None
