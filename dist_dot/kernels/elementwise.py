"""The losses of the compiled passes: value and first derivative in z, of eight rows at a time, in float64.

exp and log1p are polynomials here, without a branch or a call: the math library is called one number at a time. A loss
that is not among these is none the worse for it but in speed: `dist_dot.kernels.passes` has it as array operations.
"""

from typing import Any

import numpy as np
from numba import njit

from dist_dot.kernels.vectors import (
    ROWS,
    absolute,
    load_rows,
    power_of_two,
    store_rows,
    total,
    where_greater,
    zero_rows,
)
from dist_dot.losses import Gamma, Logistic, Loss, Poisson, Squared
from dist_dot.rows.arrays import is_other
from dist_dot.typing import Array

# The order of operations stands; a product may be added without rounding it first.
in_place: Any = njit(nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True)

SQUARED, LOGISTIC, POISSON, GAMMA = range(4)
LOSSES: dict[type, int] = {Squared: SQUARED, Logistic: LOGISTIC, Poisson: POISSON, Gamma: GAMMA}

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


def code_of(loss: Loss, X: Array | None) -> int | None:
    """Return the code of a loss that is compiled for such rows; None where array operations have to do.

    X is None for rows that are not one array.
    """
    return None if X is None or is_other(X) else LOSSES.get(type(loss))


@in_place
def room(rows: int, dtype: Any) -> Array:
    """Return zeros for so many rows, and for what a vector of eight reaches beyond them."""
    return np.zeros(-(-rows // ROWS) * ROWS, dtype)


@in_place
def add_losses(
    loss: int, m: int, y: Array, s: Array, start: int, mask: Array, z: Array, residual: Array, at: int
) -> Any:
    """Set the residuals s d loss / dz of m rows at their z, and return the sums of s loss and of the residuals.

    y and s, if there is an s, are read from `start`, z and the residuals lie from `at`; mask (m,) is 0 for what is no
    row. After each there is room for eight.
    """
    values = zero_rows()
    slopes = zero_rows()
    for i in range(0, m, ROWS):
        t, target, weight = load_rows(z, at + i), load_rows(y, start + i), load_rows(mask, i)
        if s.size:
            weight = weight * load_rows(s, start + i)
        if loss == SQUARED:
            value, slope = squared(t, target)
        elif loss == LOGISTIC:
            value, slope = logistic(t, target)
        elif loss == POISSON:
            value, slope = poisson(t, target, 80.0 if z.itemsize == 4 else 300.0)
        else:
            value, slope = gamma(t, target, 80.0 if z.itemsize == 4 else 300.0)
        slope = slope * weight
        store_rows(residual, at + i, slope)
        values = values + value * weight
        slopes = slopes + slope
    return total(values), total(slopes)


@in_place
def squared(z: Any, y: Any) -> Any:
    """Loss = (z - y)^2 / 2, first derivative = z - y."""
    r = z - y
    return r * r * 0.5, r


@in_place
def exp(a: Any) -> Any:
    """Return exp of numbers between LOWEST and -LOWEST.

    exp(a) = 2^k exp(r), |r| <= ln(2) / 2, by its series, which ends where the next term is below rounding.
    """
    shifted = a * LOG2_E + ROUND
    k = shifted - ROUND
    r = (a - k * LN_2_HIGH) - k * LN_2_LOW
    e = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0
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
    e = e * r + 1.0
    return e * power_of_two(shifted)


@in_place
def logistic(z: Any, y: Any) -> Any:
    """Loss = max(z, 0) - y z + log1p(u), first derivative = sigmoid(z) - y, with u = exp(-|z|).

    log1p: the series of 2 artanh(s), |s| <= 0.172, with s = u / (2 + u), or of (u - 1) / 2 for a large u; it ends where
    the next term is below rounding.
    """
    distance = absolute(z)
    u = exp(where_greater(distance, -LOWEST, LOWEST, 0.0 - distance))
    s = where_greater(u, SQRT_2_LESS_1, u - 1.0, u) / where_greater(u, SQRT_2_LESS_1, u + 3.0, u + 2.0)
    q = s * s
    g = q * (1.0 / 21.0) + 1.0 / 19.0
    g = g * q + 1.0 / 17.0
    g = g * q + 1.0 / 15.0
    g = g * q + 1.0 / 13.0
    g = g * q + 1.0 / 11.0
    g = g * q + 1.0 / 9.0
    g = g * q + 1.0 / 7.0
    g = g * q + 0.2
    g = g * q + 1.0 / 3.0
    g = g * q + 1.0
    log1p = 2.0 * s * g + where_greater(u, SQRT_2_LESS_1, LN_2, 0.0)
    value = (where_greater(z, 0.0, z, 0.0) - y * z) + log1p
    return value, where_greater(z, 0.0, 1.0, u) / (1.0 + u) - y


@in_place
def poisson(z: Any, y: Any, top: float) -> Any:
    """Loss = exp(z) - y z, first derivative = exp(z) - y, by the tangent above the top."""
    inside = where_greater(z, top, top, z)
    e = exp(where_greater(0.0 - inside, -LOWEST, LOWEST, inside))
    return e * (1.0 + (z - inside)) - y * z, e - y


@in_place
def gamma(z: Any, y: Any, top: float) -> Any:
    """Loss = z + y exp(-z), first derivative = 1 - y exp(-z), by the tangent below -top."""
    inside = where_greater(0.0 - z, top, -top, z)
    scaled = y * exp(where_greater(inside, -LOWEST, LOWEST, 0.0 - inside))
    return z + scaled * (1.0 - (z - inside)), 1.0 - scaled
