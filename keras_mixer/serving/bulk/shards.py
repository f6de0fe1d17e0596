"""A folder of numbered tables that a stopped run goes on with.

The list of images is cut into slices of `shard_size`. A slice is labelled by itself,
and its table appears whole or not at all. `_manifest.json` says what is done, of what
model and of which images. It is written anew after each shard, and holds no time of
day: the files of a run that was killed and went on are those of one that was not, byte
for byte.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import filelock

from keras_mixer.catalog import check_positive
from keras_mixer.data.collections import Record
from keras_mixer.serving.bulk.tables import (
    LabelledShard,
    Layout,
    names_digest,
    read_names,
)
from keras_mixer.weights import written_whole

_MANIFEST = "_manifest.json"  # readers of a folder of Parquet leave it out


class Shards:
    """The folder of a run, held by one process at a time.

    Use it as a context: go through `pending`, `write` what that gives, in any order.

    Args:
        folder: Path of the folder; it is made if it is missing.
        settings: What decides what is written: the model, its precision and the like,
            by name, as JSON holds it. A run goes on with the same ones alone.
        layout: What the tables look like.
        shard_size: How many images a table has.

    Raises:
        ValueError: If the folder is another run's, or holds other files.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        settings: dict[str, Any],
        layout: Layout,
        shard_size: int = 10_000,
    ) -> None:
        check_positive("shard_size", shard_size)
        self._folder = pathlib.Path(folder)
        self._layout = layout
        self._shard_size = shard_size
        self._settings = {
            **settings,
            **dataclasses.asdict(layout),
            "shard_size": shard_size,
        }
        self._done: dict[int, dict[str, Any]] = {}
        self._complete = False
        self._lock = filelock.FileLock(self._folder / ".lock", timeout=0)

    @property
    def rows(self) -> int:
        """How many images are written."""
        return sum(entry["rows"] for entry in self._done.values())

    @property
    def failed(self) -> int:
        """How many of them have a reason and no classes."""
        return sum(entry["failed"] for entry in self._done.values())

    def __enter__(self) -> "Shards":
        if self._folder.exists() and not self._folder.is_dir():
            raise ValueError(
                f"--output must be a folder, or end in .parquet, .jsonl or .csv. "
                f"Received: the file {self._folder}."
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise ValueError(
                "One run at a time writes to a folder. Received: "
                f"{self._folder}, to which another one is writing."
            ) from error
        except (OSError, NotImplementedError):
            pass  # a file system without locks
        try:
            self._read()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def pending(self, records: Iterable[Record]) -> Iterator[tuple[int, list[Record]]]:
        """Go through the images, and give what is not done yet, slice by slice.

        Args:
            records: All images, from the first.

        Returns:
            An iterator of pairs: the number of a shard, and its records.

        Raises:
            ValueError: If the images of a finished shard are others now.
        """
        records = iter(records)
        for number in itertools.count():
            part = list(itertools.islice(records, self._shard_size))
            entry = self._done.get(number)
            if entry is not None:
                self._check_names(number, entry, [record.name for record in part])
            elif part:
                yield number, part
            if len(part) < self._shard_size:
                break
        for beyond in sorted(self._done):
            if beyond > number:
                self._check_names(beyond, self._done[beyond], [])

    def write(self, number: int, shard: LabelledShard) -> None:
        """Write a shard's table, then that it is done.

        Args:
            number: The shard's number, as `pending` gave it.
            shard: What was made of its records.

        Raises:
            OSError: If it cannot be written, as on a full disk. What is written stays.
        """
        path = self._path(number)
        try:
            with written_whole(path) as temporary:
                temporary.write_bytes(shard.content)
        except OSError as error:
            raise self._stopped(path, error) from error
        entry = {
            "file": path.name,
            "rows": shard.rows,
            "failed": shard.failed,
            "first": shard.first,
            "last": shard.last,
            "names": shard.names,
            "bytes": len(shard.content),
            "sha256": hashlib.sha256(shard.content).hexdigest(),
        }
        done = {**self._done, number: entry}
        self._write_manifest(done, complete=False)
        self._done = done

    def finish(self) -> None:
        """Say that all images are done."""
        if not self._complete:
            self._write_manifest(self._done, complete=True)
            self._complete = True

    def _path(self, number):
        return self._folder / f"answers-{number:05d}.{self._layout.format}"

    def _write_manifest(self, done, complete):
        shards = [done[number] for number in sorted(done)]
        manifest = {
            "settings": self._settings,
            "complete": complete,
            "images": sum(entry["rows"] for entry in shards),
            "failed": sum(entry["failed"] for entry in shards),
            "shards": shards,
        }
        path = self._folder / _MANIFEST
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        try:
            with written_whole(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise self._stopped(path, error) from error

    def _stopped(self, path, error):
        return OSError(
            f"Answers need a disk that takes them. Received: {error.strerror}, for "
            f"{path}. What is in {self._folder} stays; the same command goes on."
        )

    def _read(self):
        path = self._folder / _MANIFEST
        if not path.exists():
            others = [p.name for p in self._folder.iterdir() if p.name[0] != "."]
            if others:
                raise ValueError(
                    "--output must be a new folder, or that of a run to go on with. "
                    f"Received: {self._folder}, which has no {_MANIFEST} but holds "
                    f"{sorted(others)[0]}."
                )
            self._write_manifest({}, complete=False)
            return
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            before, shards = manifest["settings"], manifest["shards"]
            done = {int(e["file"].split("-")[1].split(".")[0]): e for e in shards}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(
                f"A manifest must be one that a run wrote. Received: {path}, which "
                "cannot be read. Name another folder."
            ) from error
        now = json.loads(json.dumps(self._settings))
        if before != now:
            differences = [
                f"{name}: {_json(before.get(name))} there, {_json(now.get(name))} here"
                for name in sorted({*before, *now})
                if before.get(name) != now.get(name)
            ]
            raise ValueError(
                f"A folder has the answers of one run. Received: {self._folder}, which "
                f"was begun otherwise ({'; '.join(differences)}). Name another folder, "
                "or run what it was begun with."
            )
        self._complete = bool(manifest.get("complete"))
        for number, entry in done.items():
            # A table that is gone, or cut, is written again.
            with contextlib.suppress(OSError):
                if self._path(number).stat().st_size == entry["bytes"]:
                    self._done[number] = entry
        if len(self._done) < len(done):
            self._complete = False

    def _check_names(self, number, entry, names):
        if len(names) == entry["rows"] and names_digest(names) == entry["names"]:
            return
        start = number * self._shard_size
        with open(self._path(number), "rb") as file:
            before = list(read_names(file, self._layout))
        pairs = itertools.zip_longest(before, names)
        place, (old, new) = next(
            (place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1]
        )
        raise ValueError(
            "A run goes on with the images that it was begun with. Received: "
            f"{self._folder}, whose image {start + place + 1:,} is "
            f"{old or 'none'}, where it is {new or 'none'} now. Name another folder, "
            "or the same images."
        )


def _json(value):
    return json.dumps(value, ensure_ascii=False)
