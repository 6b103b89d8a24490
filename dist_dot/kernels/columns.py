"""The pass over NumPy rows for several columns of parameters at once: targets, classes, candidate points, or fits.

X goes by in tiles, which are read as one stream into the cache: the dot products of four rows with four columns at a
time, the losses, and the axpy of a tile into four columns, whose sums stay in registers from row to row (two columns
where fewer are left, with the same bits: 100 columns took a sixth longer in pairs). The next tile is asked for in
between. The same products by BLAS, which packs its matrices at each call, took 1.3 .. 8 times as long,
for 2 .. 400 columns at p = 28 .. 3000, on an AMD EPYC with AVX-512.

A product with the Hessian is such a pass too: its columns are w and the direction v, and a row's residual is its
curvature at z = <x, w> times <x, v>.
"""

import numpy as np

from dist_dot.kernels.compiled import FLUSH, REACH, end_of, ordered, put
from dist_dot.kernels.elementwise import SOFTMAX, LossCode, in_place
from dist_dot.kernels.tile_losses import add_losses, add_softmax, own_room, room, set_products, set_softmax_products
from dist_dot.kernels.vectors import (
    ROWS,
    fma,
    in_order,
    lanes,
    load,
    prefetch,
    read,
    spread,
    store,
    store_totals,
    zeros,
)
from dist_dot.rows.arrays import read_only
from dist_dot.rows.block import Block
from dist_dot.typing import Array

# Bytes of a tile, which with the columns' sums outgrows the L1 cache anyway, and of a cache line.
TILE, LINE = 64 << 10, 64


def column_sums(loss: LossCode, block: Block, columns: Array, points: int, folds: Array | None = None) -> Array:
    """Rows in one array X (n, p), [w, b] (k, p + 1) -> [loss, X.T r (p), sum r of each column] of each point.

    The k columns are those of `points`, one after the other, each with as many as y has targets or the loss classes.
    With `folds` (points,) each point leaves out the rows of its own fold. Folds and columns are of the dtype of X.
    """
    width = len(columns) // points
    none = np.empty(0, block.y.dtype)
    left_out = none if folds is None else np.repeat(folds, width)
    sums = _passed(loss, block, columns, np.tile(_targets(block, width), points), left_out, 1)
    value = sums[:, 0].reshape(points, width).sum(axis=1)
    return np.column_stack([value, sums[:, 1:].reshape(points, -1)])


def product_sums(loss: LossCode, block: Block, columns: Array) -> Array:
    """Rows in one array X (n, p), k columns [w, b], then k [v, c] (2 k, p + 1) -> Hessian times [v, c] (k, p + 1).

    k is the number of y's targets, or of the loss's classes.
    """
    k = len(columns) // 2
    return _passed(loss, block, columns, _targets(block, k), np.empty(0, block.y.dtype), 2)[:, 1:]


def _targets(block: Block, width: int) -> Array:
    """Return the column of y for each of so many columns of parameters: that of labels is one for all of them."""
    return np.arange(width) if block.y.ndim == 2 else np.zeros(width, int)


