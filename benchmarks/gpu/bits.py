"""Hashes of the sums of fixed rows, so that the bits of one card can be laid beside those of another."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np

from benchmarks.gpu.clock import Clock, Record, cases
from dist_dot import lay_out, losses
from dist_dot.kernels.moments import CentredMoments
from dist_dot.kernels.passes import Expansion, ValueAndGradient

LOSSES = (losses.Squared(), losses.Logistic(), losses.Poisson(), losses.Gamma(), losses.Huber())
DTYPES = ("float32", "float64")
FEATURES = (128, 16, 28, 100, 512, 1000, 3000, 10_000)
COLUMNS = (2, 4, 8)
NUMBERS = 4_000_000  # of X


def measure(clock: Clock, quick: bool) -> Iterator[Record]:
    """Yield a record for each loss, dtype, p and number of columns."""
    features = FEATURES[:3] if quick else FEATURES
    yield from cases(clock, [(hashes, {"p": p, "dtype": dtype}) for p in features for dtype in DTYPES])


def hashes(p: int, dtype: str) -> Iterator[Record]:
    """Yield the records of one shape. The rows are NumPy's, and so the same on every card."""
    import cupy

    random = np.random.Generator(np.random.PCG64(p))
    n = NUMBERS // p + 7
    X = random.standard_normal((n, p), dtype=dtype)
    y = random.integers(0, 2, n).astype(dtype)
    weight = random.integers(0, 3, n).astype(dtype)
    at = random.standard_normal((max(COLUMNS), p + 1)) / np.sqrt(p)
    rows: dict[str, Any] = {
        name: lay_out(*map(cupy.asarray, (X, target, weight)), block_rows=max(1, n // 5))
        for name, target in (("labels", y), ("positive", y + 0.5))
    }
    asked: list[tuple[Any, str, int]] = [
        (ValueAndGradient(loss), "positive" if loss.name == "gamma" else "labels", 1) for loss in LOSSES
    ]
    if p in (128, 512, 1000):
        asked += [(ValueAndGradient(losses.Logistic(), columns), "labels", columns) for columns in COLUMNS]
        asked += [(ValueAndGradient(losses.Softmax(4)), "labels", 4)]
    if p <= 1000:
        asked += [(Expansion(losses.Logistic()), "labels", 1), (CentredMoments(), "labels", 0)]
    for kernel, name, columns in asked:
        sums = rows[name].reduce(kernel, at[:columns].ravel())
        yield {
            "benchmark": "bits",
            "kernel": type(kernel).__name__,
            "loss": getattr(getattr(kernel, "loss", None), "name", ""),
            "dtype": dtype,
            "p": p,
            "n": n,
            "columns": columns,
            "sha256": sha256(np.ascontiguousarray(sums, "float64").tobytes()).hexdigest(),
            "same_again": sums.tobytes() == rows[name].reduce(kernel, at[:columns].ravel()).tobytes(),
        }
