"""The pass over NumPy rows for several columns of parameters at once: targets, candidate points, or fits.

X goes by in tiles. For few columns all of it is compiled: the dot products of a row with four columns at a time, the
losses, and the axpy of eight rows while they are in the L1 cache. For many, the two products are BLAS's, which packs a
tile as if there were many columns, whatever their number. Nothing of a tile's size is made anew for each tile (see
`dist_dot.blocks.gram`). Measured on one core of an AMD EPYC at p = 160, float64, as reads of X: 8 columns 5.4 (BLAS
7.1), 16 columns 9.7 (BLAS 9.5), 32 columns 15.7 (BLAS 14.4); 100 columns of the logistic loss 0.018 ns a product.
"""

import numpy as np

from dist_dot.blocks.arrays import read_only
from dist_dot.blocks.compiled import LOGISTIC, POISSON, SQUARED, gamma, logistic, poisson, reordered, squared
from dist_dot.typing import Array

# Columns from which on BLAS makes the products.
MANY = 16
# Rows of a tile for BLAS; bytes of a tile of the compiled pass, and the most rows that it has: see `compiled.FLUSH`.
ROWS, TILE, MOST_ROWS = 512, 64 << 10, 64


def column_sums(
    loss: int, X: Array, y: Array, weight: Array | None, columns: Array, targets: Array, folds: Array | None = None
) -> Array:
    """X (n, p), y (n,) or (n, t), weight (n,) or None, [w, b] (k, p + 1) -> [loss, X.T r (p), sum r] of each column.

    `targets` (k,) is the column of y of each column of parameters. With `folds` (k,) the last column of y is the fold
    of each row, and each column leaves out the rows of its own. All but targets in the dtype of X.
    """
    n, p = X.shape
    k = len(columns)
    s = read_only(np.empty(0, X.dtype) if weight is None else weight)
    of = np.empty(0, X.dtype) if folds is None else folds
    y = read_only(y if y.ndim == 2 else y[:, None])
    if k < MANY:
        padded = np.zeros((-(-k // 4) * 4, p + 1), X.dtype)
        padded[:k] = columns
        rows = min(max(TILE // max(1, p * X.itemsize) // 8 * 8, 8), MOST_ROWS)
        return np.asarray(_compiled_pass(loss, read_only(X), y, s, padded, targets, of, rows))
    W, b = np.ascontiguousarray(columns[:, :p]), columns[:, p:]
    sums = np.zeros((k, p + 2))
    z, residual = (np.empty(k * ROWS, X.dtype) for _ in range(2))
    gradient = np.empty((k, p), X.dtype)
    for start in range(0, n, ROWS):
        x = X[start : start + ROWS]
        m = len(x)
        of_tile, r = (room[: k * m].reshape(k, m) for room in (z, residual))
        np.matmul(W, x.T, out=of_tile)
        of_tile += b
        _losses(loss, y, start, m, s, targets, of, of_tile, r, sums)
        np.matmul(r, x, out=gradient)
        sums[:, 1:-1] += gradient
    return sums


@reordered
def _compiled_pass(
    loss: int, X: Array, y: Array, weight: Array, columns: Array, targets: Array, folds: Array, rows: int
) -> Array:
    n, p = X.shape
    k = len(targets)
    sums = np.zeros((k, p + 2))
    z = np.empty((len(columns), rows), X.dtype)
    residual = np.empty((k, rows), X.dtype)
    gradient = np.zeros((k, p), X.dtype)
    for start in range(0, n, rows):
        m = min(rows, n - start)
        for c in range(0, len(columns), 4):
            _dot_columns(X, start, m, columns, c, z)
        _losses(loss, y, start, m, weight, targets, folds, z, residual, sums)
        _add_columns(X, start, m, residual, gradient)
        for c in range(k):
            for j in range(p):
                sums[c, 1 + j] += gradient[c, j]
                gradient[c, j] = 0
    return sums


@reordered
def _dot_columns(X: Array, start: int, m: int, columns: Array, c: int, z: Array) -> None:
    """Set z = X w + b for the m rows from start and the four columns from c."""
    p = X.shape[1]
    zero = X.dtype.type(0)
    for i in range(m):
        d0 = d1 = d2 = d3 = zero
        for j in range(p):
            x = X[start + i, j]
            d0 += x * columns[c, j]
            d1 += x * columns[c + 1, j]
            d2 += x * columns[c + 2, j]
            d3 += x * columns[c + 3, j]
        z[c, i] = d0 + columns[c, p]
        z[c + 1, i] = d1 + columns[c + 1, p]
        z[c + 2, i] = d2 + columns[c + 2, p]
        z[c + 3, i] = d3 + columns[c + 3, p]


@reordered
def _losses(
    loss: int,
    y: Array,
    start: int,
    m: int,
    weight: Array,
    targets: Array,
    folds: Array,
    z: Array,
    residual: Array,
    sums: Array,
) -> None:
    """Set the residuals (k, m) at z (k, m), and add the losses and the residuals to the ends of the sums (k, p + 2)."""
    value, scratch, s = np.empty(m), np.empty(m), np.empty(m)
    target = np.empty(m, z.dtype)
    last = sums.shape[1] - 1
    for c in range(len(targets)):
        for i in range(m):
            target[i] = y[start + i, targets[c]]
        r = residual[c]  # another array than z: where arrays may overlap the loops are no vector code
        if loss == SQUARED:
            squared(target, 0, m, z[c], r, value, scratch)
        elif loss == LOGISTIC:
            logistic(target, 0, m, z[c], r, value, scratch)
        elif loss == POISSON:
            poisson(target, 0, m, z[c], r, value, scratch)
        else:
            gamma(target, 0, m, z[c], r, value, scratch)
        if weight.size or folds.size:
            for i in range(m):
                s[i] = weight[start + i] if weight.size else 1.0
            if folds.size:
                for i in range(m):
                    s[i] = 0.0 if y[start + i, y.shape[1] - 1] == folds[c] else s[i]
            for i in range(m):
                value[i] *= s[i]
                r[i] *= s[i]
        total, slope = 0.0, 0.0
        for i in range(m):
            total += value[i]
            slope += r[i]
        sums[c, 0] += total
        sums[c, last] += slope


@reordered
def _add_columns(X: Array, start: int, m: int, residual: Array, gradient: Array) -> None:
    """Add X.T r over the same rows to the gradient (k, p) of each column."""
    p = X.shape[1]
    whole = m // 8 * 8
    for i in range(0, whole, 8):
        a = start + i
        for c in range(len(gradient)):
            r0, r1, r2, r3 = residual[c, i], residual[c, i + 1], residual[c, i + 2], residual[c, i + 3]
            r4, r5, r6, r7 = residual[c, i + 4], residual[c, i + 5], residual[c, i + 6], residual[c, i + 7]
            for j in range(p):
                first = (r0 * X[a, j] + r1 * X[a + 1, j]) + (r2 * X[a + 2, j] + r3 * X[a + 3, j])
                other = (r4 * X[a + 4, j] + r5 * X[a + 5, j]) + (r6 * X[a + 6, j] + r7 * X[a + 7, j])
                gradient[c, j] += first + other
    for i in range(whole, m):
        for c in range(len(gradient)):
            r = residual[c, i]
            for j in range(p):
                gradient[c, j] += r * X[start + i, j]
