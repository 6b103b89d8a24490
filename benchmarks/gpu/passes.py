"""A round of each loss, dtype and p over some GB of rows on the card, as a share of the plain read of as many bytes."""

from collections.abc import Iterator
from functools import cache
from statistics import median
from typing import Any

import numpy as np

from benchmarks.gpu.clock import Clock, Record, cases, free, normal, pass_ms, room, round_ms, seconds_of
from benchmarks.gpu.rates import copy_rate, read_rate
from dist_dot import lay_out, losses
from dist_dot.kernels.passes import Moments, ValueAndGradient
from dist_dot.kernels.targets import ConstantValues, ReferenceSums, TargetSums
from dist_dot.rows.settle import to_device

GIGABYTES = 4
DTYPES = ("float32", "float64")
FEATURES = (128, 16, 28, 64, 100, 512, 1000, 3000, 10_000)
FEW = (128, 16, 512, 1000, 3000)
SMALL = 1000  # rows of a round that is all cost and no pass
LOSSES = (losses.Squared(), losses.Logistic())


class Rows:
    """One piece of memory with random numbers, seen as rows of any width, and its read rate."""

    def __init__(self, dtype: str) -> None:
        free()
        self.dtype = dtype
        nbytes = min(GIGABYTES * 1_000_000_000, room() // 3)
        self._numbers = normal(1, nbytes // np.dtype(dtype).itemsize, dtype)[0]
        self.read_gb_s = read_rate(self._numbers)

    def X(self, p: int) -> Any:
        """Return X (n, p), without a copy."""
        n = self._numbers.shape[0] // p
        return self._numbers[: n * p].reshape(n, p)

    def card(self) -> Record:
        """Return the card's rates."""
        return {
            "benchmark": "card",
            "nbytes": self._numbers.nbytes,
            "read_gb_s": self.read_gb_s,
            "copy_gb_s": copy_rate(self._numbers),
        }


@cache
def labels(n: int, dtype: str) -> Any:
    """Return 0, 1, 0, 1, .. (n,) on the card."""
    import cupy

    y = cupy.zeros(n, dtype=dtype)
    y[1::2] = 1
    return y


def measure(clock: Clock, quick: bool) -> Iterator[Record]:
    """Yield the card's rates, then a record for each case."""
    yield from cases(clock, [(each, {"clock": clock, "dtype": dtype, "quick": quick}) for dtype in DTYPES])


def each(clock: Clock, dtype: str, quick: bool) -> Iterator[Record]:
    """Yield a record for each case of this dtype, float32 in half of the time."""
    clock = clock.share(0.5) if dtype == DTYPES[0] else clock
    rows = Rows(dtype)
    words = {"rows": rows, "repeats": 9 if quick else 21}
    todo: list[Any] = [(card, {"rows": rows}), (arriving, {})] if dtype == DTYPES[0] else []
    todo += [(passes, words | {"p": p}) for p in (FEW if quick else FEATURES)]
    if not quick or dtype == DTYPES[0]:
        todo += [(several, words | {"p": p}) for p in (128, 512)]
    todo += [(others, words | {"p": 128})]
    yield from cases(clock, todo)
    labels.cache_clear()


def card(rows: Rows) -> Iterator[Record]:
    """Yield the card's rates."""
    yield rows.card()


def arriving() -> Iterator[Record]:
    """Yield the rate at which rows of the host come to the card, as they are and cast on the way."""
    for source in DTYPES:
        X = np.ones((4_000_000, 128), source)
        times = seconds_of(lambda X=X: to_device(X, "float32"), 5, warm=1)
        common = {"benchmark": "arriving", "source": source, "dtype": "float32", "seconds": median(times)}
        yield common | {"gb_s": X.size * 4 / median(times) / 1e9, "host_gb_s": X.nbytes / median(times) / 1e9}


def passes(rows: Rows, p: int, repeats: int) -> Iterator[Record]:
    """Yield a record for each loss."""
    X = rows.X(p)
    y = labels(X.shape[0], rows.dtype)
    blocks, small = lay_out(X, y), lay_out(X[:SMALL], y[:SMALL])
    at = np.full(p + 1, 0.5 / p)
    for loss in LOSSES:
        kernel = ValueAndGradient(loss)
        whole, own = (round_ms(rows_of, kernel, at, repeats) for rows_of in (blocks, small))
        alone = pass_ms(blocks, kernel, at, repeats)
        gb_s = blocks.cuts.nbytes / whole / 1e6
        yield {
            "benchmark": "pass",
            "loss": loss.name,
            "dtype": rows.dtype,
            "p": p,
            "n": X.shape[0],
            "blocks": blocks.cuts.n_blocks,
            "repeats": repeats,
            "round_ms": whole,
            "pass_ms": alone,
            "beyond_us": 1e3 * (whole - alone),
            "small_round_us": 1e3 * own,
            "gb_s": gb_s,
            "read_gb_s": rows.read_gb_s,
            "share": gb_s / rows.read_gb_s,
            "pass_share": blocks.cuts.nbytes / alone / 1e6 / rows.read_gb_s,
        }


def several(rows: Rows, p: int, repeats: int) -> Iterator[Record]:
    """Yield a record for each number of columns of W."""
    X = rows.X(p)
    blocks = lay_out(X, labels(X.shape[0], rows.dtype))
    times: dict[int, float] = {}
    for columns in (1, 2, 4, 8):
        at = np.full(columns * (p + 1), 0.5 / p)
        times[columns] = round_ms(blocks, ValueAndGradient(losses.Logistic(), columns), at, repeats)
        yield {
            "benchmark": "columns",
            "loss": "logistic",
            "dtype": rows.dtype,
            "p": p,
            "n": X.shape[0],
            "columns": columns,
            "round_ms": times[columns],
            "reads": times[columns] / times[1],
        }


def others(rows: Rows, p: int, repeats: int) -> Iterator[Record]:
    """Yield a record for each of the kernels that look at the rows, or at y, before and after a fit."""
    X = rows.X(p)
    blocks, n, itemsize = lay_out(X, labels(X.shape[0], rows.dtype)), X.shape[0], X.dtype.itemsize
    for kernel, at, nbytes in (
        (ReferenceSums(losses.Logistic()), np.zeros(p + 1), n * (p + 1) * itemsize),
        (Moments(), np.zeros(p + 1), n * (p + 1) * itemsize),
        (TargetSums(losses.Logistic()), np.zeros(0), n * itemsize),
        (ConstantValues(losses.Logistic()), np.zeros(1), n * itemsize),
    ):
        taken = round_ms(blocks, kernel, at, repeats)
        yield {
            "benchmark": "look",
            "kernel": type(kernel).__name__,
            "dtype": rows.dtype,
            "p": p,
            "n": n,
            "round_ms": taken,
            "gb_s": nbytes / taken / 1e6,
            "share": nbytes / taken / 1e6 / rows.read_gb_s,
        }
