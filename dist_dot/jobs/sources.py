"""Tables on disk: how many rows, which columns, and any range of rows."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
        """Return rows start .. stop of the columns. Reads the row groups that hold them, and no others.

        Raises DataError for a file that is damaged there, or has changed since it was opened.
        """
        schema = pa.schema([self.schema.field(column) for column in columns])
        parts = [schema.empty_table()]
        first = 0
        for file, count in zip(self.files, self.rows, strict=True):
            if first < stop and start < first + count:
                part = _read_rows(file, max(start - first, 0), min(stop - first, count), columns)
                try:
                    parts.append(part.cast(schema))
                except pa.ArrowException as error:
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
    except Exception as error:  # whatever a store raises
        raise DataError(f"source {url}: {_said(error)}") from None
    if not files:
        raise DataError(f"source {url}: no such file")
    rows: list[int] = []
    schema: pa.Schema = None
    for file in files:
        try:
            with _named(file), fsspec.open(file) as handle:
                parquet = pq.ParquetFile(handle)
                rows.append(_count(parquet, file))
                found = parquet.schema_arrow.remove_metadata()
        except FileNotFoundError:
            raise DataError(f"source {file}: no such file") from None
        except OSError as error:
            raise DataError(f"source {file} cannot be read as Parquet: {error.strerror}") from None
        if schema is not None and found.names != schema.names:
            raise DataError(f"source {file} has other columns than {files[0]}")
        try:
            schema = found if schema is None else pa.unify_schemas([schema, found], promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(f"source {file} has columns of other kinds than {files[0]}: {error}") from None
    return Table(url, files, tuple(rows), schema)


@contextmanager
def of_source(url: str) -> Iterator[None]:
    """Have a DataError say which table it is of, where it does not."""
    try:
        yield
    except DataError as error:
        if url in str(error):
            raise
        raise DataError(f"source {url}: {error}") from error


def require_columns(table: Table, columns: Sequence[str], key: str) -> None:
    """Raise DataError for a column that the table does not have, with the nearest name, or has twice."""
    for column in columns:
        if column not in table.schema.names:
            raise DataError(f"unknown column {column!r} in [data] {key}: {suggestion(column, table.schema.names)}")
    check_once(table, columns)


def check_once(table: Table, columns: Sequence[str]) -> None:
    """Raise DataError for a column of the table whose name another one has too."""
    for column in columns:
        if table.schema.names.count(column) > 1:
            raise DataError(f"source {table.url} has several columns {column!r}: give them names of their own")


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


def _count(parquet: pq.ParquetFile, file: str) -> int:
    """Return the rows of a file. Raises DataError where its footer contradicts itself."""
    footer = parquet.metadata
    parts = [footer.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    if footer.num_rows != sum(parts) or min(parts, default=0) < 0:
        raise DataError(f"source {file} is damaged: it says that it has {footer.num_rows} rows, its parts {sum(parts)}")
    return sum(parts)


@contextmanager
def _named(file: str) -> Iterator[None]:
    """Raise DataError, with the file, for what cannot be read as Parquet; what the system says keeps its kind."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # whatever Arrow, or a store, raises
        if isinstance(error, OSError) and error.errno is not None:
            raise type(error)(error.errno, error.strerror, file) from error
        raise DataError(f"source {file} cannot be read as Parquet: {_said(error)}") from None


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _read_rows(file: str, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    with _named(file), fsspec.open(file) as handle:
        # To read ahead takes a thread of Arrow's, which now and then aborts a process that ends soon after.
        parquet = pq.ParquetFile(handle, pre_buffer=not file.startswith("file://"), page_checksum_verification=True)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        ends = list(accumulate(sizes))
        groups = [g for g, end in enumerate(ends) if end > start and end - sizes[g] < stop]
        first = ends[groups[0]] - sizes[groups[0]] if groups else 0
        table = parquet.read_row_groups(groups, columns=list(columns), use_threads=False)
        part = table.select(list(columns)).slice(start - first, stop - start)
        if part.num_rows != stop - start:
            raise DataError(f"source {file} is damaged, or has changed: rows {start:,} .. {stop - 1:,} are not there")
        return part
