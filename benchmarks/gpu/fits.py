"""Whole fits of rows that lie on the card, by dist_dot: the first and the second one."""

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.clock import Clock, Record, cases
from benchmarks.gpu.tables import ESTIMATORS, Table, fit_times, gradient_size, names, record, table
from dist_dot import LogisticRegression, Ridge


def measure(clock: Clock, quick: bool) -> Iterator[Record]:
    """Yield a record for each table and estimator."""
    yield from cases(clock, [(fits, {"name": name, "clock": clock}) for name in names(quick)])


def fits(name: str, clock: Clock) -> Iterator[Record]:
    """Yield a record for each estimator."""
    rows = table(name)
    yield from cases(clock, [(fit, {"name": name, "estimator": estimator, "rows": rows}) for estimator in ESTIMATORS])


def fit(name: str, estimator: str, rows: Table) -> Iterator[Record]:
    """Yield the record of one."""
    model, first, second = fit_times(lambda: new(estimator).fit(rows.X, rows.y(estimator)))
    yield record(
        "dist_dot",
        name,
        rows,
        estimator,
        first,
        second,
        gradient=gradient_size(estimator, rows, model.coef_, model.intercept_),
        rounds=model.fit_.rounds,
        steps=model.n_iter_,
        solver=model.fit_.solver,
    )


def new(estimator: str) -> Any:
    """Return the estimator, as it is without options."""
    return Ridge() if estimator == "Ridge" else LogisticRegression()
