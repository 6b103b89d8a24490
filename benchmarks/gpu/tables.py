"""The tables that whole fits are measured on: made on the card, the same in each process on the same card."""

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from benchmarks import flights
from benchmarks.gpu.clock import Record, normal, room

# The shapes of cuML's and spark-rapids-ml's own benchmarks, and a small one. The widest takes longest.
SHAPES = {
    "1M x 100": (1_000_000, 100),
    "10.5M x 128": (10_500_000, 128),
    "84M x 16": (84_000_000, 16),
    "1M x 3000": (1_000_000, 3000),
}
QUICK = ("1M x 100", "10.5M x 128")
FLIGHTS = "flights"  # whose file is made elsewhere: see benchmarks/flights.py
LATE = 15.0  # minutes
TILE = 1 << 26  # numbers that are multiplied at a time
ESTIMATORS = ("Ridge", "LogisticRegression")


class Table(NamedTuple):
    """X (n, p) float32, a target (n,) float32 and labels (n,) int64 on the card."""

    X: Any
    target: Any
    labels: Any

    def y(self, estimator: str) -> Any:
        """Return what the estimator is fitted to."""
        return self.target if estimator == "Ridge" else self.labels


def names(quick: bool) -> list[str]:
    """Return the names of the tables that can be had."""
    there = (flights.JOB.parent / "flights.parquet").exists()
    return [*(QUICK if quick else SHAPES), *([FLIGHTS] if there and not quick else [])]


def table(name: str) -> Table:
    """Make it: standard normal X, w of norm 1, noise as large as the signal. Raises MemoryError where it cannot fit."""
    import cupy

    if name == FLIGHTS:
        X, minutes = (cupy.asarray(part.astype("float32")) for part in flights.matrix(flights.maker()))
        return Table(X, minutes, (minutes > LATE).astype("int64"))
    n, p = SHAPES[name]
    if 4 * n * p * 2.2 + 64 * n > room():
        raise MemoryError(f"{n:,} x {p} float32 and as much again do not fit in {room() / 1e9:.0f} GB")
    X = normal(n, p, "float32")
    w = np.random.default_rng(0).standard_normal(p)
    at = cupy.asarray((w / np.linalg.norm(w)).astype("float32"))
    z = cupy.empty(n, dtype="float32")
    for part in tiles(n, p):
        z[part] = X[part] @ at
    target = z + normal(1, n, "float32", 1)[0]
    return Table(X, target, (target > 0).astype("int64"))


def tiles(n: int, p: int) -> Iterator[slice]:
    """Yield slices of rows."""
    rows = max(1, TILE // p)
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def gradient_size(estimator: str, rows: Table, coef: Any, intercept: Any) -> float:
    """Return max |gradient of F| / n at these coefficients, for alpha = C = 1, in float64 and by cuBLAS: for everyone.

    F is the sum of the losses, (z - y)^2 / 2 or the logistic one, and ||w||^2 / 2.
    """
    import cupy

    (n, p), y = rows.X.shape, rows.y(estimator)
    w = cupy.asarray(np.asarray(coef, "float64").ravel())
    b = float(np.asarray(intercept).ravel()[0])
    gradient = cupy.zeros(p + 1)
    for part in tiles(n, p):
        x = rows.X[part].astype("float64")
        z = x @ w + b
        residual = (z if estimator == "Ridge" else 1.0 / (1.0 + cupy.exp(-z))) - y[part]
        gradient[:p] += residual @ x
        gradient[p:] += residual @ cupy.ones((residual.shape[0], 1))
    gradient[:p] += w
    return float(np.abs(cupy.asnumpy(gradient)).max()) / n


def fit_times(fit: Callable[[], Any], patience: float = 2.0) -> tuple[Any, float, float | None]:
    """Return the fitted model, the seconds of the first fit, and the median of the next three (None: it takes long)."""
    import cupy

    times = []
    for _ in range(4):
        begin = perf_counter()
        model = fit()
        cupy.cuda.runtime.deviceSynchronize()
        times.append(perf_counter() - begin)
        if sum(times) > patience and len(times) > 1 or times[0] > 3 * patience:
            break
    return model, times[0], median(times[1:]) if times[1:] else None


def record(
    who: str, name: str, rows: Table, estimator: str, first: float, second: float | None, **words: Any
) -> Record:
    """Return the record of a fit."""
    n, p = rows.X.shape
    common = {"benchmark": "fit", "who": who, "table": name, "estimator": estimator, "n": n, "p": p}
    return common | {"dtype": "float32", "first_s": first, "second_s": second} | words
