"""The one way a file is written: whole or not at all."""

import contextlib
import os
import pathlib
import secrets


@contextlib.contextmanager
def written_whole(path):
    """Yield a path to write to, which takes the place of `path` if the block succeeds.

    Args:
        path: The file to make or replace, in a folder that exists.

    Yields:
        A `pathlib.Path` in the same folder that ends as `path` does. If the block
        raises, it is removed and `path` is as it was.
    """
    path = pathlib.Path(os.path.realpath(path))
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
