"""A model and a table -> a table of predictions, read and multiplied where the workers are, written in order here."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dist_dot.errors import DataError, JobError, WriteError, suggestion
from dist_dot.jobs.features import check_kind, check_values
from dist_dot.jobs.model import Model
from dist_dot.jobs.sources import Table, check_once, chunks, of_source, open_table
from dist_dot.kernels.blas import one_blas_thread
from dist_dot.rows.arrays import cores
from dist_dot.typing import Array

SUFFIXES = ("", ".parquet", ".parq", ".pq")  # of names that say nothing else than Parquet
RANGE = 64 << 20  # bytes of the rows that are read, encoded and predicted at a time


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
        words = {category.name for category in encoding.categorical}
        for name in encoding.columns:
            check_values(part.column(name), name, rows[0], name in words)
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
    with of_source(source):
        return _predict_table(model, open_table(source), out, keep, client, watch)


def _predict_table(
    model: Model, table: Table, out: str, keep: Sequence[str], client: Any, watch: Callable[[int, int], None]
) -> Predicted:
    _check_columns(model, table, keep)
    if client is not None:
        from dist_dot.jobs.preflight import check_cluster

        check_cluster(client, sorted({table.files[0], table.files[-1]}))
    _check_out(out, table)
    predict = _Predict(model, table, tuple(dict.fromkeys(keep)))
    width = len(model.encoding.names) + len(predict.keep) + len(written_columns(model))
    ranges = chunks(table.n_rows, max(1, RANGE // (8 * width)))
    done, unseen = 0, np.zeros(len(model.encoding.categorical), int)
    with _written(out, predict((0, 0))[0].schema) as write:
        for part, of_part in _each(predict, ranges, client):
            write(part)
            done, unseen = done + part.num_rows, unseen + of_part
            watch(done, table.n_rows)
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
    check_once(table, (*model.encoding.columns, *keep))
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
            learned = "words" if whole else "whole numbers"
            raise DataError(f"column {category.name!r} of {table.url} holds {kind}: the model knows it as {learned}")


def _each(function: Callable[[Any], Any], items: Sequence[Any], client: Any) -> Iterator[Any]:
    """Yield function(item) in order, some ahead: on the client's cluster, or in threads of this process."""
    if client is None:
        threads = cores()
        pool = ThreadPoolExecutor(threads, "dist-dot")
        try:
            with one_blas_thread():
                yield from _ahead(lambda item: pool.submit(function, item), lambda done: done.result(), items, threads)
        finally:
            pool.shutdown(wait=False)  # whoever was interrupted does not wait for ranges that nobody wants
        return
    from dist_dot.jobs.preflight import workers_of
    from dist_dot.rounds.cluster import gather

    threads = max(1, sum(worker["nthreads"] for worker in workers_of(client).values()))
    submit = partial(client.submit, function, pure=False)
    yield from _ahead(submit, lambda future: gather(client, [future])[0], items, threads)


def _ahead(submit: Callable[[Any], Any], result: Callable[[Any], Any], items: Iterable[Any], n: int) -> Iterator[Any]:
    """Yield the results of submitted items, of which two for each of n threads are on their way at a time."""
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(submit(item))
            if len(waiting) > 2 * n:
                yield result(waiting.popleft())
        while waiting:
            yield result(waiting.popleft())
    finally:
        for future in waiting:
            future.cancel()


def _check_out(out: str, table: Table) -> None:
    """Refuse to write over what is read, where nothing can be written, and under the name of another format."""
    files, path = _place(out)
    name, suffix = os.path.splitext(path)
    if suffix.lower() not in SUFFIXES:
        raise JobError(f"{out} would be Parquet, and its name says {suffix}: give {os.path.basename(name)}.parquet")
    try:
        folder, there = files.isdir(path), os.path.realpath(path)
    except Exception as error:  # whatever a store raises
        raise JobError(f"{out} cannot be written: {error}") from None
    if folder:
        raise JobError(f"{out} cannot be written: it is a folder")
    read = {fsspec.core.url_to_fs(file)[1] for file in table.files}
    if path in read or there in map(os.path.realpath, read):
        raise JobError(f"{out} cannot be written: it is what is read")


def _place(out: str) -> tuple[Any, str]:
    try:
        files, path = fsspec.core.url_to_fs(out)
    except Exception as error:  # whatever a store raises
        raise JobError(f"{out} cannot be written: {error}") from None
    return files, path


@contextmanager
def _written(out: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Write tables to a Parquet file beside `out`, which takes its place at the end, if nothing is raised.

    Raises JobError where there can be no such file, WriteError where it cannot be written on.
    """
    files, path = _place(out)
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{uuid4().hex}")
    try:
        file = files.open(temporary, "wb")
    except Exception as error:  # whatever a store raises
        raise JobError(f"{out} cannot be written: {error}") from None
    ends: list[Callable[[], object]] = [file.close, lambda: files.rm(temporary)]
    try:
        with WriteError.naming(out):
            writer = pq.ParquetWriter(file, schema)
        ends.insert(0, writer.close)

        def write(rows: pa.Table) -> None:
            with WriteError.naming(out):
                writer.write_table(rows)

        yield write
        with WriteError.naming(out):
            writer.close()
            file.close()
            files.mv(temporary, path)
    except BaseException:
        for end in ends:
            with suppress(Exception):
                end()
        raise