def _passed(loss: LossCode, block: Block, columns: Array, targets: Array, left_out: Array, order: int) -> Array:
    X, p, none = block.X.dense(), block.X.shape[1], np.empty(0, block.y.dtype)
    beside = block.weight, block.offset, block.fold if left_out.size else None
    s, o, fold = (read_only(none if given is None else given) for given in beside)
    y = read_only(block.y if block.y.ndim == 2 else block.y[:, None])
    rows = min(max(TILE // max(1, p * X.itemsize) // 8 * 8, 8), FLUSH)
    return np.asarray(_pass(loss, read_only(X), y, s, o, fold, columns, targets, left_out, rows, order))


@ordered
def _pass(
    loss: LossCode,
    X: Array,
    y: Array,
    weight: Array,
    offset: Array,
    fold: Array,
    columns: Array,
    targets: Array,
    left_out: Array,
    rows: int,
    order: int,
) -> Array:
    """Return the sums (k, p + 2) of the k columns of residuals; there are k `order` columns of products."""
    n, p = X.shape
    k = len(targets)
    flat = X.reshape(n * p)
    width = -(-p // lanes(flat)) * lanes(flat)
    pairs, dots = -(-k // 2) * 2, -(-k * order // 2) * 2
    W, gradient = np.zeros(dots * width, X.dtype), np.zeros(pairs * width, X.dtype)
    for c in range(k * order):
        put(W, c * width, columns[c], 0, p)
    z, residual = np.zeros(dots * rows, X.dtype), np.zeros(pairs * rows, X.dtype)
    classes = int(loss.number) if loss.kind == SOFTMAX else 0
    target, mask, q, none = room(rows, X.dtype), room(rows, X.dtype), np.zeros(classes * ROWS), np.zeros(0, X.dtype)
    sums, own = np.zeros((k, p + 2)), own_room(loss, rows)
    slopes = np.zeros(k)
    whole = max(n - REACH, 0) // rows * rows
    last = end_of(flat, whole * p, -(-(n - whole) // rows) * rows * p)
    share = rows * p // (dots + pairs)  # of the next tile, which is asked for between the products of this one
    for start in range(0, n, rows):
        m = min(rows, n - start)
        tile, at = (flat, start * p) if start < whole else (last, (start - whole) * p)
        ahead = at + rows * p
        for j in range(at, ahead, LINE // X.itemsize):
            read(tile, j)
        for c in range(0, dots, 4):
            _ask_for(tile, ahead + c * share, min(dots - c, 4) * share)
            if dots - c == 2:
                _dot_two(tile, at, p, rows, W, c * width, width, z, c * rows)
            else:
                _dot_four(tile, at, p, rows, W, c * width, width, z, c * rows)
        for c in range(k * order):
            for i in range(rows):
                z[c * rows + i] += columns[c, p]
            if offset.size and c < k:
                for i in range(m):
                    z[c * rows + i] += offset[start + i]
        for c in range(0, k, max(classes, 1)):
            if c == 0 or targets[c] != targets[c - 1]:
                for i in range(m):
                    target[i] = y[start + i, targets[c]]
            if c == 0 or left_out.size:
                for i in range(m):
                    mask[i] = weight[start + i] if weight.size else 1
                    if left_out.size and fold[start + i] == left_out[c]:
                        mask[i] = 0
                mask[m:] = 0
            if order == 2 and classes:
                set_softmax_products(classes, rows, mask, z, k * rows, residual, q, slopes)
            elif order == 2:
                slopes[c] += set_products(loss, rows, target, mask, z, c * rows, (k + c) * rows, residual, own)
            elif classes:
                sums[c, 0] += add_softmax(classes, rows, target, mask, z, residual, c * rows, q, slopes, c)
            else:
                value, slope = add_losses(loss, rows, target, none, 0, mask, z, residual, c * rows, own)
                sums[c, 0] += value
                slopes[c] += slope
        for c in range(0, pairs, 4):
            _ask_for(tile, ahead + (dots + c) * share, min(pairs - c, 4) * share)
            if pairs - c == 2:
                _add_to_two(tile, at, p, rows, residual, c * rows, gradient, c * width, width)
            else:
                _add_to_four(tile, at, p, rows, residual, c * rows, gradient, c * width, width)
        if start % FLUSH + rows >= FLUSH or start + m == n:
            for c in range(k):
                for j in range(p):
                    sums[c, 1 + j] += gradient[c * width + j]
            gradient[:] = 0
    for c in range(k):
        sums[c, p + 1] = slopes[c]
    return sums


@in_place
def _ask_for(X: Array, at: int, count: int) -> None:
    for j in range(at, at + count, LINE // X.itemsize):
        prefetch(X, j, 1)
        in_order()


@in_place
def dot_columns(X: Array, at: int, p: int, rows: int, W: Array, columns: int, width: int, z: Array) -> None:
    """Set z (columns, rows) = X w for the rows of p numbers from X[at], a multiple of 4, and an even number of columns.

    A column w lies `width` numbers behind the one before it, with zeros from p on.
    """
    for c in range(0, columns, 4):
        if columns - c == 2:
            _dot_two(X, at, p, rows, W, c * width, width, z, c * rows)
        else:
            _dot_four(X, at, p, rows, W, c * width, width, z, c * rows)


@in_place
def _dot_two(X: Array, at: int, p: int, rows: int, W: Array, w0: int, width: int, z: Array, z0: int) -> None:
    """Set z = X w for the rows of p numbers from X[at], for the column at W[w0] and the one after it."""
    step = lanes(X)
    w1 = w0 + width
    for i in range(0, rows, 4):
        x0 = at + i * p
        x1, x2, x3 = x0 + p, x0 + 2 * p, x0 + 3 * p
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zeros(X)
        for j in range(0, width, step):
            a, b = load(W, w0 + j), load(W, w1 + j)
            x = load(X, x0 + j)
            a0, b0 = fma(x, a, a0), fma(x, b, b0)
            x = load(X, x1 + j)
            a1, b1 = fma(x, a, a1), fma(x, b, b1)
            x = load(X, x2 + j)
            a2, b2 = fma(x, a, a2), fma(x, b, b2)
            x = load(X, x3 + j)
            a3, b3 = fma(x, a, a3), fma(x, b, b3)
            in_order()
        store_totals(z, z0 + i, a0, a1, a2, a3)
        store_totals(z, z0 + rows + i, b0, b1, b2, b3)


@in_place
def _dot_four(X: Array, at: int, p: int, rows: int, W: Array, w0: int, width: int, z: Array, z0: int) -> None:
    """As above for four columns."""
    step = lanes(X)
    w1, w2, w3 = w0 + width, w0 + 2 * width, w0 + 3 * width
    for i in range(0, rows, 4):
        x0 = at + i * p
        x1, x2, x3 = x0 + p, x0 + 2 * p, x0 + 3 * p
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = zeros(X)
        for j in range(0, width, step):
            a, b, c, d = load(W, w0 + j), load(W, w1 + j), load(W, w2 + j), load(W, w3 + j)
            x = load(X, x0 + j)
            a0, b0, c0, d0 = fma(x, a, a0), fma(x, b, b0), fma(x, c, c0), fma(x, d, d0)
            x = load(X, x1 + j)
            a1, b1, c1, d1 = fma(x, a, a1), fma(x, b, b1), fma(x, c, c1), fma(x, d, d1)
            x = load(X, x2 + j)
            a2, b2, c2, d2 = fma(x, a, a2), fma(x, b, b2), fma(x, c, c2), fma(x, d, d2)
            x = load(X, x3 + j)
            a3, b3, c3, d3 = fma(x, a, a3), fma(x, b, b3), fma(x, c, c3), fma(x, d, d3)
            in_order()
        store_totals(z, z0 + i, a0, a1, a2, a3)
        store_totals(z, z0 + rows + i, b0, b1, b2, b3)
        store_totals(z, z0 + 2 * rows + i, c0, c1, c2, c3)
        store_totals(z, z0 + 3 * rows + i, d0, d1, d2, d3)


@in_place
def _add_to_two(X: Array, at: int, p: int, rows: int, residual: Array, r0: int, G: Array, g0: int, width: int) -> None:
    """Add X.T r over the same rows to the gradient at G[g0] and the one after it."""
    step = lanes(X)
    g1, r1 = g0 + width, r0 + rows
    whole = width // (4 * step) * (4 * step)
    for j in range(0, whole, 4 * step):
        a0, a1 = load(G, g0 + j), load(G, g0 + j + step)
        a2, a3 = load(G, g0 + j + 2 * step), load(G, g0 + j + 3 * step)
        b0, b1 = load(G, g1 + j), load(G, g1 + j + step)
        b2, b3 = load(G, g1 + j + 2 * step), load(G, g1 + j + 3 * step)
        for i in range(rows):
            x = at + i * p + j
            a, b = spread(residual, r0 + i), spread(residual, r1 + i)
            x0, x1, x2, x3 = load(X, x), load(X, x + step), load(X, x + 2 * step), load(X, x + 3 * step)
            a0, a1, a2, a3 = fma(a, x0, a0), fma(a, x1, a1), fma(a, x2, a2), fma(a, x3, a3)
            b0, b1, b2, b3 = fma(b, x0, b0), fma(b, x1, b1), fma(b, x2, b2), fma(b, x3, b3)
            in_order()
        store(G, g0 + j, a0)
        store(G, g0 + j + step, a1)
        store(G, g0 + j + 2 * step, a2)
        store(G, g0 + j + 3 * step, a3)
        store(G, g1 + j, b0)
        store(G, g1 + j + step, b1)
        store(G, g1 + j + 2 * step, b2)
        store(G, g1 + j + 3 * step, b3)
    for j in range(whole, width, step):
        a0, b0 = load(G, g0 + j), load(G, g1 + j)
        for i in range(rows):
            x0 = load(X, at + i * p + j)
            a0, b0 = fma(spread(residual, r0 + i), x0, a0), fma(spread(residual, r1 + i), x0, b0)
            in_order()
        store(G, g0 + j, a0)
        store(G, g1 + j, b0)


@in_place
def _add_to_four(X: Array, at: int, p: int, rows: int, residual: Array, r0: int, G: Array, g0: int, width: int) -> None:
    """As above for four columns."""
    step = lanes(X)
    g1, g2, g3 = g0 + width, g0 + 2 * width, g0 + 3 * width
    r1, r2, r3 = r0 + rows, r0 + 2 * rows, r0 + 3 * rows
    whole = width // (2 * step) * (2 * step)
    for j in range(0, whole, 2 * step):
        k = j + step
        a0, b0, c0, d0 = load(G, g0 + j), load(G, g1 + j), load(G, g2 + j), load(G, g3 + j)
        a1, b1, c1, d1 = load(G, g0 + k), load(G, g1 + k), load(G, g2 + k), load(G, g3 + k)
        for i in range(rows):
            x0, x1 = load(X, at + i * p + j), load(X, at + i * p + k)
            a, b = spread(residual, r0 + i), spread(residual, r1 + i)
            a0, a1, b0, b1 = fma(a, x0, a0), fma(a, x1, a1), fma(b, x0, b0), fma(b, x1, b1)
            c, d = spread(residual, r2 + i), spread(residual, r3 + i)
            c0, c1, d0, d1 = fma(c, x0, c0), fma(c, x1, c1), fma(d, x0, d0), fma(d, x1, d1)
            in_order()
        store(G, g0 + j, a0)
        store(G, g1 + j, b0)
        store(G, g2 + j, c0)
        store(G, g3 + j, d0)
        store(G, g0 + k, a1)
        store(G, g1 + k, b1)
        store(G, g2 + k, c1)
        store(G, g3 + k, d1)
    for j in range(whole, width, step):
        a0, b0, c0, d0 = load(G, g0 + j), load(G, g1 + j), load(G, g2 + j), load(G, g3 + j)
        for i in range(rows):
            x = load(X, at + i * p + j)
            a0, b0 = fma(spread(residual, r0 + i), x, a0), fma(spread(residual, r1 + i), x, b0)
            c0, d0 = fma(spread(residual, r2 + i), x, c0), fma(spread(residual, r3 + i), x, d0)
            in_order()
        store(G, g0 + j, a0)
        store(G, g1 + j, b0)
        store(G, g2 + j, c0)
        store(G, g3 + j, d0)
