"""The losses of the compiled passes: value and derivatives in z, of eight rows at a time, in float64.

exp, log and log1p are polynomials here, without a branch or a call: the math library is called one number at a time.
`dist_dot.kernels.tile_losses` goes over the rows of a tile with them. A loss that is not among these is none the worse
for it but in speed: `dist_dot.kernels.passes` has it as array operations.
"""

from typing import Any, NamedTuple

from numba import njit

from dist_dot.kernels.vectors import absolute, exponent, mantissa, power_of_two, where_greater
from dist_dot.losses import Gamma, Huber, Logistic, Loss, Poisson, Softmax, Squared
from dist_dot.rows.arrays import is_other
from dist_dot.scalar_loss import ScalarLoss
from dist_dot.typing import Array

# The order of operations stands; a product may be added without rounding it first.
in_place: Any = njit(nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True)

SQUARED, LOGISTIC, POISSON, GAMMA, HUBER, SOFTMAX, OWN = range(7)
LOSSES: dict[type, int] = {
    Squared: SQUARED,
    Logistic: LOGISTIC,
    Poisson: POISSON,
    Gamma: GAMMA,
    Huber: HUBER,
    Softmax: SOFTMAX,
    ScalarLoss: OWN,
}


class LossCode(NamedTuple):
    """A loss as compiled code knows it.

    Its kind, the number that it has (delta, or how many classes), and for one of the user's own where in this process
    the function of its rows is.
    """

    kind: int
    number: float = 1.0
    address: int = 0


LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453
# ln 2 in two parts (Cody and Waite): the first has 20 zero bits at its end, so its product with an exponent is exact.
LN_2_HIGH = 0.6931471803691238
LN_2_LOW = 1.9082149292705877e-10
# Added to a small number it leaves the nearest integer in the lowest bits.
ROUND = 1.5 * 2.0**52
# exp(-708) is the smallest that has a normal number for a result.
LOWEST = -708.0
SQRT_2 = 1.4142135623730951
# Between log1p(u) as it stands and as ln 2 + log1p((u - 1) / 2).
SQRT_2_LESS_1 = 0.41421356237309515


def code_of(loss: Loss, X: Array | None) -> LossCode | None:
    """Return the code of a loss that is compiled for such rows; None where array operations have to do.

    X is None for rows that are not one array.
    """
    kind = LOSSES.get(type(loss))
    if kind is None or X is None or is_other(X):
        return None
    address = loss.tiles() if isinstance(loss, ScalarLoss) else 0
    return LossCode(kind, float(getattr(loss, "delta", loss.outputs)), address)


@in_place
def squared(z: Any, y: Any) -> Any:
    """Loss = (z - y)^2 / 2, first derivative = z - y."""
    r = z - y
    return r * r * 0.5, r


@in_place
def huber(z: Any, y: Any, delta: float) -> Any:
    """Loss = c (r - c / 2), first derivative = c, with c = r = z - y cut off at +-delta."""
    r = z - y
    c = where_greater(r, delta, delta, r)
    c = where_greater(0.0 - c, delta, -delta, c)
    return c * (r - 0.5 * c), c


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

    log1p: the series of 2 artanh(s), |s| <= 0.172, with s = u / (2 + u), or of (u - 1) / 2 for a large u.
    """
    distance = absolute(z)
    u = exp(where_greater(distance, -LOWEST, LOWEST, 0.0 - distance))
    s = where_greater(u, SQRT_2_LESS_1, u - 1.0, u) / where_greater(u, SQRT_2_LESS_1, u + 3.0, u + 2.0)
    log1p = 2.0 * s * _artanh(s * s) + where_greater(u, SQRT_2_LESS_1, LN_2, 0.0)
    value = (where_greater(z, 0.0, z, 0.0) - y * z) + log1p
    return value, where_greater(z, 0.0, 1.0, u) / (1.0 + u) - y


@in_place
def log(a: Any) -> Any:
    """Return log of positive normal numbers.

    a = 2^k m, and log m is the series of 2 artanh(s), s = (m - 1) / (m + 1), |s| <= 0.172.
    """
    k, m = exponent(a), mantissa(a)
    k = where_greater(m, SQRT_2, k + 1.0, k)
    m = where_greater(m, SQRT_2, m * 0.5, m)
    s = (m - 1.0) / (m + 1.0)
    return k * LN_2_HIGH + (2.0 * s * _artanh(s * s) + k * LN_2_LOW)


@in_place
def _artanh(q: Any) -> Any:
    """Return artanh(s) / s of q = s^2; the series ends where the next term is below rounding."""
    g = q * (1.0 / 21.0) + 1.0 / 19.0
    g = g * q + 1.0 / 17.0
    g = g * q + 1.0 / 15.0
    g = g * q + 1.0 / 13.0
    g = g * q + 1.0 / 11.0
    g = g * q + 1.0 / 9.0
    g = g * q + 1.0 / 7.0
    g = g * q + 0.2
    g = g * q + 1.0 / 3.0
    return g * q + 1.0


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


@in_place
def curvature_of_logistic(z: Any) -> Any:
    """Return u / (1 + u)^2 with u = exp(-|z|)."""
    distance = absolute(z)
    u = exp(where_greater(distance, -LOWEST, LOWEST, 0.0 - distance))
    return u / ((1.0 + u) * (1.0 + u))


@in_place
def curvature_of_poisson(z: Any, top: float) -> Any:
    """Return exp(z), 0 above the top."""
    inside = where_greater(z, top, top, z)
    return where_greater(z, top, 0.0, exp(where_greater(0.0 - inside, -LOWEST, LOWEST, inside)))


@in_place
def curvature_of_gamma(z: Any, y: Any, top: float) -> Any:
    """Return y exp(-z), 0 below -top."""
    return y * curvature_of_poisson(0.0 - z, top)


@in_place
def curvature_of_huber(z: Any, y: Any, delta: float) -> Any:
    """Return 1 where |z - y| <= delta, else 0; NaN where it is NaN."""
    distance = absolute(z - y)
    return where_greater(distance, delta, 0.0, 1.0) + 0.0 * distance
