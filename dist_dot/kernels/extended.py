"""Residuals and their products with X in twice the working precision: what the refinement of a solution needs.

A number is an unevaluated sum hi + lo of two float64, some 32 digits. The building blocks are error-free
transformations, plain arithmetic that is compiled for NumPy rows and runs as it stands on whole arrays of other
libraries: Knuth's TwoSum and Dekker's TwoProduct (Ogita, Rump and Oishi, Accurate sum and dot product (2005),
algorithms 3.1 to 3.3). Nothing here may be compiled with reordered or contracted sums: the rounding errors are the
result. The products overflow beyond 1e300.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from dist_dot.kernels.compiled import rounded
from dist_dot.kernels.kernel import Kernel
from dist_dot.rows.arrays import Parameters, is_other, namespace, read_only
from dist_dot.rows.block import Block
from dist_dot.typing import Array

_exact = rounded
Number = TypeVar("Number", float, Array)  # whole arrays, or the numbers of compiled loops

SPLITTER = 134_217_729.0  # 2^27 + 1: halves the 53 bits of a float64
ROWS = 64
DEVICE_TILE = 8 << 20


def two_sum(a: Number, b: Number) -> tuple[Number, Number]:
    """Return a + b as it is rounded, and its rounding error: the two add up to a + b exactly."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: Number, b: Number) -> tuple[Number, Number]:
    """Return a * b as it is rounded, and its rounding error."""
    product = a * b
    wide = SPLITTER * a
    a_hi = wide - (wide - a)
    a_lo = a - a_hi
    wide = SPLITTER * b
    b_hi = wide - (wide - b)
    b_lo = b - b_hi
    return product, a_lo * b_lo - (((product - a_hi * b_hi) - a_lo * b_hi) - a_hi * b_lo)


def add(a_hi: Number, a_lo: Number, b_hi: Number, b_lo: Number | float) -> tuple[Number, Number]:
    """Return (a_hi + a_lo) + (b_hi + b_lo), to some 2^-104 of the larger one."""
    total = a_hi + b_hi
    part = total - a_hi
    error = (a_hi - (total - part)) + (b_hi - part)
    low = error + (a_lo + b_lo)
    high = total + low
    return high, low - (high - total)


_two_product, _add = _exact(two_product), _exact(add)


@dataclass(frozen=True)
class ResidualProducts(Kernel):
    """Parameters [W, b] (p + 1, k) -> sums of s r^2 (k), X.T s r (p, k), of s r (k), with r = y - X W - b - offset.

    Flat: all the hi, then all the lo, each row by row. Some 60 operations for each number of X and each target.
    """

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        xp, p = namespace(block.y), block.X.shape[1]
        at = xp.reshape(parameters.like(block.y, "float64"), (p + 1, -1))
        y = xp.reshape(block.y, (len(block), at.shape[1]))
        parts = [self._target(block, y[:, j], at[:, j]) for j in range(at.shape[1])]
        sums: Array = xp.reshape(xp.stack(parts, axis=2), (-1,))
        return sums

    def merge(self, left: Array, right: Array) -> Array:
        """Return the sums over the rows of both, in the same precision."""
        half = left.shape[0] // 2
        merged: Array = namespace(left).concat(list(add(left[:half], left[half:], right[:half], right[half:])))
        return merged

    def _target(self, block: Block, y: Array, at: Array) -> Array:
        """Return hi and lo of the sums of one target (2, p + 2)."""
        X = block.X.array
        if X is None or is_other(X):
            return _products_of_arrays(block, y, at)
        beside = (np.empty(0, X.dtype) if given is None else given for given in (block.weight, block.offset))
        rows = (np.ascontiguousarray(array) for array in (y, *beside, at))
        return np.asarray(_products(read_only(X), *(read_only(array) for array in rows)))


