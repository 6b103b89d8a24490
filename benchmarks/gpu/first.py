"""The first fits of a process, with a cache of compiled kernels that was empty before it, or was not."""

import os
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from benchmarks.gpu.clock import Clock, Record, cases
from benchmarks.gpu.fits import new
from benchmarks.gpu.tables import table

TABLE = "10.5M x 128"


def measure(clock: Clock, quick: bool) -> Iterator[Record]:
    """Yield a record for each estimator."""
    yield from cases(clock, [(first, {"estimator": "LogisticRegression"}), (first, {"estimator": "Ridge"})])


def first(estimator: str) -> Iterator[Record]:
    """Yield the seconds of one fit."""
    cache = "cold" if not any(Path(os.environ["CUPY_CACHE_DIR"]).glob("**/warm")) else "warm"
    rows = table(TABLE)
    begin = perf_counter()
    new(estimator).fit(rows.X, rows.y(estimator))
    taken = perf_counter() - begin
    n, p = rows.X.shape
    yield {"benchmark": "first", "estimator": estimator, "cache": cache, "n": n, "p": p, "seconds": taken}
    if estimator == "Ridge":  # the last one
        (Path(os.environ["CUPY_CACHE_DIR"]) / "warm").touch()
