"""Tables on disk: how many rows, which columns, and any range of rows."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dist_dot.errors import DataError, suggestion
from dist_dot.typing import Array


@dataclass(frozen=True)
class Table:
    """A Parquet file, or several that follow each other in the order of their names.

    `files` are fsspec URLs, `rows` their numbers of rows, `schema` the columns. It pickles: workers read from it.
    """

    url: str
    files: tuple[str, ...]
    rows: tuple[int, ...]
    schema: pa.Schema

    @property
    def n_rows(self) -> int:
        """Rows of all files."""
        return sum(self.rows)

    def read(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """Return rows start .. stop of the columns. Reads the row groups that hold them, and no others."""
        schema = pa.schema([self.schema.field(column) for column in columns])
        parts = [schema.empty_table()]
        first = 0
        for file, count in zip(self.files, self.rows, strict=True):
            if first < stop and start < first + count:
                part = _read_rows(file, max(start - first, 0), min(stop - first, count), columns)
                try:
                    parts.append(part.cast(schema))
                except pa.ArrowInvalid as error:
                    raise DataError(f"source {file} holds what the other files cannot: {error}") from None
            first += count
        return pa.concat_tables(parts).combine_chunks()


def open_table(url: str) -> Table:
    """Open a path, a glob or an fsspec URL. Reads the footers only. A file whose name looks like a glob is that file.

    Raises DataError for a source that is not there, is no Parquet, or whose files have different columns, by name or by
    kinds that have none in common.
    """
    try:
        there = os.path.isfile(url)
        opened = fsspec.open_files([url] if there else url, expand=not there)
        files = tuple(sorted(file.full_name for file in opened))
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"source {url}: {error}") from None
    if not files:
        raise DataError(f"source {url}: no such file")
    rows: list[int] = []
    schema: pa.Schema = None
    for file in files:
        try:
            with fsspec.open(file) as handle:
                parquet = pq.ParquetFile(handle)
                rows.append(parquet.metadata.num_rows)
                found = parquet.schema_arrow.remove_metadata()
        except FileNotFoundError:
            raise DataError(f"source {file}: no such file") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"source {file} cannot be read as Parquet: {' '.join(str(error).split())}") from None
        if schema is not None and found.names != schema.names:
            raise DataError(f"source {file} has other columns than {files[0]}")
        try:
            schema = found if schema is None else pa.unify_schemas([schema, found], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(f"source {file} has columns of other kinds than {files[0]}: {error}") from None
    return Table(url, files, tuple(rows), schema)


def require_columns(table: Table, columns: Sequence[str], key: str) -> None:
    """Raise DataError, with the nearest name, for a column that the table does not have."""
    for column in columns:
        if column not in table.schema.names:
            raise DataError(f"unknown column {column!r} in [data] {key}: {suggestion(column, table.schema.names)}")


@dataclass(frozen=True)
class Split:
    """Which rows are held out: a fixed hash of the row's number, so that it depends on nothing else."""

    share: float

    def held(self, start: int, stop: int) -> Array:
        """Return a mask (stop - start,): True where a row is held out."""
        # SplitMix64 (Steele, Lea and Flood, 2014): the output function on the sequence of row numbers.
        x = np.arange(start + 1, stop + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
        return np.asarray((x >> np.uint64(11)).astype(np.float64) * 2.0**-53 < self.share)


@dataclass(frozen=True)
class Part:
    """The rows of a table that are held out, or those that are not, in order, with numbers of their own."""

    split: Split
    is_held: bool
    n_rows: int

    def mask(self, start: int, stop: int) -> Array:
        """Return which of the table's rows start .. stop belong to this part."""
        return np.equal(self.split.held(start, stop), self.is_held)

    def count(self) -> int:
        """Return how many rows belong to this part."""
        return sum(int(self.mask(*chunk).sum()) for chunk in chunks(self.n_rows))

    def positions(self, numbers: Sequence[int]) -> list[int]:
        """Return where in the table the part's rows with these (ascending) numbers are; the end for its length."""
        found: list[int] = []
        wanted = list(numbers)
        before = 0
        for start, stop in chunks(self.n_rows):
            rows = np.flatnonzero(self.mask(start, stop))
            while len(found) < len(wanted) and wanted[len(found)] < before + rows.size:
                found.append(start + int(rows[wanted[len(found)] - before]))
            before += rows.size
        return found + [self.n_rows] * (len(wanted) - len(found))


def chunks(n_rows: int, size: int = 1 << 20) -> list[tuple[int, int]]:
    """Return the ranges that a pass over row numbers goes in, so that it needs little memory."""
    return [(start, min(n_rows, start + size)) for start in range(0, n_rows, size)]


def _read_rows(file: str, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    with fsspec.open(file) as handle:
        # To read ahead takes a thread of Arrow's, which now and then aborts a process that ends soon after.
        parquet = pq.ParquetFile(handle, pre_buffer=not file.startswith("file://"))
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        ends = list(accumulate(sizes))
        groups = [g for g, end in enumerate(ends) if end > start and end - sizes[g] < stop]
        first = ends[groups[0]] - sizes[groups[0]] if groups else 0
        table = parquet.read_row_groups(groups, columns=list(columns), use_threads=False)
        return table.select(list(columns)).slice(start - first, stop - start)