@_exact
def _products(X: Array, y: Array, weight: Array, offset: Array, at: Array) -> Array:
    """Return (2, p + 2). Residuals of a tile of rows side by side, then products column by column: both are vectors."""
    n, p = X.shape
    sums = np.zeros((2, p + 2))
    high, low = sums[0], sums[1]
    columns = np.empty((p, ROWS))
    r_hi = np.empty(ROWS)
    r_lo = np.empty(ROWS)
    for start in range(0, n, ROWS):
        m = min(ROWS, n - start)
        for i in range(m):
            for j in range(p):
                columns[j, i] = -float(X[start + i, j])
            r_hi[i] = y[start + i]
            r_lo[i] = 0.0
            if offset.size:
                r_hi[i], r_lo[i] = _add(r_hi[i], r_lo[i], -float(offset[start + i]), 0.0)
        for j in range(p):
            for i in range(m):
                product, error = _two_product(columns[j, i], at[j])
                r_hi[i], r_lo[i] = _add(r_hi[i], r_lo[i], product, error)
        for i in range(m):
            hi, lo = _add(r_hi[i], r_lo[i], -at[p], 0.0)
            s_hi, s_lo = hi, lo
            if weight.size:
                s = float(weight[start + i])
                s_hi, s_lo = _two_product(hi, s)
                s_lo += lo * s
            product, error = _two_product(s_hi, hi)
            high[0], low[0] = _add(high[0], low[0], product, error + (s_hi * lo + s_lo * hi))
            high[1 + p], low[1 + p] = _add(high[1 + p], low[1 + p], s_hi, s_lo)
            r_hi[i], r_lo[i] = s_hi, s_lo
        for i in range(m):
            for j in range(p):
                x = float(X[start + i, j])
                product, error = _two_product(x, r_hi[i])
                high[1 + j], low[1 + j] = _add(high[1 + j], low[1 + j], product, error + x * r_lo[i])
    return sums


def _products_of_arrays(block: Block, y: Array, at: Array) -> Array:
    """Return the same by array operations, in the library of the block."""
    xp, p = namespace(block.y), block.X.shape[1]
    size = max(1, DEVICE_TILE // (8 * p))
    zero = at[:1] * 0.0
    total: Array = xp.stack([xp.concat([at * 0.0, zero])] * 2)
    for start in range(0, len(block), size):
        part = slice(start, min(start + size, len(block)))
        rows = block.rows(part)
        x = xp.astype(rows.X.dense(), xp.float64)
        target = xp.astype(y[part], xp.float64)
        z_hi, z_lo = _sum_rows(*two_product(x.T, at[:p, None]))
        hi, lo = add(target, 0.0 * target, -z_hi, -z_lo)
        hi, lo = add(hi, lo, -at[p], 0.0)
        if rows.offset is not None:
            hi, lo = add(hi, lo, -xp.astype(rows.offset, xp.float64), 0.0)
        s_hi, s_lo = hi, lo
        if rows.weight is not None:
            s = xp.astype(rows.weight, xp.float64)
            s_hi, s_lo = two_product(hi, s)
            s_lo = s_lo + lo * s
        square, error = two_product(s_hi, hi)
        product, product_error = two_product(x, s_hi[:, None])
        columns = [
            xp.concat([square[:, None], product, s_hi[:, None]], axis=1),
            xp.concat(
                [(error + (s_hi * lo + s_lo * hi))[:, None], product_error + x * s_lo[:, None], s_lo[:, None]], axis=1
            ),
        ]
        total = xp.stack(list(add(total[0, :], total[1, :], *_sum_rows(*columns))))
    return total


def _sum_rows(hi: Array, lo: Array) -> tuple[Array, Array]:
    """Return the sums (m,) of the rows of hi + lo (n, m), by halves."""
    xp = namespace(hi)
    while (n := hi.shape[0]) > 1:
        half = n // 2
        high, low = add(hi[:half, :], lo[:half, :], hi[half : 2 * half, :], lo[half : 2 * half, :])
        hi, lo = (xp.concat([both, part[2 * half :, :]], axis=0) for both, part in ((high, hi), (low, lo)))
    return hi[0, :], lo[0, :]
