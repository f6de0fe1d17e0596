"""Fetching published files into the cache: whole, checked, once."""

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import filelock
import tqdm

from keras_mixer.weights.files import written_whole

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30
RETRY_DELAYS_S = (1, 2, 4)
RETRIED_STATUS = {408, 416, 429, 500, 502, 503, 504}


class DownloadError(ValueError):
    """A file could not be fetched; the message names the ways out."""


def cache_dir():
    """The folder of cached weights: `KERAS_HOME` or `~/.keras`, then `models/...`."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    return pathlib.Path(home) / "models" / "keras_mixer"


def cached_path(entry):
    """Where the ported weights of a `catalog.WeightsEntry` are cached."""
    return cache_dir() / f"{entry.model}-{entry.tag}.weights.h5"


def cached(entry, port):
    """Fetch and port a catalogue entry once, and hold it to its digests.

    Args:
        entry: A `catalog.WeightsEntry`.
        port: A function of two paths, the published file and the `.weights.h5` to
            write.

    Returns:
        The path of the `.weights.h5`. Beside it stands a `.json` that records the
        digests; the published file is removed, unless the user put it there.

    Raises:
        DownloadError: If the file cannot be fetched or is not the one expected.
        ValueError: If a file in the cache has changed, or is not what it should be.
    """
    weights_path = cached_path(entry)
    stem = weights_path.with_name(f"{entry.model}-{entry.tag}")
    source_path = pathlib.Path(f"{stem}.{entry.format}")
    record_path = pathlib.Path(f"{stem}.json")
    with locked(weights_path):
        record = json.loads(record_path.read_text()) if record_path.exists() else {}
        if weights_path.exists():
            _hold_to(weights_path, record.get("weights_sha256"))
            return weights_path
        expected = entry.sha256 or record.get("source_sha256")
        put_by_hand = source_path.exists()
        if put_by_hand:
            _hold_to(source_path, expected)
        else:
            fetch(entry.url, source_path, sha256=expected, size_bytes=entry.size_bytes)
        try:
            with written_whole(weights_path) as temporary:
                port(source_path, temporary)
                record = {
                    "source": "put there by hand"
                    if put_by_hand
                    else mirrored(entry.url),
                    "source_sha256": sha256_of(source_path),
                    "weights_sha256": sha256_of(temporary),
                }
                with written_whole(record_path) as temporary_record:
                    temporary_record.write_text(json.dumps(record, indent=2))
        finally:
            # What was fetched has done its work, or is not what it should be.
            if not put_by_hand:
                source_path.unlink(missing_ok=True)
        return weights_path


def _hold_to(path, expected):
    if expected is not None and (digest := sha256_of(path)) != expected:
        raise ValueError(
            f"A cached file must not change. Received: {path} with SHA-256 {digest}; "
            f"it had {expected}. Remove it, and it is fetched again."
        )


def mirrored(url):
    """The URL to ask, given `KERAS_MIXER_WEIGHTS_URL`.

    The variable is the base URL of a mirror that keeps the paths of the originals, as
    `wget --force-directories --no-host-directories URL` lays them out.
    """
    mirror = os.environ.get("KERAS_MIXER_WEIGHTS_URL")
    if not mirror:
        return url
    return mirror.rstrip("/") + urllib.parse.urlsplit(url).path


@contextlib.contextmanager
def locked(path):
    """Hold the lock of a cached file, so that two processes make it once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        yield


def sha256_of(path):
    """The SHA-256 digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(url, path, *, sha256=None, size_bytes=None):
    """Fetch a URL into a file: resumed if cut, retried if the server stumbles.

    Args:
        url: An http or https URL; `KERAS_MIXER_WEIGHTS_URL` redirects it to a mirror.
        path: Where the file goes, whole or not at all. What arrived of a cut download
            waits beside it as `NAME.part`.
        sha256: The digest to hold the file to, or None.
        size_bytes: The size to hold the file to, or None.

    Raises:
        DownloadError: If the file cannot be fetched or is not the one expected.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    asked = mirrored(url)
    for delay in (*RETRY_DELAYS_S, None):
        try:
            _fetch_once(asked, part)
            break
        except urllib.error.HTTPError as error:
            problem, passing = (
                f"HTTP {error.code} {error.reason}",
                (error.code in RETRIED_STATUS),
            )
            error.close()
        except (OSError, http.client.HTTPException) as error:
            # ENOSPC and the like are the local disk's, and waiting does not mend them.
            problem = str(error) or type(error).__name__
            passing = getattr(error, "filename", None) is None and not _disk_full(error)
        if delay is None or not passing:
            raise DownloadError(_advice(asked, path, problem))
        print(f"{problem}; trying again in {delay} s", file=sys.stderr)
        time.sleep(delay)
    _validator_file(part).unlink(missing_ok=True)
    received = part.stat().st_size
    problem = None
    if size_bytes is not None and received != size_bytes:
        problem = f"{received} bytes came, {size_bytes} were expected"
    elif sha256 is not None and (digest := sha256_of(part)) != sha256:
        problem = f"its SHA-256 is {digest}, {sha256} was expected"
    if problem:
        part.unlink()
        raise DownloadError(_advice(asked, path, problem))
    os.replace(part, path)


def _fetch_once(url, part):
    validator_file = _validator_file(part)
    headers = {"User-Agent": "keras-mixer"}
    start = 0
    if part.exists() and validator_file.exists():
        # Only what the server confirms to be a piece of the same file is kept.
        start = part.stat().st_size
        headers["Range"] = f"bytes={start}-"
        headers["If-Range"] = validator_file.read_text()
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send, or the file is shorter now
            part.unlink()
        raise
    with response:
        resumed = response.status == 206
        if not resumed:
            start = 0
            part.unlink(missing_ok=True)
            validator = response.headers.get("ETag") or response.headers.get(
                "Last-Modified"
            )
            validator_file.unlink(missing_ok=True)
            if validator and not validator.startswith("W/"):
                validator_file.write_text(validator)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        if total and shutil.disk_usage(part.parent).free < total - start:
            raise OSError(28, f"No space left on device for {total - start} bytes")
        with (
            open(part, "ab") as file,
            tqdm.tqdm(
                desc=f"Downloading {url.rsplit('/', 1)[1]}",
                total=total,
                initial=start,
                unit="B",
                unit_scale=True,
            ) as progress,
        ):
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                progress.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
            arrived = file.tell()
    if total is not None and arrived != total:
        raise http.client.IncompleteRead(b"", total - arrived)


def _validator_file(part):
    return part.with_name(part.name + ".etag")


def _disk_full(error):
    return getattr(error, "errno", None) == 28


def _advice(url, path, problem):
    return (
        f"Cannot fetch {url}: {problem}. "
        f"Put the file at {path} yourself, or name a mirror by the environment "
        "variable KERAS_MIXER_WEIGHTS_URL (a base URL that keeps the original paths)."
    )
