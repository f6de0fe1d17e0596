"""What `weights=` names: a tag of the catalogue, fetched once, or a file.

A published file is cached as it was published, and read directly.
"""

import contextlib
import importlib.resources
import json
import os
import pathlib
import sys
import urllib.parse

import filelock

from keras_mixer.catalog import ENTRIES
from keras_mixer.weights import hub, names
from keras_mixer.weights.constants import labels_told
from keras_mixer.weights.download import DownloadError, download, sha256_of
from keras_mixer.weights.files import written_whole
from keras_mixer.weights.fill import check_whole
from keras_mixer.weights.source import open_file


def open_weights(weights, model_name):
    """Open what `weights=` names.

    Args:
        weights: A tag of the catalogue, a path, or `hf://org/repo`.
        model_name: Name of the model that asks, or None for one without a name.

    Returns:
        A `Source`.

    Raises:
        ValueError: If there is no such tag or file, or the file is damaged.
    """
    entry = ENTRIES.get((model_name, weights))
    if entry is not None:
        return open_file(fetch(entry), entry.transform)
    if hub.is_address(weights):
        return open_file(hub.fetch_repository(weights))
    path = os.fspath(weights)
    tags = [tag for name, tag in ENTRIES if name == model_name]
    if not os.path.exists(path) and not path.endswith(names.SUFFIXES):
        raise ValueError(
            f"weights must be None, the path of a {', '.join(names.SUFFIXES)} file, "
            f"hf://org/repo, or one of the tags of {model_name or 'a named variant'}: "
            f"{', '.join(tags) or 'none'}. Received: {path!r}."
        )
    return open_file(path)


def labels_of_weights(weights):
    """The names of classes that a `config.json` beside the weights gives.

    Args:
        weights: What `open_weights` takes.

    Returns:
        What `labels_told` returns; None for weights of other formats.

    Raises:
        ValueError: If it says something impossible, or the weights cannot be had.
    """
    if hub.is_address(weights):
        weights = hub.fetch_repository(weights)
    return labels_told(weights) if str(weights).endswith(".safetensors") else None


def fetch(entry):
    """Fetch a published file, unless it is in the package or in the cache.

    Args:
        entry: A `catalog.WeightsEntry`.

    Returns:
        The path of the file, or of the same weights from a second publisher. Beside a
        file of the cache stands a `.json` that records its digest, to which it is held
        from then on.

    Raises:
        DownloadError: If no publisher gives the file.
        ValueError: If a file in the cache has changed, or is not what it should be.
    """
    if entry.url is None:
        assets = importlib.resources.files("keras_mixer.catalog").joinpath("assets")
        return assets.joinpath(f"{entry.model}-{entry.tag}.{entry.format}")
    entries = [entry]
    if entry.fallback:
        entries.append(ENTRIES[entry.model, entry.fallback])
    for candidate in entries:
        if cached_path(candidate).exists():
            return _from_cache(candidate)
    problems = []
    for candidate in entries:
        if problems:
            again = f"Trying {candidate.tag!r}, the same weights."
            print(problems[-1], again, file=sys.stderr)
        try:
            return _into_cache(candidate)
        except DownloadError as error:
            problems.append(str(error))
    raise DownloadError(
        f"{' '.join(problems)} Put the file at {cached_path(entry)} yourself, or name "
        "a mirror by the environment variable KERAS_MIXER_WEIGHTS_URL (a base URL that "
        "keeps the original paths)."
    )


def cache_dir():
    """The folder of cached weights: `KERAS_HOME` or `~/.keras`, then `models/...`."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    return pathlib.Path(home) / "models" / "keras_mixer"


def cached_path(entry):
    """Where the file of a `catalog.WeightsEntry` is cached."""
    return cache_dir() / f"{entry.model}-{entry.tag}.{entry.format}"


def mirrored(url):
    """The URL to ask, given `KERAS_MIXER_WEIGHTS_URL`.

    The variable is the base URL of a mirror that keeps the paths of the originals, as
    `wget --force-directories --no-host-directories URL` lays them out.
    """
    mirror = os.environ.get("KERAS_MIXER_WEIGHTS_URL")
    if not mirror:
        return url
    return mirror.rstrip("/") + urllib.parse.urlsplit(url).path


def _from_cache(entry):
    """The cached file, if it is the one recorded, or whole and not recorded yet."""
    path = cached_path(entry)
    expected = _recorded_digest(entry)
    if expected is None:
        _check(path, entry)
        # The cache may be another user's, and is no worse for a record that is missing.
        with contextlib.suppress(OSError):
            _record(entry, "put there by hand", sha256_of(path))
    elif (digest := sha256_of(path)) != expected:
        raise ValueError(
            f"A cached file must not change. Received: {path} with SHA-256 {digest}; "
            f"it had {expected}. Remove it, and it is fetched again."
        )
    return path


def _into_cache(entry):
    path = cached_path(entry)
    lock = filelock.FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise DownloadError(
            f"The cache must be yours to write. Received: {error}. Name a folder of "
            "your own by the environment variable KERAS_HOME."
        ) from error
    try:
        if path.exists():  # another process was sooner
            return _from_cache(entry)
        url, expected = mirrored(entry.url), _recorded_digest(entry)

        def check(part):
            digest = sha256_of(part)
            if expected not in (None, digest):
                raise ValueError(f"its SHA-256 is {digest}, {expected} was expected.")
            _check(part, entry)
            # Before the file has its name: a file without a record is the user's own.
            _record(entry, url, digest)

        download(url, path, check)
        return path
    finally:
        lock.release()


def _check(path, entry):
    check_whole(open_file(path, entry.transform), entry.model, entry.classes)


def _recorded_digest(entry):
    try:
        record = json.loads(cached_path(entry).with_suffix(".json").read_text())
    except (OSError, ValueError):
        return None  # no record, or none that can be read
    digest = record.get("source_sha256") if isinstance(record, dict) else None
    return digest if isinstance(digest, str) else None


def _record(entry, source, digest):
    text = json.dumps({"source": source, "source_sha256": digest}, indent=2)
    with written_whole(cached_path(entry).with_suffix(".json")) as temporary:
        temporary.write_text(text)
