"""A published file over HTTP: resumed if cut, retried if the server stumbles."""

import hashlib
import http.client
import os
import pathlib
import re
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request

import tqdm

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30
RETRY_DELAYS_S = (1, 2, 4)
RETRIED_STATUS = {408, 416, 429, 500, 502, 503, 504}


class DownloadError(ValueError):
    """A file could not be fetched; the message names the ways out."""


def sha256_of(path):
    """The SHA-256 digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def download(url, path, check):
    """Fetch a URL into a file.

    Args:
        url: An http or https URL.
        path: Where the file goes, whole or not at all, into a folder that exists. What
            arrived of a cut download waits beside it as `NAME.part`.
        check: A function that is given the path of what arrived, and raises a
            ValueError if it is not what was expected; then it is removed.

    Raises:
        DownloadError: If the file cannot be fetched or is not the one expected.
    """
    path = pathlib.Path(path)
    part = path.with_name(path.name + ".part")
    for delay in (*RETRY_DELAYS_S, None):
        try:
            _fetch_once(url, part)
            break
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {error.reason}"
            passing = error.code in RETRIED_STATUS
            error.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            problem = str(reason) or type(reason).__name__
            # What is the local disk's, the URL's or the network's is not mended by
            # waiting.
            passing = not (
                getattr(error, "filename", None)
                or getattr(error, "errno", None) == 28
                or isinstance(error, ValueError)
                or isinstance(reason, socket.gaierror)
            )
        if delay is None or not passing:
            raise DownloadError(f"Cannot fetch {url}: {problem}.")
        print(f"{problem}; trying again in {delay} s", file=sys.stderr)
        time.sleep(delay)
    _validator_file(part).unlink(missing_ok=True)
    try:
        check(part)
    except ValueError as error:
        part.unlink()
        raise DownloadError(
            f"{url} gave another file than the one expected: {error}"
        ) from error
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
        if response.status == 200:
            start = 0
            _start_anew(part, response.headers)
        elif not _continues(response, start, asked="Range" in headers):
            part.unlink(missing_ok=True)
            piece = response.headers.get("Content-Range", "no Content-Range")
            raise http.client.HTTPException(
                f"HTTP {response.status} with {piece} is not what was asked for"
            )
        if response.length is None and not response.chunked:
            raise http.client.HTTPException(
                "the server does not say how long the file is"
            )
        total = None if response.length is None else start + response.length
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


def _start_anew(part, headers):
    part.unlink(missing_ok=True)
    validator_file = _validator_file(part)
    validator_file.unlink(missing_ok=True)
    validator = headers.get("ETag") or headers.get("Last-Modified")
    if validator and not validator.startswith("W/"):
        validator_file.write_text(validator)


def _continues(response, start, asked):
    """Whether the answer is the rest of the file, from `start` to its end."""
    piece = re.fullmatch(
        r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "")
    )
    if response.status != 206 or not asked or piece is None:
        return False
    first, last, total = map(int, piece.groups())
    return (first, last, response.length) == (start, total - 1, total - start)


def _validator_file(part):
    return part.with_name(part.name + ".etag")
