"""What a user names, to the images that it means, one after the other."""

import fnmatch
import os
import re
import sys
from collections.abc import Iterable, Iterator

from keras_mixer.data.collections import storage
from keras_mixer.data.collections.parquet import Parquet
from keras_mixer.data.collections.records import IMAGE_SUFFIXES, Record, in_words, shown
from keras_mixer.data.collections.tar import Tar
from keras_mixer.data.collections.tfrecord import TFRecords

_SHARDS = (
    (re.compile(r"\.tar$"), lambda location, column: Tar(location)),
    (re.compile(r"\.(parquet|pq)$"), Parquet),
    (re.compile(r"\.tf(rec|record|records)(-\d+-of-\d+)?$"), TFRecords),
)
_MAGIC = re.compile(r"[*?[]")


class Collection:
    """The images that a user's words mean, in a fixed order; any number of them.

    A file is taken by its name: `.tar`, `.parquet` and `.tfrecord` hold images, any
    other is one. A folder means its images and those of the folders in it, by their
    suffixes, sorted; a pattern such as `photos/**/*.jpg` what it matches. URLs of
    everything that fsspec opens mean the same. `-` means a list, each item the path or
    URL of a file.

    Args:
        inputs: Paths, patterns and URLs.
        column: Name of the column of Parquet files, or of the feature of TFRecord
            files, that has the images. None finds it.
        listed: What `-` means: lines of bytes, or strings; standard input if None.

    Raises:
        ValueError: If there is nothing: no input, a folder without images, a pattern
            that matches nothing.
    """

    def __init__(
        self,
        inputs: Iterable[str | os.PathLike[str]],
        column: str | None = None,
        listed: Iterable[bytes | str | os.PathLike[str]] | None = None,
    ) -> None:
        self._column = column
        self._listed = listed
        self._inputs = [os.fspath(item) for item in inputs]
        if not self._inputs:
            raise ValueError("There must be at least one image. Received: none.")
        if self._inputs.count("-") > 1:
            raise ValueError("- can be named once. Received: it twice.")
        for item in self._inputs:
            self._check(item)

    @property
    def can_be_counted(self) -> bool:
        """Whether going through it once more is possible, and costs little."""
        return not any(item == "-" or storage.is_url(item) for item in self._inputs)

    def __iter__(self) -> Iterator[Record]:
        for item in self._inputs:
            if item == "-":
                for path in self._list():
                    yield from self._file(path)
            elif _is_pattern(item):
                for location, is_folder in _matches(item):
                    if is_folder:
                        yield from _images_in(location)
                    else:
                        yield from self._file(location)
            elif storage.is_folder(item):
                yield from _images_in(item)
            else:
                yield from self._file(item)

    def _list(self):
        is_empty = True
        for item in sys.stdin.buffer if self._listed is None else self._listed:
            path = os.fsdecode(
                item.rstrip(b"\r\n") if isinstance(item, bytes) else item
            )
            if path:
                is_empty = False
                yield path
        if is_empty:
            raise ValueError("A list must name at least one image. Received: none.")

    def _check(self, item):
        if item == "-":
            return
        if storage.is_url(item):
            storage.open_url(item)
        if _is_pattern(item):
            if next(_matches(item), None) is None:
                raise ValueError(f"A pattern must match a file. Received: {item}.")
        elif storage.is_folder(item) and next(_images_in(item), None) is None:
            raise ValueError(
                "A folder must hold images, which end in .jpg, .png and the like; "
                f"shards are named one by one, as {item.rstrip('/')}/*.tar. Received: "
                f"{item}."
            )

    def _file(self, location):
        # The path of `https://host/a.tar?signature=...`
        path = (
            re.split(r"[?#]|::", location)[0] if storage.is_url(location) else location
        )
        for suffix, kind in _SHARDS:
            if suffix.search(path.lower()):
                yield from kind(location, self._column).records()
                return
        yield Record(shown(location), _FILES, location)


class _Files:
    """Files that are images: the place is the location."""

    def read(self, at):
        return storage.read(at)


_FILES = _Files()


def _images_in(folder, above=()):
    """List the images of a folder and of those in it; no loop of links is followed."""
    try:
        found, above = _look_into(folder, above)
    except (OSError, ValueError) as error:
        reason = (
            f"A folder must be one that can be read. Received: {in_words(error)}."
            if isinstance(error, OSError)
            else str(error)
        )
        yield Record(shown(folder), problem=reason)
        return
    for name in found:
        location = storage.inside(folder, name)
        if name.endswith("/"):
            yield from _images_in(location, above)
        elif os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
            yield Record(shown(location), _FILES, location)


def _look_into(folder, above):
    """The entries of a folder, and what tells it from those above it."""
    if storage.is_url(folder):
        return storage.entries(folder), ()
    status = os.stat(folder)
    itself = (status.st_dev, status.st_ino)
    if itself in above:
        raise ValueError(
            "A link must not lead back to a folder that it is in. Received: a link to "
            f"{shown(os.path.realpath(folder))}, not followed."
        )
    return storage.entries(folder), (*above, itself)


def _is_pattern(item):
    if storage.is_url(item):
        # A question mark begins the query of a URL.
        return re.search(r"[*[]", item) and not item.startswith(("http:", "https:"))
    return bool(_MAGIC.search(item)) and not os.path.lexists(item)


def _matches(pattern):
    """List what a pattern matches as `(location, is it a folder)`, sorted."""
    chain = ""
    if storage.is_url(pattern):
        pattern, separator, rest = pattern.partition("::")
        chain = separator + rest
    parts = re.sub(r"(\*\*/)+", "**/", pattern).split("/")
    first = next(n for n, part in enumerate(parts) if _MAGIC.search(part))
    start = "/".join(parts[:first]) or ("/" if pattern.startswith("/") else ".")
    for location, is_folder in _descend(start + chain, parts[first:], ()):
        # What `**` matches is a file: it goes into the folders itself.
        if is_folder and "**" in parts[first:-1]:
            continue
        is_relative = start == "." and not pattern.startswith("./")
        yield (location.removeprefix("./") if is_relative else location), is_folder


def _descend(folder, parts, above):
    try:
        found, above = _look_into(folder, above)
    except (OSError, ValueError):
        return  # what matches is elsewhere
    part, rest = parts[0], parts[1:]
    if part == "**" and rest:
        yield from _descend(folder, rest, above[:-1])
        for name in found:
            if name.endswith("/") and not name.startswith("."):
                yield from _descend(storage.inside(folder, name), parts, above)
        return
    for name in found:
        if name.startswith(".") and not part.startswith("."):
            continue
        if not fnmatch.fnmatchcase(name.rstrip("/"), part):
            continue
        location, is_folder = storage.inside(folder, name), name.endswith("/")
        if not rest:
            yield location, is_folder
        elif is_folder:
            yield from _descend(location, rest, above)
