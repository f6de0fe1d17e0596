"""Files here, and wherever fsspec gets: one set of functions for both."""

import os
import re
import stat
from typing import BinaryIO

from keras_mixer.catalog import needs_extra

# More than this is no image: it would be read into memory whole.
MAX_BYTES = 1 << 29

_URL = re.compile(r"[a-zA-Z][\w+.-]*(://|::)")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def is_url(location: str) -> bool:
    """Whether fsspec is asked for a location, and not the operating system."""
    return _URL.match(location) is not None


def open_url(url: str):
    """Return fsspec's file system for a URL, and the path in it.

    Raises:
        ImportError: If what it needs is not installed.
        ValueError: If there is no such protocol.
    """
    with needs_extra("Parquet files and URLs", "bulk"):
        import fsspec
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ImportError(
            f"A URL of this kind needs a package more. Received: {url} ({error}). "
            "Install it with pip."
        ) from error
    except ValueError as error:
        raise ValueError(
            "A URL must be of a kind that fsspec opens, such as s3://, gs:// or "
            f"https://. Received: {url} ({error})."
        ) from error


def is_folder(location: str) -> bool:
    if not is_url(location):
        return os.path.isdir(location)
    if location.startswith(("http:", "https:")):
        return False  # fsspec would look for links in the page
    system, path = open_url(location)
    return system.isdir(path)


def size_of(location: str) -> int:
    if is_url(location):
        system, path = open_url(location)
        return system.size(path)
    return os.stat(location).st_size


def read(location: str, start: int = 0, length: int | None = None) -> bytes:
    """Read a file, or `length` bytes of it; never wait for a pipe or a device."""
    if is_url(location):
        system, path = open_url(location)
        if length is not None:
            return system.cat_file(path, start=start, end=start + length)
        _check_size(system.size(path))
        return system.cat_file(path)
    with open_file(location) as file:
        if length is None:
            _check_size(os.fstat(file.fileno()).st_size)
        file.seek(start)
        return file.read() if length is None else file.read(length)


def open_file(location: str) -> BinaryIO:
    """Open a file that can be read from any place.

    Raises:
        OSError: If it cannot be.
        ValueError: If it is no file but a folder, a pipe or a device.
    """
    if is_url(location):
        system, path = open_url(location)
        return system.open(path, "rb")
    # Looked at first: to open a device can do things, to open a pipe waits.
    _check_regular(os.stat(location).st_mode)
    return open(location, "rb", opener=_without_waiting)


def _without_waiting(path, flags):
    number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _check_regular(os.fstat(number).st_mode)
    except ValueError:
        os.close(number)
        raise
    return number


def entries(folder: str) -> list[str]:
    """The names in a folder, sorted; those of folders end in a slash.

    A folder can have millions: their names are all that is kept of them.
    """
    if not is_url(folder):
        with os.scandir(folder) as found:
            return sorted(f"{e.name}/" if _is_folder(e) else e.name for e in found)
    system, path = open_url(folder)
    names = []
    for entry in system.ls(path, detail=True):
        location = entry["name"].rstrip("/")
        if location != path.rstrip("/"):
            slash = "/" if entry["type"] == "directory" else ""
            names.append(location.rpartition("/")[2] + slash)
    system.invalidate_cache(path)  # or it would keep what it ever listed
    return sorted(names)


def inside(folder: str, name: str) -> str:
    """The location of what has a name, from `entries`, in a folder."""
    if not is_url(folder):
        return os.path.join(folder, name.rstrip("/"))
    first, chain, rest = folder.partition("::")
    return f"{first.rstrip('/')}/{name.rstrip('/')}{chain}{rest}"


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _check_regular(mode):
    if not stat.S_ISREG(mode):
        kind = next((words for test, words in _KINDS if test(mode)), "something else")
        raise ValueError(f"image must be a file. Received: {kind}.")


def _check_size(size):
    if size is not None and size > MAX_BYTES:
        raise ValueError(
            f"The file of an image must have at most {MAX_BYTES >> 20} MiB. Received: "
            f"{size:,} bytes."
        )
