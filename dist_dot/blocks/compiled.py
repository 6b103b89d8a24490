"""The compiled passes over a NumPy block: one output, one read of X (numba, cached on disk, without the GIL).

X goes by in tiles of a few rows: the dot products row by row, so that memory is read as one stream, then the loss,
then the axpy of four rows at a time while they are still in the L1 cache. Measured on two processes of an AMD EPYC
with AVX-512 that read 18 GB/s each, as shares of that rate (float64 p = 28, 100, 160, 1000; float32 the same):
squared 0.91 0.90 0.87 0.92; 0.59 0.93 0.85 0.87; logistic 0.74 0.81 0.85 0.84; 0.50 0.84 0.80 0.82. While nobody else
uses the machine's memory one process reads 30 GB/s and the pass goes at 17 .. 20. Two or four rows at a time in the dot
products, which loads w less often, reads several streams at once and falls to 0.46 at p = 100; software prefetch of the
next tile made every case slower; so did dots of one tile fused with the axpy of the tile before.

Each loss works on a tile in float64, in plain loops without a branch or a call, which the compiler turns into vector
code: exp and log1p are polynomials here, since the math library is called one number at a time. A loss without a pass
of its own here is none the worse for it but in speed: `dist_dot.blocks.kernels` has it as array operations.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

from dist_dot.blocks.arrays import is_other, read_only
from dist_dot.losses import Gamma, Logistic, Loss, Poisson, Squared
from dist_dot.typing import Array

# Sums may be reordered (that is what makes them vector code); NaN and infinity keep their meaning.
reordered: Any = njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
# Where rounding is part of the method, the order of operations stands; a product may be added without rounding it.
ordered: Any = njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")

SQUARED, LOGISTIC, POISSON, GAMMA = range(4)
LOSSES: dict[type, int] = {Squared: SQUARED, Logistic: LOGISTIC, Poisson: POISSON, Gamma: GAMMA}

# Rows after which the gradient is added up in float64, for float32 loses digits with their number.
FLUSH = 32

LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453
# ln 2 in two parts (Cody and Waite): the first has 20 zero bits at its end, so its product with an exponent is exact.
LN_2_HIGH = 0.6931471803691238
LN_2_LOW = 1.9082149292705877e-10
# Added to a small number it leaves the nearest integer in the lowest bits.
ROUND = 1.5 * 2.0**52
# exp(-708) is the smallest that has a normal number for a result.
LOWEST = -708.0
# Between log1p(u) as it stands and as ln 2 + log1p((u - 1) / 2).
SQRT_2_LESS_1 = 0.41421356237309515


def code_of(loss: Loss, X: Array) -> int | None:
    """Return the code of a loss that is compiled for such rows; None where array operations have to do."""
    return None if is_other(X) else LOSSES.get(type(loss))


def value_and_gradient(loss: int, X: Array, y: Array, weight: Array | None, parameters: Array) -> Array:
    """X (n, p), y (n,), weight (n,) or None, [w, b] of their dtype -> sums over the rows [loss, X.T r (p), sum r].

    r is s * d loss / dz.
    """
    p = X.shape[1]
    s = np.empty(0, X.dtype) if weight is None else weight
    rows = tile_rows(p, X.itemsize)
    return np.asarray(_pass(loss, read_only(X), read_only(y), read_only(s), parameters[:p], parameters[p], rows))


def moments(X: Array, y: Array, weight: Array | None, centre: Array) -> Array:
    """As above, centre (p + 1) -> [sum s, sums of s ([x, y] - centre) (p + 1), of the same squared (p + 1)]."""
    s = np.empty(0, X.dtype) if weight is None else weight
    return np.asarray(_moments(read_only(X), read_only(y), read_only(s), centre))


def tile_rows(p: int, itemsize: int) -> int:
    """Return the rows of a tile: some 6 KB, but no fewer than 8 rows (16 where a row alone is large), at most FLUSH.

    Larger tiles were slower for narrow rows, because the second use of a row then waits for the L2 cache.
    """
    row = max(1, p * itemsize)
    least = 16 if row > 2048 else 8
    return int(min(max(6400 // row, least), FLUSH) // 4 * 4)


@lru_cache
def compile_for(dtype: str) -> None:
    """Compile, or load from disk, what blocks of this dtype need: seconds, the first time on a machine."""
    X, y = np.zeros((1, 1), dtype), np.zeros(1, dtype)
    value_and_gradient(SQUARED, X, y, None, np.zeros(2, dtype))
    moments(X, y, None, np.zeros(2))


@reordered
def _pass(loss: int, X: Array, y: Array, weight: Array, w: Array, b: float, rows: int) -> Array:
    n, p = X.shape
    sums = np.zeros(p + 2)
    gradient = np.zeros(p, X.dtype)
    z = np.empty(rows, X.dtype)
    residual = np.empty(rows, X.dtype)
    value = np.empty(rows)
    scratch = np.empty(rows)
    for start in range(0, n, rows):
        # Row numbers, not slices: a slice counts references, which costs as much as reading a short row.
        m = min(rows, n - start)
        _dot_rows(X, start, m, w, b, z)
        if loss == SQUARED:
            squared(y, start, m, z, residual, value, scratch)
        elif loss == LOGISTIC:
            logistic(y, start, m, z, residual, value, scratch)
        elif loss == POISSON:
            poisson(y, start, m, z, residual, value, scratch)
        else:
            gamma(y, start, m, z, residual, value, scratch)
        if weight.size:
            for i in range(m):
                residual[i] *= weight[start + i]
                value[i] *= weight[start + i]
        for i in range(m):
            sums[0] += value[i]
            sums[1 + p] += residual[i]
        _add_rows(X, start, m, residual, gradient)
        if start % FLUSH + m >= FLUSH or start + m == n:
            for j in range(p):
                sums[1 + j] += gradient[j]
                gradient[j] = 0
    return sums


@reordered
def _dot_rows(X: Array, start: int, m: int, w: Array, b: float, z: Array) -> None:
    """Set z = X w + b for the m rows from start. Inside the pass itself this did not become vector code."""
    p = X.shape[1]
    zero = X.dtype.type(0)  # with 0.0, float32 would be converted number by number
    for i in range(m):
        x = X[start + i]
        dot = zero
        for j in range(p):
            dot += x[j] * w[j]
        z[i] = dot + b


@reordered
def _add_rows(X: Array, start: int, m: int, residual: Array, gradient: Array) -> None:
    """Add X.T residual over the same rows to gradient."""
    p = X.shape[1]
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


@ordered
def squared(y: Array, start: int, m: int, z: Array, residual: Array, value: Array, scratch: Array) -> None:
    """Loss = (z - y)^2 / 2, first derivative = z - y."""
    for i in range(m):
        r = float(z[i]) - float(y[start + i])
        residual[i] = r
        value[i] = 0.5 * r * r


@ordered
def _exp(m: int, value: Array, scale: Array) -> None:
    """Replace m values between LOWEST and -LOWEST by exp of them; `scale` is room for as many numbers.

    exp(a) = 2^k exp(r), |r| <= ln(2) / 2, by its series, which ends where the next term is below rounding; 2^k by
    putting k into the exponent's bits.
    """
    bits = scale.view(np.int64)
    for i in range(m):
        a = value[i]
        shifted = a * LOG2_E + ROUND
        k = shifted - ROUND
        r = (a - k * LN_2_HIGH) - k * LN_2_LOW
        e = 1.0 / 6227020800.0
        e = e * r + 1.0 / 479001600.0
        e = e * r + 1.0 / 39916800.0
        e = e * r + 1.0 / 3628800.0
        e = e * r + 1.0 / 362880.0
        e = e * r + 1.0 / 40320.0
        e = e * r + 1.0 / 5040.0
        e = e * r + 1.0 / 720.0
        e = e * r + 1.0 / 120.0
        e = e * r + 1.0 / 24.0
        e = e * r + 1.0 / 6.0
        e = e * r + 0.5
        e = e * r + 1.0
        value[i] = e * r + 1.0
        scale[i] = shifted
    for i in range(m):
        bits[i] = (bits[i] + 1023) << 52
    for i in range(m):
        value[i] = value[i] * scale[i]


@ordered
def logistic(y: Array, start: int, m: int, z: Array, residual: Array, value: Array, scratch: Array) -> None:
    """Loss = max(z, 0) - y z + log1p(u), first derivative = sigmoid(z) - y, with u = exp(-|z|).

    log1p: the series of 2 artanh(s), |s| <= 0.172, with s = u / (2 + u), or of (u - 1) / 2 for a large u; it ends where
    the next term is below rounding.
    """
    for i in range(m):
        value[i] = max(-abs(float(z[i])), LOWEST)
    _exp(m, value, scratch)
    for i in range(m):
        t = float(z[i])
        target = float(y[start + i])
        u = value[i]
        large = u > SQRT_2_LESS_1
        s = (u - 1.0 if large else u) / (u + 3.0 if large else u + 2.0)
        q = s * s
        g = 1.0 / 21.0
        g = g * q + 1.0 / 19.0
        g = g * q + 1.0 / 17.0
        g = g * q + 1.0 / 15.0
        g = g * q + 1.0 / 13.0
        g = g * q + 1.0 / 11.0
        g = g * q + 1.0 / 9.0
        g = g * q + 1.0 / 7.0
        g = g * q + 0.2
        g = g * q + 1.0 / 3.0
        g = g * q + 1.0
        log1p = 2.0 * s * g + (LN_2 if large else 0.0)
        value[i] = (max(t, 0.0) - target * t) + log1p
        residual[i] = (1.0 if t >= 0.0 else u) / (1.0 + u) - target


@ordered
def poisson(y: Array, start: int, m: int, z: Array, residual: Array, value: Array, scratch: Array) -> None:
    """Loss = exp(z) - y z, first derivative = exp(z) - y, by the tangent above the top."""
    top = 80.0 if z.itemsize == 4 else 300.0
    for i in range(m):
        value[i] = max(min(float(z[i]), top), LOWEST)
    _exp(m, value, scratch)
    for i in range(m):
        t = float(z[i])
        target = float(y[start + i])
        e = value[i]
        value[i] = e * (1.0 + (t - min(t, top))) - target * t
        residual[i] = e - target


@ordered
def gamma(y: Array, start: int, m: int, z: Array, residual: Array, value: Array, scratch: Array) -> None:
    """Loss = z + y exp(-z), first derivative = 1 - y exp(-z), by the tangent below -top."""
    top = 80.0 if z.itemsize == 4 else 300.0
    for i in range(m):
        value[i] = max(min(-float(z[i]), top), LOWEST)
    _exp(m, value, scratch)
    for i in range(m):
        t = float(z[i])
        scaled = float(y[start + i]) * value[i]
        value[i] = t + scaled * (1.0 - (t - max(t, -top)))
        residual[i] = 1.0 - scaled


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
