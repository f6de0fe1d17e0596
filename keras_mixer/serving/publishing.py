"""Versioned directories that appear whole or not at all."""

import contextlib
import os
import pathlib
import re
import shutil
import tempfile
import time

_TEMPORARY = ".tmp-"
_DAY_SECONDS = 24 * 3600


@contextlib.contextmanager
def new_version(base_dir, version=None):
    """Yield a directory to write into, which becomes `base_dir/version` at the end.

    A server polls `base_dir` and loads the directories whose names are integers. The
    files are written beside them, under a name that is not one, flushed to the disk,
    and renamed. If the block raises, nothing is left; if the process is killed,
    the next export removes the remains once they are a day old.

    Args:
        base_dir: Directory of the model's versions; made if it is missing.
        version: A positive integer, or `None` for the next one.

    Yields:
        `(directory, target)`: where to write now, and its final path.

    Raises:
        ValueError: If the version is not a positive integer or exists.
    """
    base_dir = pathlib.Path(base_dir)
    if version is None:
        version = max(versions(base_dir), default=0) + 1
    is_whole = isinstance(version, int) and not isinstance(version, bool)
    if not is_whole or not 1 <= version < 2**63:
        raise ValueError(
            "version must be a positive integer of at most 63 bits, or None for the "
            f"next one. Received: version={version!r}."
        )
    target = base_dir / str(version)
    _refuse_existing(target)
    try:
        base_dir.mkdir(parents=True, exist_ok=True)
        directory = _new_scratch(base_dir)
    except OSError as error:
        raise ValueError(
            "base_dir must be a directory that can be written to. Received: "
            f"{str(base_dir)!r} ({error.strerror})."
        ) from error
    try:
        yield directory, target
        # mkdtemp lets only its user in; the server is often another one.
        directory.chmod(0o755)
        _flush(directory)
        try:
            directory.rename(target)
        except OSError:
            # Another export took the number while this one was writing.
            _refuse_existing(target)
            raise
        _flush_directory(base_dir)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder(folder):
    """Yield a new folder in `folder`, which is removed at the end.

    What is renamed from there to `folder` appears at once, since both are on one file
    system. What a killed process left behind is removed once it is a day old.
    """
    scratch = _new_scratch(folder)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _new_scratch(folder):
    _remove_remains(folder)
    return pathlib.Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder))


def versions(base_dir):
    """Return the versions in `base_dir`: a dict of paths by number, ascending.

    A version is a directory whose name is a number of 63 bits, as for TensorFlow
    Serving.
    """
    base_dir = pathlib.Path(base_dir)
    if not base_dir.is_dir():
        return {}
    found = {
        int(entry.name): entry
        for entry in base_dir.iterdir()
        if re.fullmatch("[0-9]{1,19}", entry.name) and entry.is_dir()
    }
    return {number: found[number] for number in sorted(found) if number < 2**63}


def prune(base_dir, keep):
    """Remove all but the `keep` highest versions.

    Args:
        base_dir: Directory of the model's versions.
        keep: How many to keep, at least 1.

    Returns:
        The versions that were removed, ascending.
    """
    base_dir = pathlib.Path(base_dir)
    removed = list(versions(base_dir).items())[:-keep]
    for _, path in removed:
        # Renamed first: a server must not find half a version.
        remains = tempfile.mkdtemp(prefix=f"{_TEMPORARY}pruned-", dir=base_dir)
        path.rename(remains)
        shutil.rmtree(remains)
    return [version for version, _ in removed]


def _refuse_existing(target):
    if target.exists():
        raise ValueError(
            "A version that exists is never overwritten, since a server may be serving "
            f"it. Received: version={target.name}, which is in {str(target.parent)!r}. "
            "Leave version out to get the next one."
        )


def _remove_remains(base_dir):
    for entry in base_dir.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > _DAY_SECONDS:
                shutil.rmtree(entry)


def _flush(directory):
    for root, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        _flush_directory(root)


def _flush_directory(directory):
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
