"""Rows of a list of clips: jsonl, csv or parquet. However a file is made, a row is bounded."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TextIO

#: called with the name of what cannot be used and the reason
Reject = Callable[[str, str], None]

LARGEST_CAPTION = 2**20  # bytes of one caption file, and of one row of a list (CSV: characters)


def read_rows(
    table: Path, format: Literal["jsonl", "csv", "parquet"], reject: Reject
) -> Iterator[tuple[str, Any]]:
    """Every row with its place, `<file>:<line>`; in parquet `<file>:<row>`, from 0.

    `reject` is called for every row that cannot be read; the others follow all the same.
    Raises ValueError, naming the file, where it is not of the format, a row group of parquet is
    damaged or pyarrow is missing.
    """
    return {"jsonl": _jsonl_rows, "csv": _csv_rows, "parquet": _parquet_rows}[format](table, reject)


def _lines(table: Path, reject: Reject) -> Iterator[tuple[str, bytes]]:
    """Lines with their place, longer ones than LARGEST_CAPTION rejected."""
    with open(table, "rb") as stream:
        number = 0
        while line := stream.readline(LARGEST_CAPTION + 1):
            number += 1
            where = f"{table.name}:{number}"
            if len(line) <= LARGEST_CAPTION:
                yield where, line
                continue
            while line and not line.endswith(b"\n"):
                line = stream.readline(LARGEST_CAPTION)
            reject(where, f"line of more than {LARGEST_CAPTION} bytes")


def _jsonl_rows(table: Path, reject: Reject) -> Iterator[tuple[str, Any]]:
    for where, line in _lines(table, reject):
        try:
            text = line.decode("utf-8-sig").strip()
            if text:
                yield where, json.loads(text)
        except (ValueError, RecursionError) as error:
            reject(where, f"not a line of JSON in UTF-8 ({error})")


class _CsvLines:
    """The lines of a CSV for csv.reader, which bounds neither a line nor a row of many lines.

    `left`: characters that the row may still have. `number`: lines given so far.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.number, self.left = 0, LARGEST_CAPTION

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(self.left + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.left -= len(line)
        if self.left >= 0:
            return line
        while line and line[-1] not in "\r\n":
            line = self._stream.readline(LARGEST_CAPTION)
        raise csv.Error(f"more than {LARGEST_CAPTION} characters")


def _csv_rows(table: Path, reject: Reject) -> Iterator[tuple[str, dict[str, str]]]:
    # Bytes that are not UTF-8 become lone surrogates, which `row_source` rejects row by row.
    with open(table, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        csv.field_size_limit(LARGEST_CAPTION)
        lines = _CsvLines(stream)
        reader = csv.reader(lines)
        try:
            names = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{table}: its first row is no row of CSV ({error}): expected the names of the "
                "columns, such as path,caption"
            ) from None
        while names is not None:
            lines.left = LARGEST_CAPTION
            try:
                row = next(reader, None)
            except csv.Error as error:
                reject(f"{table.name}:{lines.number}", f"not a row of CSV ({error})")
                continue
            if row is None:
                return
            if row:
                yield f"{table.name}:{lines.number}", dict(zip(names, row, strict=False))


def _parquet_rows(table: Path, reject: Reject) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError:
        raise ValueError(
            f"{table}: reading parquet needs pyarrow: pip install pyarrow, or save it as "
            "metadata.jsonl"
        ) from None
    damage = (ArrowException, OSError, ValueError)
    try:
        file = parquet.ParquetFile(table)
    except damage as error:
        raise ValueError(f"{table}: not a parquet file ({error})") from None

    def batches() -> Iterator[Any]:
        for group in range(file.num_row_groups):
            try:
                yield from file.iter_batches(batch_size=1024, row_groups=[group])
            except damage as error:
                reason = " ".join(str(error).split())  # it has several lines
                raise ValueError(
                    f"{table}: row group {group + 1} of {file.num_row_groups} cannot be read "
                    f"({reason}): get the file again, or save the other rows as metadata.jsonl"
                ) from None

    number = 0
    with file:
        for batch in batches():
            for index in range(batch.num_rows):
                where = f"{table.name}:{number}"
                number += 1
                try:
                    (row,) = batch.slice(index, 1).to_pylist()
                except (ArithmeticError, ValueError) as error:  # not UTF-8, a date of year 0
                    reject(where, f"cannot be read ({error})")
                    continue
                yield where, row
