"""The one way a file is written: whole or not at all."""

import contextlib
import os
import pathlib
import secrets

import filelock


@contextlib.contextmanager
def written_whole(path):
    """Yield a path to write to, which takes the place of `path` if the block succeeds.

    What killed writers of the same file left behind is removed first.

    Args:
        path: The file to make or replace, in a folder that exists.

    Yields:
        A `pathlib.Path` in the same folder that ends as `path` does. If the block
        raises, it is removed and `path` is as it was.
    """
    path = pathlib.Path(os.path.realpath(path))
    _remove_remains(path)
    mark = f".tmp-{secrets.token_hex(8)}-"
    temporary = path.with_name(mark + path.name)
    alive = path.with_name(f"{mark}{path.name}.lock")
    lock = filelock.FileLock(alive)
    try:
        # A file system without locks loses the tidying up, not the writing.
        with contextlib.suppress(OSError, NotImplementedError):
            lock.acquire()
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        alive.unlink(missing_ok=True)
        lock.release()


def _remove_remains(path):
    """Remove the files of writers whose locks nobody holds any more."""
    if not path.parent.is_dir():
        return
    for name in os.listdir(path.parent):
        if not name.startswith(".tmp-") or not name.endswith(f"-{path.name}.lock"):
            continue
        alive = path.with_name(name)
        # Held: another writer lives. Not to be locked: then not to be removed either.
        with (
            contextlib.suppress(OSError, NotImplementedError),
            filelock.FileLock(alive, timeout=0),
        ):
            path.with_name(name.removesuffix(".lock")).unlink(missing_ok=True)
            alive.unlink(missing_ok=True)
