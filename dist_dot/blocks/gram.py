"""X.T diag(d) X, added up tile by tile.

For NumPy rows it is BLAS's syrk, which adds a tile to one triangle of the sum where it lies; `x.T @ x` makes a square
of each tile, which is then added up. The scaled rows go into one piece of memory, made once: with temporaries of a
tile's size half of the time went into pages that were new each time (Dask's nannies set MALLOC_TRIM_THRESHOLD_, with
which the C library gives large pieces back at once). Together 2.1 times as fast, p = 160, on one core of an AMD EPYC.
"""

from typing import Any

import array_api_compat
import numpy as np

from dist_dot.blocks.arrays import is_other, namespace
from dist_dot.typing import Array

# Bytes of a tile, which stays in the L2 cache; with fewer rows the p x p numbers of the sum weigh more than theirs.
TILE, FEWEST_ROWS = 1 << 20, 256


def tile_rows(row: int) -> int:
    """Return the rows of a tile of NumPy rows of so many bytes each."""
    return max(FEWEST_ROWS, TILE // max(1, row))


class GramSum:
    """The sum over tiles of X.T diag(d) X (p, p), float64; float32 tiles are multiplied in float32.

    d >= 0, unless the sum is not `symmetric`: then the product is a plain one.
    """

    def __init__(self, p: int, like: Array, symmetric: bool = True) -> None:
        self._symmetric, self._other = symmetric, is_other(like)
        self._sum: Any
        if self._other:
            xp = namespace(like)
            self._sum = xp.zeros((p, p), dtype=xp.float64, device=array_api_compat.device(like))
        else:
            self._sum = np.zeros((p, p), order="F")  # as BLAS has it
            self._scaled = np.empty((0, p), like.dtype)

    def add(self, x: Array, d: Array | None = None) -> None:
        """Add x.T diag(d) x of the tile x (m, p), d (m,) or None for 1."""
        xp = namespace(x)
        if d is not None and self._symmetric:
            d = xp.sqrt(d)
        scaled = x if d is None else self._times(x, d[:, None])
        if self._other:
            self._sum = self._sum + xp.astype(scaled.T @ (scaled if self._symmetric else x), xp.float64, copy=False)
        else:
            self._add_by_blas(x, scaled)

    @property
    def total(self) -> Array:
        """The sum."""
        total: Array = self._sum
        if self._symmetric and not self._other:
            total = np.triu(total) + np.triu(total, 1).T
        return total

    def _times(self, x: Array, d: Array) -> Array:
        scaled: Array
        if self._other:
            scaled = x * d
            return scaled
        if len(self._scaled) < len(x):
            self._scaled = np.empty(x.shape, x.dtype)
        return np.multiply(x, d, out=self._scaled[: len(x)])

    def _add_by_blas(self, x: Array, scaled: Array) -> None:
        from scipy.linalg.blas import dgemm, dsyrk, sgemm, ssyrk  # takes its time to load

        double = x.dtype == np.float64
        into = {"beta": 1.0, "c": self._sum, "overwrite_c": 1} if double else {}
        if self._symmetric:
            sums = (dsyrk if double else ssyrk)(1.0, scaled.T, **into)
        else:
            sums = (dgemm if double else sgemm)(1.0, scaled.T, x.T, trans_b=1, **into)
        self._sum = sums if double else self._sum + sums
