"""The same fits on the processors of the same machine, by dist_dot's CPU path, and how far they are from the card's."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.clock import Clock, Record, cases
from benchmarks.gpu.fits import new
from benchmarks.gpu.tables import ESTIMATORS, Table, fit_times, gradient_size, record, table


def measure(clock: Clock, quick: bool) -> Iterator[Record]:
    """Yield a record for each of two tables and each estimator."""
    small = np.random.default_rng(0).standard_normal((1000, 100), dtype="float32")
    for estimator in ESTIMATORS:  # compiles
        new(estimator).fit(small, (small[:, 0] > 0).astype("int64"))
    yield from cases(clock, [(fits, {"name": name, "clock": clock}) for name in ("1M x 100", "10.5M x 128")])


def fits(name: str, clock: Clock) -> Iterator[Record]:
    """Yield a record for each estimator."""
    import cupy

    rows = table(name)
    X = cupy.asnumpy(rows.X)
    words = {"name": name, "rows": rows, "X": X}
    yield from cases(clock, [(fit, words | {"estimator": estimator}) for estimator in ESTIMATORS])


def fit(name: str, rows: Table, X: Any, estimator: str) -> Iterator[Record]:
    """Yield the record of one."""
    import cupy

    y = cupy.asnumpy(rows.y(estimator))
    model, first, second = fit_times(lambda: new(estimator).fit(X, y), patience=1.0)
    there = new(estimator).fit(rows.X, rows.y(estimator)).coef_
    yield record(
        "dist_dot, CPU",
        name,
        rows,
        estimator,
        first,
        second,
        gradient=gradient_size(estimator, rows, model.coef_, model.intercept_),
        rounds=model.fit_.rounds,
        steps=model.n_iter_,
        cores=len(os.sched_getaffinity(0)),
        difference=float(np.abs(there - model.coef_).max() / np.abs(model.coef_).max()),
    )
