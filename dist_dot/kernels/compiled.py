"""The compiled passes over a NumPy block: one output, one read of X (numba, cached on disk, without the GIL).

X goes by in tiles: the dot products row by row, then the loss, then the axpy of four rows at a time. The form follows
what was measured on two threads of an AMD EPYC that read 33 GB/s together:

- Memory is read as one stream. The dot products of a tile between the axpy of the one before lost up to half of the
  rate. During its axpy a quarter of the next tile is asked for, into the L2 cache: 2 .. 10 % for most shapes (a half
  of it, or into the L1 cache, lost as much).
- While a tile is in the L1 cache the hardware seems to go on fetching during its axpy: tiles of some 6 KB were the
  fastest, down to a single row. Rows larger than that come from the L2 cache, at some 100 GB/s; there longer tiles are
  better.
- Vectors of our own, not LLVM's: see `dist_dot.kernels.vectors`.

Shares of the read rate there, p = 28, 100, 160, 500, 1000, 2000: squared, float64 0.94 0.94 0.91 0.93 0.89 0.77,
float32 0.94 0.80* 0.91 0.88 0.89 0.83; logistic, float64 0.89 0.92 0.88 0.71* 0.69* 0.55*, float32 0.88 0.94 0.87 0.87
0.87 0.83. (* At that time the rate was 48 .. 50 GB/s.) On a cluster shares are lower: benchmarks/RESULTS.md.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba.core import event

from dist_dot.kernels.compiling import Speaker, kept
from dist_dot.kernels.elementwise import SQUARED, LossCode, in_place
from dist_dot.kernels.tile_losses import add_losses, own_room, room
from dist_dot.kernels.vectors import (
    fma,
    in_order,
    lanes,
    load,
    prefetch,
    spread,
    store,
    store_totals,
    total,
    unwritten,
    zeros,
)
from dist_dot.rows.arrays import read_only
from dist_dot.typing import Array

# Sums may be reordered (that is what makes vector code of them); NaN and infinity keep their meaning.
reordered: Any = kept(fastmath={"reassoc", "contract", "nsz", "arcp"})
# The order stands; a product may be added without rounding it first.
ordered: Any = kept(fastmath={"contract"}, error_model="numpy")
# Each operation is rounded, as it is on every other processor, GPUs among them.
rounded: Any = kept(fastmath=False, error_model="numpy")

# Bytes of a tile whose rows are still in the L1 cache for their second use, and its most rows. The bytes, the most and
# the fewest rows of one in the L2 cache, where a row alone is too large for that: four at a time are added up.
TILE, MOST_ROWS = 6400, 32
IN_L2, MOST_IN_L2, FEWEST = 256 << 10, 16, 4
# Bytes behind the next tile's begin from where it is asked for: so far the hardware has read on by itself.
AHEAD = 4096
# Rows after which the gradient is added up in float64, for float32 loses digits with their number.
FLUSH = 32
# Numbers that a vector may reach beyond the last of a row, and rows beyond the last of a tile.
REACH = 8
# No numbers of a dtype, by its bytes: what stands for weights and offsets where there are none.
NONE = {dtype().itemsize: read_only(np.empty(0, dtype)) for dtype in (np.float32, np.float64)}


def value_and_gradient(
    loss: LossCode, X: Array, y: Array, weight: Array | None, parameters: Array, offset: Array | None = None
) -> Array:
    """X (n, p), y (n,), weight (n,) or None, [w, b] of their dtype -> sums over the rows [loss, X.T r (p), sum r].

    r is s * d loss / dz, and z has the offset (n,) added to it, where there is one.
    """
    p, none = X.shape[1], NONE[X.itemsize]
    s = none if weight is None else read_only(np.ascontiguousarray(weight))
    o = none if offset is None else read_only(np.ascontiguousarray(offset))
    y = read_only(np.ascontiguousarray(y))
    return np.asarray(_pass(loss, read_only(X), y, s, o, parameters[:p], parameters[p], tile_rows(p, X.itemsize)))


def moments(X: Array, y: Array, weight: Array | None, centre: Array) -> Array:
    """As above, centre (p + 1) -> [sum s, sums of s ([x, y] - centre) (p + 1), of the same squared (p + 1)]."""
    s = np.empty(0, X.dtype) if weight is None else weight
    return np.asarray(_moments(read_only(X), read_only(y), read_only(s), centre))


def reference(X: Array, weight: Array | None, slopes: Array) -> Array:
    """Slopes (n, k) -> float64 sums of s r [x, 1] (p + 1) for each column r, then of s x (p) and of s x^2 (p)."""
    s = np.empty(0, X.dtype) if weight is None else weight
    return np.asarray(_reference(read_only(X), read_only(s), slopes))


def slope_sizes(y: Array, weight: Array | None, lines: Array) -> Array:
    """[z, a, c, d, e] of each target (k, 5) -> sums of s r^2 (k) and of s m^2 (k).

    r = a + c y is a row's slope and d + e y its curvature; m is |r| + |c y| + |z| (d + e y).
    """
    s = np.empty(0, y.dtype) if weight is None else weight
    y = y if y.ndim == 2 else y[:, None]
    return np.asarray(_slope_sizes(read_only(y), read_only(s), lines))


def target_sums(y: Array, weight: Array | None, domain: tuple[float, float], classes: int) -> Array | None:
    """Return [sum s, sums of s y (k)], or of s of each class; None where a y is outside of the domain, or no class."""
    s = np.empty(0, y.dtype) if weight is None else weight
    sums = np.zeros(1 + (classes or (y.shape[1] if y.ndim == 2 else 1)))
    right = _target_sums(
        read_only(y if y.ndim == 2 else y[:, None]), read_only(s), *map(float, domain), classes > 0, sums
    )
    return sums if right else None


def tile_rows(p: int, itemsize: int) -> int:
    """Return the rows of a tile: a power of two."""
    row = max(1, p * itemsize)
    size, most = (TILE, MOST_ROWS) if row <= TILE else (IN_L2, MOST_IN_L2)
    return max(min(1 << max(size // row, 1).bit_length() - 1, most), FEWEST if row > TILE else 1)


event.register("numba:compile", Speaker())  # any of our functions, here and elsewhere


@lru_cache
def compile_for(dtype: str) -> None:
    """Compile, or load from disk, what blocks of this dtype need: seconds, the first time on a machine."""
    X, y = np.zeros((1, 1), dtype), np.zeros(1, dtype)
    value_and_gradient(LossCode(SQUARED), X, y, None, np.zeros(2, dtype))
    moments(X, y, None, np.zeros(2))
    reference(X, None, np.zeros((1, 1)))
    slope_sizes(y, None, np.zeros((1, 5)))
    target_sums(y, None, (0.0, 1.0), 0)


@ordered
def _pass(loss: LossCode, X: Array, y: Array, weight: Array, offset: Array, w: Array, b: float, rows: int) -> Array:
    n, p = X.shape
    flat = X.reshape(n * p)
    # The last rows go by as a copy that ends with zeros, so that vectors may reach beyond a row and beyond a tile.
    sums = np.zeros(p + 2)
    at = np.zeros(-(-p // lanes(flat)) * lanes(flat), X.dtype)
    put(at, 0, w, 0, p)
    gradient = np.zeros_like(at)
    whole = max(n - REACH, 0) // rows * rows
    _tiles(loss, flat, y, weight, offset, p, whole, at, b, rows, gradient, sums)
    left = n - whole
    tiles = -(-left // rows) * rows
    last = end_of(flat, whole * p, tiles * p)
    last_y, last_weight = end_of(y, whole, tiles), end_of(weight, whole, tiles)
    last_offset = unwritten(end_of(offset, whole, tiles)[: (tiles + REACH) * (offset.size > 0)])
    if not weight.size:
        last_weight[:left] = 1
    last, last_y, last_weight = unwritten(last), unwritten(last_y), unwritten(last_weight)
    _tiles(loss, last, last_y, last_weight, last_offset, p, tiles, at, b, rows, gradient, sums)
    return sums


@in_place
def put(target: Array, to: int, source: Array, start: int, count: int) -> None:
    """Set target[to : to + count] to source[start : start + count].

    Where slices are assigned numba compiles the words of an error, for four seconds.
    """
    for i in range(count):
        target[to + i] = source[start + i]


@in_place
def end_of(array: Array, start: int, size: int) -> Array:
    """Return a copy of array[start:] with zeros behind it, to `size` numbers and what vectors reach beyond those."""
    copy = np.zeros(size + REACH, array.dtype)
    if array.size:
        put(copy, 0, array, start, array.size - start)
    return copy


@ordered
def _tiles(
    loss: LossCode,
    X: Array,
    y: Array,
    weight: Array,
    offset: Array,
    p: int,
    n: int,
    w: Array,
    b: float,
    rows: int,
    gradient: Array,
    sums: Array,
) -> None:
    """Add the sums over the first n rows of p numbers, a multiple of `rows`, of X, which is flat."""
    z, residual, mask, own = room(rows, X.dtype), room(rows, X.dtype), room(rows, X.dtype), own_room(loss, rows)
    mask[:rows] = 1
    for start in range(0, n, rows):
        _dot_rows(X, start * p, p, rows, w, b, z)
        if offset.size:
            for i in range(rows):
                z[i] += offset[start + i]
        value, slope = add_losses(loss, rows, y, weight, start, mask, z, residual, 0, own)
        sums[0] += value
        sums[1 + p] += slope
        _add_rows(X, start * p, p, rows, residual, gradient)
        if start % FLUSH + rows >= FLUSH or start + rows == n:
            for j in range(p):
                sums[1 + j] += gradient[j]
            gradient[:] = 0


@in_place
def _dot_rows(X: Array, at: int, p: int, rows: int, w: Array, b: float, z: Array) -> None:
    """Set z = X w + b for the rows of p numbers from X[at]."""
    for i in range(0, rows - 3, 4):
        x = at + i * p
        store_totals(z, i, _dot(X, x, w), _dot(X, x + p, w), _dot(X, x + 2 * p, w), _dot(X, x + 3 * p, w))
    for i in range(rows // 4 * 4, rows):
        z[i] = total(_dot(X, at + i * p, w))
    for i in range(rows):
        z[i] += b


@in_place
def _dot(X: Array, x: int, w: Array) -> Any:
    """Return the products of a row with w, which has zeros where the next row begins, added up lane by lane."""
    step = lanes(X)
    d0 = d1 = d2 = d3 = zeros(X)
    whole = w.size // (4 * step) * (4 * step)
    for j in range(0, whole, 4 * step):
        d0 = fma(load(X, x + j), load(w, j), d0)
        d1 = fma(load(X, x + j + step), load(w, j + step), d1)
        d2 = fma(load(X, x + j + 2 * step), load(w, j + 2 * step), d2)
        d3 = fma(load(X, x + j + 3 * step), load(w, j + 3 * step), d3)
        in_order()
    for j in range(whole, w.size, step):
        d0 = fma(load(X, x + j), load(w, j), d0)
        in_order()
    return (d0 + d1) + (d2 + d3)


@in_place
def _add_rows(X: Array, at: int, p: int, rows: int, residual: Array, gradient: Array) -> None:
    """Add X.T residual over the same rows to gradient."""
    step = lanes(X)
    ahead = at + rows * p + AHEAD // X.itemsize
    for i in range(0, rows - 3, 4):
        r0, r1, r2, r3 = spread(residual, i), spread(residual, i + 1), spread(residual, i + 2), spread(residual, i + 3)
        x0 = at + i * p
        x1, x2, x3 = x0 + p, x0 + 2 * p, x0 + 3 * p
        for j in range(0, gradient.size, step):
            prefetch(X, ahead + j, 2)
            in_order()
            sums = fma(r1, load(X, x1 + j), fma(r0, load(X, x0 + j), load(gradient, j)))
            store(gradient, j, fma(r3, load(X, x3 + j), fma(r2, load(X, x2 + j), sums)))
        ahead += p
    for i in range(rows // 4 * 4, rows):
        r0 = spread(residual, i)
        for j in range(0, gradient.size, step):
            store(gradient, j, fma(r0, load(X, at + i * p + j), load(gradient, j)))


@reordered
def _moments(X: Array, y: Array, weight: Array, centre: Array) -> Array:
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


@reordered
def _reference(X: Array, weight: Array, slopes: Array) -> Array:
    n, p = X.shape
    k = slopes.shape[1]
    of_x = k * (p + 1)
    sums = np.zeros(of_x + 2 * p)
    gradients = sums[:of_x].reshape(k, p + 1)
    gradient, first, squares = gradients[0], sums[of_x : of_x + p], sums[of_x + p :]
    whole = n // 4 * 4
    for i in range(0, whole, 4):  # four rows at a time: the sums are read and written once for them
        s0, s1, s2, s3 = 1.0, 1.0, 1.0, 1.0
        if weight.size:
            s0, s1, s2, s3 = float(weight[i]), float(weight[i + 1]), float(weight[i + 2]), float(weight[i + 3])
        r0, r1, r2, r3 = s0 * slopes[i, 0], s1 * slopes[i + 1, 0], s2 * slopes[i + 2, 0], s3 * slopes[i + 3, 0]
        x0, x1, x2, x3 = X[i], X[i + 1], X[i + 2], X[i + 3]
        for j in range(p):
            d0, d1, d2, d3 = float(x0[j]), float(x1[j]), float(x2[j]), float(x3[j])
            gradient[j] += (r0 * d0 + r1 * d1) + (r2 * d2 + r3 * d3)
            first[j] += (s0 * d0 + s1 * d1) + (s2 * d2 + s3 * d3)
            squares[j] += (s0 * d0 * d0 + s1 * d1 * d1) + (s2 * d2 * d2 + s3 * d3 * d3)
        gradient[p] += (r0 + r1) + (r2 + r3)
        for c in range(1, k):
            r0, r1, r2, r3 = s0 * slopes[i, c], s1 * slopes[i + 1, c], s2 * slopes[i + 2, c], s3 * slopes[i + 3, c]
            other = gradients[c]
            for j in range(p):
                other[j] += (r0 * float(x0[j]) + r1 * float(x1[j])) + (r2 * float(x2[j]) + r3 * float(x3[j]))
            other[p] += (r0 + r1) + (r2 + r3)
    for i in range(whole, n):
        weight_of = float(weight[i]) if weight.size else 1.0
        for j in range(p):
            d = float(X[i, j])
            first[j] += weight_of * d
            squares[j] += weight_of * d * d
        for c in range(k):
            r = weight_of * slopes[i, c]
            for j in range(p):
                gradients[c, j] += r * float(X[i, j])
            gradients[c, p] += r
    return sums


@ordered
def _slope_sizes(y: Array, weight: Array, lines: Array) -> Array:
    n, k = y.shape
    sums = np.zeros(2 * k)
    for c in range(k):
        z, at_zero, by_y, curvature, curvature_by_y = (
            abs(lines[c, 0]),
            lines[c, 1],
            lines[c, 2],
            lines[c, 3],
            lines[c, 4],
        )
        squares, sizes = 0.0, 0.0
        for i in range(n):
            target = float(y[i, c])
            s = float(weight[i]) if weight.size else 1.0
            part = by_y * target
            r = at_zero + part
            m = abs(r) + abs(part) + z * (curvature + curvature_by_y * target)
            squares += s * r * r
            sizes += s * m * m
        sums[c] = squares
        sums[k + c] = sizes
    return sums


@rounded
def _target_sums(y: Array, weight: Array, low: float, high: float, codes: bool, sums: Array) -> bool:
    """Set the sums; return whether every y is right.

    What an addition loses is kept and added at the end (Neumaier 1974): the mean of equal numbers is that number.
    """
    n, k = y.shape
    lost = np.zeros_like(sums)
    right = True
    for i in range(n):
        s = float(weight[i]) if weight.size else 1.0
        _add(sums, lost, 0, s)
        for c in range(k):
            target = float(y[i, c])
            if not (target >= low and target <= high) or (codes and target != np.floor(target)):
                right = False
            elif codes:
                _add(sums, lost, 1 + int(target), s)
            else:
                _add(sums, lost, 1 + c, s * target)
    sums += lost
    return right


@rounded
def _add(sums: Array, lost: Array, at: int, value: float) -> None:
    total = sums[at] + value
    if abs(sums[at]) >= abs(value):
        lost[at] += (sums[at] - total) + value
    else:
        lost[at] += (value - total) + sums[at]
    sums[at] = total
