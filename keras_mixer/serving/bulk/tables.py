"""Answers as the rows of a table: Parquet, JSON lines, CSV."""

import contextlib
import csv
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from keras_mixer.catalog import check_choice, needs_extra
from keras_mixer.serving.answers import Answer
from keras_mixer.weights import written_whole

FORMATS = ("parquet", "jsonl", "csv")
_ROWS = 10_000  # in memory at a time
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a table looks like.

    Attributes:
        format: `"parquet"`, `"jsonl"` or `"csv"`.
        top_k: How many classes have columns in CSV.
        features: Whether there is a column of embeddings; not in CSV.
    """

    format: str = "parquet"
    top_k: int = 5
    features: bool = False

    def __post_init__(self) -> None:
        check_choice("format", self.format, FORMATS)
        if self.format == "csv" and self.features:
            raise ValueError(
                "Features are lists, which CSV has not. Received: format='csv' with "
                "features. Write Parquet or JSON lines."
            )
        if self.format == "parquet":
            with needs_extra("Parquet files and URLs", "bulk"):
                import pyarrow.parquet  # noqa: F401


def table_writer(file: BinaryIO, layout: Layout) -> Any:
    """Write a table as its rows come.

    Args:
        file: Where to.
        layout: A `Layout`.

    Returns:
        An object with `write(rows)`, which takes pairs of a name and its `Answer`, and
        `close()`. The same rows in the same calls give the same bytes.
    """
    kinds = {"parquet": _Parquet, "jsonl": _JsonLines, "csv": _Csv}
    return kinds[layout.format](file, layout)


def write_table(
    path: str | os.PathLike[str],
    answers: Iterable[tuple[str, Answer]],
    layout: Layout,
) -> None:
    """Write a table of any length, whole or not at all.

    Args:
        path: The file to make or replace.
        answers: Pairs of a name and its answer.
        layout: A `Layout`.

    Raises:
        OSError: If it cannot be written, as on a full disk.
        ValueError: If there is no folder for it.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"There must be a folder for {path}. Received: no {folder}.")
    try:
        with (
            written_whole(path) as temporary,
            open(temporary, "wb") as file,
            contextlib.closing(table_writer(file, layout)) as writer,
        ):
            answers = iter(answers)
            while rows := list(itertools.islice(answers, _ROWS)):
                writer.write(rows)
    except OSError as error:
        if error.errno not in _OF_DISKS:
            raise
        raise OSError(
            f"Answers need a disk that takes them. Received: {error.strerror}, for "
            f"{path}, of which nothing is left."
        ) from error


@dataclasses.dataclass(frozen=True)
class LabelledShard:
    """A finished slice of the images. It can be sent to another process.

    Attributes:
        content: The table, as the bytes of its file.
        rows: How many images it has.
        failed: How many of them have a reason and no classes.
        failures: The first ten of these, as pairs of name and reason.
        first: Name of its first image.
        last: Name of its last image.
        names: SHA-256 of the names.
    """

    content: bytes
    rows: int
    failed: int
    failures: tuple[tuple[str, str], ...]
    first: str
    last: str
    names: str

    @classmethod
    def of(
        cls, answers: Iterable[tuple[str, Answer]], layout: Layout
    ) -> "LabelledShard":
        """Make it of what `label` gives: the same answers give the same bytes.

        Args:
            answers: Pairs of a name and its answer, at least one.
            layout: What the table looks like.

        Returns:
            A `LabelledShard`.
        """
        rows = list(answers)
        file = io.BytesIO()
        with contextlib.closing(table_writer(file, layout)) as writer:
            writer.write(rows)
        failures = [(name, answer.error) for name, answer in rows if answer.error]
        return cls(
            content=file.getvalue(),
            rows=len(rows),
            failed=len(failures),
            failures=tuple(failures[:10]),
            first=rows[0][0],
            last=rows[-1][0],
            names=names_digest(name for name, _ in rows),
        )


def names_digest(names: Iterable[str]) -> str:
    """SHA-256 of names in their order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8") + b"\0")
    return digest.hexdigest()


def read_names(content: BinaryIO, layout: Layout) -> Iterator[str]:
    """The names in a table, in their order."""
    if layout.format == "parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(content, columns=["path"])
        yield from table.column("path").to_pylist()
        return
    lines = io.TextIOWrapper(content, encoding="utf-8", newline="")
    if layout.format == "jsonl":
        yield from (json.loads(line)["path"] for line in lines)
    else:
        yield from (row["path"] for row in csv.DictReader(lines))


class _Parquet:
    def __init__(self, file, layout):
        import pyarrow
        import pyarrow.parquet

        columns = {"path": pyarrow.string(), **columns_of(layout.features)}
        self._schema = pyarrow.schema(list(columns.items()))
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema)

    def write(self, rows: Iterable[tuple[str, Answer]]) -> None:
        import pyarrow

        columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        for name, answer in rows:
            for column, value in row_of(name, answer, "features" in columns).items():
                columns[column].append(value)
        table = pyarrow.table(columns, self._schema)
        self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()


class _JsonLines:
    def __init__(self, file, layout):
        self._file = file
        self._features = layout.features

    def write(self, rows: Iterable[tuple[str, Answer]]) -> None:
        for name, answer in rows:
            row = row_of(name, answer, self._features)
            row["scores"] = [_shortest(score) for score in row["scores"]]
            if row.get("features") is not None:
                row["features"] = [_shortest(value) for value in row["features"]]
            line = json.dumps(row, ensure_ascii=False) + "\n"
            self._file.write(line.encode("utf-8"))

    def close(self) -> None:
        pass


class _Csv:
    def __init__(self, file, layout):
        self._file = file
        self._top_k = layout.top_k
        numbers = range(1, self._top_k + 1)
        header = [f"{of}_{n}" for n in numbers for of in ("class", "label", "score")]
        self._write([["path", "valid", "reason", *header]])

    def write(self, rows: Iterable[tuple[str, Answer]]) -> None:
        lines = []
        for name, answer in rows:
            is_valid = "false" if answer.error else "true"
            line = [name, is_valid, answer.error or ""]
            for guess in answer.guesses:
                line += [*guess[:2], _shortest(guess[2])]
            lines.append(line + [""] * (3 + 3 * self._top_k - len(line)))
        self._write(lines)

    def _write(self, lines):
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(lines)
        self._file.write(text.getvalue().encode("utf-8"))

    def close(self) -> None:
        pass


def columns_of(features: bool) -> dict[str, Any]:
    """Names and Arrow types of the columns of an answer."""
    import pyarrow

    text, numbers = pyarrow.string(), pyarrow.list_(pyarrow.float32())
    columns = {
        "valid": pyarrow.bool_(),
        "reason": text,
        "classes": pyarrow.list_(text),
        "labels": pyarrow.list_(text),
        "scores": numbers,
    }
    return columns | {"features": numbers} if features else columns


def row_of(name: str, answer: Answer, features: bool) -> dict[str, Any]:
    """An answer by the names of columns."""
    columns = zip(*answer.guesses, strict=True) if answer.guesses else ((), (), ())
    classes, labels, scores = map(list, columns)
    row = {
        "path": name,
        "valid": answer.error is None,
        "reason": answer.error,
        "classes": classes,
        "labels": labels,
        "scores": scores,
    }
    return row | {"features": answer.features} if features else row


def _shortest(value):
    """The shortest decimal that is the same float32."""
    return float(str(np.float32(value)))
