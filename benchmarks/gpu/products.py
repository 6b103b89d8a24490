"""Gram matrices and curvatures in TFLOP/s, 2 n p^2 operations each, beside one gemm of cuBLAS over the same rows."""

from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np

from benchmarks.gpu.clock import Clock, Record, cases, normal, room, round_ms, seconds_of
from dist_dot import lay_out, losses
from dist_dot.kernels.moments import CentredMoments
from dist_dot.kernels.passes import Expansion

NBYTES = 4_000_000_000


def measure(clock: Clock, quick: bool) -> Iterator[Record]:
    """Yield a record for each kernel, dtype and p."""
    features = (128, 1000) if quick else (128, 512, 1000, 3000)
    yield from cases(clock, [(gram, {"dtype": dtype, "p": p}) for p in features for dtype in ("float32", "float64")])


def gram(dtype: str, p: int) -> Iterator[Record]:
    """Yield a record of each kernel, with the rates of gemm in the dtypes that the rows can be multiplied in."""
    n = min(NBYTES, room() // 5) // (p * np.dtype(dtype).itemsize)
    X = normal(n, p, dtype)
    work = 2.0 * n * p * p
    gemm = {dtype: work / product_seconds(X) / 1e12}
    if dtype == "float32":
        gemm["float64"] = work / product_seconds(X.astype("float64")) / 1e12
    y = (X[:, 0] > 0).astype(dtype)
    blocks = lay_out(X, y)
    for kernel, at in ((CentredMoments(), np.zeros(0)), (Expansion(losses.Logistic()), np.full(p + 1, 0.5 / p))):
        taken = round_ms(blocks, kernel, at, 3)
        yield {
            "benchmark": "gram",
            "kernel": type(kernel).__name__,
            "dtype": dtype,
            "p": p,
            "n": n,
            "round_ms": taken,
            "tflop_s": work / taken / 1e9,
            "gemm_tflop_s": gemm,
        }


def product_seconds(X: Any) -> float:
    """Return the seconds of X.T X by gemm: cuBLAS is not told that the result is symmetric."""
    return median(seconds_of(lambda: X.T @ X, 3, 1))
