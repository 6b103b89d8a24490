"""The inner products on one block: the only code that touches X.

A kernel is a frozen dataclass that is called as kernel(block, parameters) and returns its sums over the rows of the
block as one flat float64 array, so that blocks, workers and rounds are added up by one function that knows nothing of
them.

The pass is compiled (numba, cached on disk, without the GIL). It goes over X in tiles of a few rows: the dot products
row by row, so that memory is read as one stream, then the loss, then the axpy of four rows at a time while they are
still in the L1 cache. Measured on two processes of an AMD EPYC with AVX-512 (share of the rate at which the same
processes sum the same array, squared loss, float64, p = 28 / 100 / 1000): 0.94 / 0.91 / 0.85; four rows at a time in
the dot products too, which halves the loads of w, reads four streams at once and falls to 0.53 at p = 100; software
prefetch of the next tile made every case slower.

Tiles are summed in float64, so that float32 data lose nothing beyond the sixteen or so rows of a tile.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from dist_dot.blocks.block import Block
from dist_dot.losses import Loss
from dist_dot.typing import Array

# Sums may be reordered (that is what makes them vector code); NaN and infinity keep their meaning.
_compiled: Any = njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
SQUARED = 0


@dataclass(frozen=True)
class ValueAndGradient:
    """Parameters [w, b] (p + 1) -> [loss, gradient in w (p), gradient in b]: unpenalised sums over the rows."""

    loss: Loss

    def __call__(self, block: Block, parameters: Array) -> Array:
        """Read X once."""
        return _call_pass(self.loss.tile, block, block.y, parameters)


@dataclass(frozen=True)
class GramProduct:
    """Parameters [v, c] (p + 1) -> sum over the rows of s_i (<x_i, v> + c) [x_i, 1]: the Gram matrix times [v, c]."""

    def __call__(self, block: Block, parameters: Array) -> Array:
        """Read X once."""
        # The gradient of the squared loss for y = 0.
        return _call_pass(SQUARED, block, np.zeros_like(block.y), parameters)[1:]


@dataclass(frozen=True)
class Moments:
    """Parameters [x0, y0] (p + 1) -> [sum s, sums of s (x - x0) (p), of s (y - y0), of the same squared (p + 1)]."""

    def __call__(self, block: Block, parameters: Array) -> Array:
        """Read X once."""
        centre = np.asarray(parameters, np.float64)
        return np.asarray(_moments(block.X, block.y, _weight(block), centre))


def _call_pass(tile: int, block: Block, y: Array, parameters: Array) -> Array:
    p = block.X.shape[1]
    w = np.ascontiguousarray(parameters, block.X.dtype)
    return np.asarray(_pass(tile, block.X, y, _weight(block), w[:p], w[p], tile_rows(p, block.X.itemsize)))


def _weight(block: Block) -> Array:
    return np.empty(0, block.X.dtype) if block.weight is None else block.weight


def tile_rows(p: int, itemsize: int) -> int:
    """Return the rows of a tile: some 8 KB, but no fewer than 8 rows (16 where a row alone is large), at most 24.

    The measurement behind it is in the module's docstring; 16 .. 64 KB were slower for narrow rows, because the
    second use of a row then waits for the L2 cache.
    """
    row = max(1, p * itemsize)
    least = 16 if row > 2048 else 8
    return int(min(max(8192 // row, least), 24) // 4 * 4)


@_compiled
def _losses(tile: int, y: Array, z: Array, weight: Array, residual: Array) -> float:
    """Write s * d loss / dz to residual, return the sum of s * loss. One branch per loss and tile."""
    total = 0.0
    m = y.shape[0]
    if tile == SQUARED:
        for i in range(m):
            residual[i] = z[i] - y[i]
        if weight.size:
            for i in range(m):
                total += 0.5 * float(weight[i]) * float(residual[i]) * float(residual[i])
                residual[i] *= weight[i]
        else:
            for i in range(m):
                total += 0.5 * float(residual[i]) * float(residual[i])
    return total


@_compiled
def _pass(tile: int, X: Array, y: Array, weight: Array, w: Array, b: float, rows: int) -> Array:
    """X (n, p), y (n,), weight (n,) or (0,), w (p,), b -> [loss, X.T r (p), sum r] with r = s * d loss / dz."""
    n, p = X.shape
    sums = np.zeros(p + 2)
    gradient = np.empty(p, X.dtype)
    z = np.empty(rows, X.dtype)
    residual = np.zeros(rows, X.dtype)
    zero = residual[0]
    for start in range(0, n, rows):
        m = min(rows, n - start)
        stop = start + m
        for i in range(m):
            x = X[start + i]
            dot = zero
            for j in range(p):
                dot += x[j] * w[j]
            z[i] = dot + b
        s = weight[start:stop] if weight.size else weight
        sums[0] += _losses(tile, y[start:stop], z[:m], s, residual[:m])
        gradient[:] = zero
        whole = m // 4 * 4
        for i in range(0, whole, 4):
            x0, x1, x2, x3 = X[start + i], X[start + i + 1], X[start + i + 2], X[start + i + 3]
            r0, r1, r2, r3 = residual[i], residual[i + 1], residual[i + 2], residual[i + 3]
            for j in range(p):
                gradient[j] += (r0 * x0[j] + r1 * x1[j]) + (r2 * x2[j] + r3 * x3[j])
        for i in range(whole, m):
            x = X[start + i]
            r = residual[i]
            for j in range(p):
                gradient[j] += r * x[j]
        for j in range(p):
            sums[1 + j] += gradient[j]
        for i in range(m):
            sums[1 + p] += residual[i]
    return sums


@_compiled
def _moments(X: Array, y: Array, weight: Array, centre: Array) -> Array:
    """X (n, p), y (n,), weight (n,) or (0,), centre (p + 1,) -> [sum s, first moments (p + 1), second (p + 1)]."""
    n, p = X.shape
    sums = np.zeros(1 + 2 * (p + 1))
    first = sums[1 : p + 2]
    second = sums[p + 2 :]
    for i in range(n):
        s = float(weight[i]) if weight.size else 1.0
        x = X[i]
        for j in range(p):
            d = float(x[j]) - centre[j]
            first[j] += s * d
            second[j] += s * d * d
        d = float(y[i]) - centre[p]
        sums[0] += s
        first[p] += s * d
        second[p] += s * d * d
    return sums
