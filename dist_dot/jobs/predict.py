"""A model and a table -> a table of predictions, read and multiplied where the workers are, written in order here."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dist_dot.blocks.block import cut
from dist_dot.errors import DataError, JobError, suggestion
from dist_dot.jobs.features import check_kind, check_values
from dist_dot.jobs.model import Model
from dist_dot.jobs.sources import Table, open_table
from dist_dot.typing import Array

AHEAD = 4  # ranges of rows for each thread that are on their way at a time


@dataclass(frozen=True)
class Predicted:
    """What was written: the number of rows, and of those with a category that the model has not seen, by column."""

    rows: int
    unseen: dict[str, int]


@dataclass(frozen=True)
class _Predict:
    """Rows start .. stop -> the table to write of them, and how many have an unseen value of each category."""

    model: Model
    table: Table
    keep: tuple[str, ...]

    def __call__(self, rows: tuple[int, int]) -> tuple[pa.Table, Array]:
        encoding = self.model.encoding
        part = self.table.read(*rows, tuple(dict.fromkeys((*self.keep, *encoding.columns))))
        for name in encoding.columns:
            check_values(part.column(name), name, rows[0])
        unseen = [np.sum(encoding.codes(part, category) < 0) for category in encoding.categorical]
        written = part.select(list(self.keep))
        mean = self.model.predict(part)
        columns = [mean]
        if encoding.target is not None:
            values = pa.array(encoding.target.values)
            columns = [values.take(pa.array(np.argmax(mean, axis=1))), *mean.T]
        for name, column in zip(written_columns(self.model), columns, strict=True):
            written = written.append_column(name, pa.array(column))
        return written, np.array(unseen, int)


def predict_table(
    model: Model, source: str, out: str, keep: Sequence[str], client: Any, watch: Callable[[int, int], None]
) -> Predicted:
    """Write the model's predictions for a source (a path, a glob or an fsspec URL) to the Parquet file `out`.

    That has one row for each of the source's, in order, with the columns to keep and those of `written_columns`, and is
    there whole or not at all. watch is called with the rows done and of all. The memory that it takes does not grow
    with the rows. Raises DataError for a source without the model's columns, with other kinds of them, or with values
    missing, and JobError for a file that cannot be written.
    """
    table = open_table(source)
    _check_columns(model, table, keep)
    if client is not None:
        from dist_dot.jobs.preflight import check_cluster

        check_cluster(client, sorted({table.files[0], table.files[-1]}))
    cuts = cut(table.n_rows, max(1, len(model.encoding.names)), "float64")
    ranges = [cuts.bounds(number) for number in range(cuts.n_blocks)]
    predict = _Predict(model, table, tuple(dict.fromkeys(keep)))
    done, unseen = 0, np.zeros(len(model.encoding.categorical), int)
    with _written(out) as file:
        writer = None
        for part, of_part in _each(predict, ranges, client):
            writer = writer or pq.ParquetWriter(file, part.schema)
            writer.write_table(part)
            done, unseen = done + part.num_rows, unseen + of_part
            watch(done, table.n_rows)
        if writer is not None:
            writer.close()
    names = (category.name for category in model.encoding.categorical)
    return Predicted(done, {name: int(count) for name, count in zip(names, unseen, strict=True) if count})


def written_columns(model: Model) -> list[str]:
    """Return the names of what is predicted: the mean of the target, or the likeliest class and those of all."""
    classes = () if model.encoding.target is None else model.encoding.target.values
    return ["prediction", *(f"probability_{value}" for value in classes)]


def _check_columns(model: Model, table: Table, keep: Sequence[str]) -> None:
    for column in (*model.encoding.columns, *keep):
        if column not in table.schema.names:
            near = suggestion(column, table.schema.names)
            raise DataError(f"source {table.url} has no column {column!r}: {near}")
    for column in set(keep).intersection(written_columns(model)):
        raise JobError(f"the column {column!r} cannot be kept: it is what is written")
    for number in model.encoding.numeric:
        check_kind(table.schema.field(number.name), "numeric", False)
    for category in model.encoding.categorical:
        field = table.schema.field(category.name)
        check_kind(field, "categorical", True)
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        whole = pa.types.is_integer(kind)
        if category.values and whole != isinstance(category.values[0], int):
            learned = "whole numbers" if not whole else "words"
            raise DataError(f"column {category.name!r} holds {kind}: the model has learned from {learned}")


def _each(function: Callable[[Any], Any], items: Sequence[Any], client: Any) -> Iterator[Any]:
    """Yield function(item) in order, some at a time: on the client's cluster, or in threads of this process."""
    if client is None:
        threads = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(threads, thread_name_prefix="dist-dot") as pool:
            for batch in _batches(items, AHEAD * threads):
                yield from pool.map(function, batch)
        return
    from dist_dot.blocks.cluster import gather

    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    threads = max(1, sum(worker["nthreads"] for worker in workers))
    for batch in _batches(items, AHEAD * threads):
        yield from gather(client, client.map(function, batch, pure=False))


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


@contextmanager
def _written(out: str) -> Iterator[Any]:
    """Open a file or URL for writing; what was there before is replaced at the end, if nothing is raised."""
    try:
        if "://" in out:
            files, path = fsspec.core.url_to_fs(out)
            file, temporary = files.open(path, "wb", autocommit=False), None
        else:
            temporary = Path(out).with_name(f".{Path(out).name}.{os.getpid()}")
            file = open(temporary, "wb")  # noqa: SIM115 - closed below, before it is moved
    except (OSError, ValueError, ImportError) as error:
        raise JobError(f"{out} cannot be written: {error}") from None
    try:
        yield file
        file.close()
    except BaseException:
        file.close()
        temporary.unlink() if temporary else file.discard()
        raise
    os.replace(temporary, out) if temporary else file.commit()
