"""X.T diag(s d2 loss / dz2) X over NumPy rows: tiles are scaled where they lie in the cache, and multiplied by BLAS.

A tile's rows [x - x0, 1] are scaled by the root of their curvature, so that the product is BLAS's syrk, half of the
operations of another product, and the sums in the intercept come with it. The Hessian of the softmax is made of squares
too: the one of two classes c and d is -X.T diag(s q_c q_d) X, and the ones of a class and all classes add up to 0. So k
classes take k (k - 1) / 2 products.
"""

import numpy as np

from dist_dot.kernels.columns import dot_columns
from dist_dot.kernels.compiled import REACH, end_of, ordered, put
from dist_dot.kernels.elementwise import SOFTMAX, LossCode
from dist_dot.kernels.gram import packed, tile_rows
from dist_dot.kernels.tile_losses import own_room, room, set_curvatures, set_probabilities
from dist_dot.kernels.unlocked import add_square, syrk_address
from dist_dot.kernels.vectors import ROWS, lanes, load, load_rows, spread, store, store_rows
from dist_dot.rows.arrays import read_only
from dist_dot.rows.block import Block
from dist_dot.typing import Array


def curvatures(loss: LossCode, block: Block, columns: Array, centre: tuple[float, ...]) -> list[Array]:
    """Rows in one array X (n, p), [w, b] of k outputs (k, p + 1) -> the triangle of each pair of outputs.

    See `dist_dot.kernels.passes.Curvature`. The columns are of the dtype of X, in which rows are multiplied; sums of
    tiles are float64.
    """
    X, (k, p1), none = block.X.dense(), columns.shape, np.empty(0, block.y.dtype)
    s, o = (read_only(none if given is None else given) for given in (block.weight, block.offset))
    y = read_only(block.y if block.y.ndim == 2 else block.y[:, None])
    x0 = np.zeros(p1 + REACH, X.dtype)
    x0[: len(centre)] = centre
    classes = loss.kind == SOFTMAX
    squares = np.zeros((k * (k - 1) // 2 if classes else k, p1, p1))
    rows = -(-tile_rows(p1, X.itemsize) // ROWS) * ROWS
    _add_squares(loss, syrk_address(X.itemsize), read_only(X), y, s, o, columns, x0, rows, squares)
    triangles = [packed(square) for square in squares]
    return _of_classes(triangles, k) if classes else triangles


def _of_classes(triangles: list[Array], k: int) -> list[Array]:
    """Return the Hessians of the pairs c <= d of classes from X.T diag(s q_c q_d) X of the pairs c < d."""
    pairs = [(c, d) for c in range(k) for d in range(c + 1, k)]
    of_pair = dict(zip(pairs, triangles, strict=True))
    own = [sum((of_pair[pair] for pair in pairs if c in pair), np.zeros_like(triangles[0])) for c in range(k)]
    return [own[c] if c == d else -of_pair[c, d] for c in range(k) for d in range(c, k)]


@ordered
def _add_squares(
    loss: LossCode,
    address: int,
    X: Array,
    y: Array,
    weight: Array,
    offset: Array,
    columns: Array,
    centre: Array,
    rows: int,
    squares: Array,
) -> None:
    """Add the product of each output, or of each pair of classes, to the squares below their diagonals and on them."""
    n, p = X.shape
    k = len(columns)
    classes = int(loss.number) if loss.kind == SOFTMAX else 0
    flat = X.reshape(n * p)
    width, dots = -(-p // lanes(flat)) * lanes(flat), -(-k // 2) * 2
    apart = width + lanes(flat)  # of the rows that are scaled: room for the 1 behind x, and for what vectors write
    W = np.zeros(dots * width, X.dtype)
    for c in range(k):
        put(W, c * width, columns[c], 0, p)
    rows = max(min(rows, -(-n // ROWS) * ROWS), ROWS)
    whole = max(n - REACH, 0) // rows * rows
    last = end_of(flat, whole * p, -(-(n - whole) // ROWS) * ROWS * p)
    z, q = np.zeros(dots * rows, X.dtype), np.zeros(classes * rows)
    target, mask, d = room(rows, X.dtype), room(rows, X.dtype), room(rows, X.dtype)
    scaled, own = np.zeros(rows * apart, X.dtype), own_room(loss, rows)
    product = np.zeros((p + 1, p + 1) if X.itemsize == 4 else (0, 0), X.dtype)
    for start in range(0, n, rows):
        m = min(rows, n - start)
        eights = -(-m // ROWS) * ROWS
        tile, at = (flat, start * p) if start < whole else (last, (start - whole) * p)
        dot_columns(tile, at, p, eights, W, dots, width, z)
        for c in range(k):
            for i in range(m):
                z[c * eights + i] += columns[c, p]
                if offset.size:
                    z[c * eights + i] += offset[start + i]
        for i in range(m):
            mask[i] = weight[start + i] if weight.size else 1
        mask[m:eights] = 0
        if classes:
            for i in range(0, eights, ROWS):
                set_probabilities(classes, i, z, 0, eights, q, i, eights)
        pair = 0
        for c in range(k):
            if not classes:
                for i in range(m):
                    target[i] = y[start + i, c]
                set_curvatures(loss, eights, target, mask, z, c * eights, d, 0, own)
                _add_scaled(address, tile, at, p, m, centre, d, scaled, apart, product, squares[c])
            for other in range(c + 1, classes):
                for i in range(0, eights, ROWS):
                    both = load_rows(q, c * eights + i) * load_rows(q, other * eights + i)
                    store_rows(d, i, both * load_rows(mask, i))
                _add_scaled(address, tile, at, p, m, centre, d, scaled, apart, product, squares[pair])
                pair += 1


@ordered
def _add_scaled(
    address: int,
    X: Array,
    at: int,
    p: int,
    m: int,
    centre: Array,
    d: Array,
    scaled: Array,
    apart: int,
    product: Array,
    square: Array,
) -> None:
    """Add [x - x0, 1].T diag(d) [x - x0, 1] of the m rows of p numbers from X[at]."""
    step = lanes(X)
    for i in range(m):
        d[i] = np.sqrt(d[i])
        root, x, to = spread(d, i), at + i * p, i * apart
        for j in range(0, p, step):
            store(scaled, to + j, (load(X, x + j) - load(centre, j)) * root)
        scaled[to + p] = d[i]
    if X.itemsize == 8:
        add_square(address, scaled, m, p + 1, apart, 1.0, square)
        return
    add_square(address, scaled, m, p + 1, apart, 0.0, product)
    for i in range(p + 1):
        for j in range(i + 1):
            square[i, j] += product[i, j]
