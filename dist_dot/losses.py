"""Losses: per-row mathematics in the linear predictor z = <x, w> + b, and nothing else.

Each loss states its domain (which y it accepts), its link (how z becomes a prediction), its formula and the constant
that the formula leaves out of half the deviance. The methods are elementwise over arrays of any shape and of any
library that speaks the array API; the sums over rows, the weights and the penalty belong to `dist_dot.objective`.

A loss with several `outputs` (softmax) has one z for each of them, along the last axis: y (...), z (..., outputs).

A loss of your own is a `ScalarLoss`, made of functions of two numbers, which are compiled into the pass; or a class
with these methods, which runs as array operations and takes two to four times as long. On a GPU such a class gets a
pass of one read of X where it has an attribute `cuda`: C++ that sets `value`, `slope` and `second`, the loss and its
derivatives in z, from `z` and `y`, all of them of the type T, float or double::

    @dataclass(frozen=True)
    class LogCosh:
        cuda: ClassVar[str] = "const T r = z - y; value = log(cosh(r)); slope = tanh(r); second = T(1) - slope * slope;"
        ...
"""

import math
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, ClassVar, Protocol

import numpy as np

from dist_dot.errors import InputError
from dist_dot.scalar_loss import ScalarLoss as ScalarLoss
from dist_dot.typing import Array

# The smallest y of a domain that ends at 0 without it: positive in float32 too.
POSITIVE = float(np.finfo(np.float32).tiny)
# The largest size of an offset whose exponential is computed.
EXPONENT = 300.0


def _namespace(z: Any) -> Any:
    """Return the array library of z; NumPy for a number."""
    if isinstance(z, np.ndarray | np.generic | float | int):
        return np
    from array_api_compat import array_namespace

    return array_namespace(z)


def _sum_outputs(z: Any) -> Any:
    """Return the sums over the last axis (..., 1). CuPy compiles its own for seconds; additions are there at once."""
    xp = _namespace(z)
    if xp is np:
        return np.sum(z, axis=-1, keepdims=True)
    return reduce(add, (z[..., c : c + 1] for c in range(z.shape[-1])))


def _largest_output(z: Any) -> Any:
    """Return the largest of the last axis (..., 1), as above."""
    xp = _namespace(z)
    if xp is np:
        return np.max(z, axis=-1, keepdims=True)
    return reduce(xp.maximum, (z[..., c : c + 1] for c in range(z.shape[-1])))


class Loss(Protocol):
    """Per-row loss and its derivatives in z."""

    @property
    def name(self) -> str:
        """The word for it in a job file."""

    @property
    def domain(self) -> tuple[float, float]:
        """The smallest and the largest y that it accepts."""

    @property
    def curvature(self) -> float | None:
        """The supremum of d2 loss / dz2 over all y and z (of its largest eigenvalue); None where there is none."""

    @property
    def outputs(self) -> int:
        """How many z belong to one y: 1, or k where y is the code 0 .. k - 1 of a class."""

    def value(self, y: Array, z: Array) -> Array:
        """Return loss(y, z), (...)."""

    def first(self, y: Array, z: Array) -> Array:
        """Return d loss / dz, of the shape of z."""

    def second(self, y: Array, z: Array) -> Array:
        """Return d2 loss / dz2: elementwise, or (..., outputs, outputs) where there are several."""

    def dropped(self, y: Array) -> Array:
        """Return what `value` leaves out, elementwise: with it the smallest value over all z is 0, for hard labels."""

    def link(self, mean: Any) -> Any:
        """Return the z that predicts `mean` for every row: the intercept of the model without features."""

    def predict(self, z: Array) -> Array:
        """Return the expected y at z; with several outputs the probabilities of the classes."""


@dataclass(frozen=True)
class Squared:
    """Squared error.

    Domain: every real y. Link: identity. Formula: (y - z)^2 / 2. Nothing is dropped.
    """

    name: ClassVar[str] = "squared"
    domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    curvature: ClassVar[float | None] = 1.0
    outputs: ClassVar[int] = 1

    def value(self, y: Array, z: Array) -> Array:
        """Return (y - z)^2 / 2."""
        residual: Array = z - y
        return 0.5 * residual * residual

    def first(self, y: Array, z: Array) -> Array:
        """Return z - y."""
        return z - y

    def second(self, y: Array, z: Array) -> Array:
        """Return 1 for every row."""
        return 0.0 * z + 1.0

    def dropped(self, y: Array) -> Array:
        """Return 0 for every row."""
        return 0.0 * y

    def link(self, mean: float) -> float:
        """Return the mean itself."""
        return mean

    def predict(self, z: Array) -> Array:
        """Return z itself."""
        return z


@dataclass(frozen=True)
class Huber:
    """Squared error near y, absolute error away from it (Huber, Robust estimation of a location parameter (1964)).

    Domain: every real y. Link: identity. Formula: r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2), with
    r = z - y. Nothing is dropped. delta is on the scale of y. Raises InputError for a delta that is not positive.
    """

    delta: float = 1.35

    name: ClassVar[str] = "huber"
    domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    curvature: ClassVar[float | None] = 1.0
    outputs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not (np.isfinite(self.delta) and self.delta > 0):
            raise InputError(f"delta is {self.delta!r}: give a positive number, on the scale of y")

    def value(self, y: Array, z: Array) -> Array:
        """Return c (r - c / 2) with c = r cut off at +-delta, which is both formulas."""
        residual: Array = z - y
        cut = self.first(y, z)
        return cut * (residual - 0.5 * cut)

    def first(self, y: Array, z: Array) -> Array:
        """Return z - y, cut off at +-delta."""
        residual: Array = _namespace(z).clip(z - y, -self.delta, self.delta)
        return residual

    def second(self, y: Array, z: Array) -> Array:
        """Return 1 where |z - y| <= delta, else 0."""
        one = 0.0 * z + 1.0
        second: Array = _namespace(z).where(abs(z - y) <= self.delta, one, 0.0 * one)
        return second

    def dropped(self, y: Array) -> Array:
        """Return 0 for every row."""
        return 0.0 * y

    def link(self, mean: float) -> float:
        """Return the mean itself."""
        return mean

    def predict(self, z: Array) -> Array:
        """Return z itself."""
        return z


@dataclass(frozen=True)
class Logistic:
    """Negative log likelihood of a Bernoulli y.

    Domain: 0 <= y <= 1, a label or a probability. Link: logit. Formula: log(1 + exp(z)) - y z. Nothing is dropped.
    Stable for every finite z.
    """

    name: ClassVar[str] = "logistic"
    domain: ClassVar[tuple[float, float]] = (0.0, 1.0)
    curvature: ClassVar[float | None] = 0.25
    outputs: ClassVar[int] = 1

    def value(self, y: Array, z: Array) -> Array:
        """Return log(1 + exp(z)) - y z."""
        xp = _namespace(z)
        value: Array = (xp.where(z > 0, z, 0.0 * z) - y * z) + xp.log1p(xp.exp(-abs(z)))
        return value

    def first(self, y: Array, z: Array) -> Array:
        """Return sigmoid(z) - y."""
        first: Array = self.predict(z) - y
        return first

    def second(self, y: Array, z: Array) -> Array:
        """Return sigmoid(z) (1 - sigmoid(z))."""
        u = _namespace(z).exp(-abs(z))
        second: Array = u / (1.0 + u) ** 2
        return second

    def dropped(self, y: Array) -> Array:
        """Return 0 for every row."""
        return 0.0 * y

    def link(self, mean: float) -> float:
        """Return log(mean / (1 - mean)); a mean of 0 or 1 is taken for one that float64 tells from it."""
        mean = min(max(mean, 1e-16), 1.0 - 1e-16)
        return math.log(mean) - math.log1p(-mean)

    def predict(self, z: Array) -> Array:
        """Return sigmoid(z), the probability of y = 1."""
        xp = _namespace(z)
        u = xp.exp(-abs(z))
        probability: Array = xp.where(z >= 0, xp.ones_like(u), u) / (1.0 + u)
        return probability


@dataclass(frozen=True)
class Softmax:
    """Negative log likelihood of one of k classes.

    Domain: y is a whole number, 0 <= y < classes. Link: the logarithm, up to a number that is added to all z of a row.
    Formula: log(sum_c exp(z_c)) - z_y. Nothing is dropped. Stable for every finite z. The curvature is the k x k matrix
    diag(q) - q q.T of the probabilities q, whose eigenvalues stay below 1/2 (Böhning, Multinomial logistic regression
    algorithm (1992)). Raises InputError for fewer than two classes.
    """

    classes: int

    name: ClassVar[str] = "softmax"
    curvature: ClassVar[float | None] = 0.5

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise InputError(f"softmax of {self.classes!r} classes: it takes two or more")

    @property
    def domain(self) -> tuple[float, float]:
        """The codes of the first and of the last class."""
        return 0.0, self.classes - 1.0

    @property
    def outputs(self) -> int:
        """One z for each class."""
        return self.classes

    def value(self, y: Array, z: Array) -> Array:
        """Return log(sum_c exp(z_c - z_y))."""
        xp = _namespace(z)
        above = z - _sum_outputs(self._chosen(y, z) * z)
        top = _largest_output(above)
        value: Array = (xp.log(_sum_outputs(xp.exp(above - top))) + top)[..., 0]
        return value

    def first(self, y: Array, z: Array) -> Array:
        """Return q_c - [c = y]."""
        first: Array = self.predict(z) - self._chosen(y, z)
        return first

    def second(self, y: Array, z: Array) -> Array:
        """Return diag(q) - q q.T."""
        xp = _namespace(z)
        q = self.predict(z)
        row, column = xp.expand_dims(q, axis=-2), xp.expand_dims(q, axis=-1)
        codes = self._codes(z)
        diagonal = xp.astype(xp.expand_dims(codes, axis=-1) == codes, q.dtype)
        second: Array = column * (diagonal - row)
        return second

    def dropped(self, y: Array) -> Array:
        """Return 0 for every row."""
        return 0.0 * y

    def link(self, mean: Array) -> Array:
        """Return log(mean) for the shares of the classes (k,), less its own mean; a share of 0 counts as 1e-16."""
        z = np.log(np.maximum(mean, 1e-16))
        return np.asarray(z - z.mean())

    def predict(self, z: Array) -> Array:
        """Return the probabilities q of the classes."""
        xp = _namespace(z)
        e = xp.exp(z - _largest_output(z))
        probability: Array = e / _sum_outputs(e)
        return probability

    def _codes(self, z: Array) -> Array:
        """Return 0 .. k - 1, on the device of z."""
        xp = _namespace(z)
        if xp is np:
            return np.arange(self.classes)
        from array_api_compat import device

        codes: Array = xp.arange(self.classes, device=device(z))
        return codes

    def _chosen(self, y: Array, z: Array) -> Array:
        """Return 1 for the class of each row and 0 for the others."""
        xp = _namespace(z)
        codes = xp.astype(self._codes(z), z.dtype)
        chosen: Array = xp.astype(xp.expand_dims(xp.asarray(y), axis=-1) == codes, z.dtype)
        return chosen


def _exp(z: Array) -> tuple[Array, Array]:
    """Return exp(z) with z cut off where numbers get out of hand, and by how much z is above that.

    At 300 (80 in float32) exp is 1e130 (5e34): its square and sums over all rows are still finite numbers. Losses go
    on from there by the tangent, so that a line search that went too far sees a slope, and not infinity.
    """
    xp = _namespace(z)
    top = 80.0 if getattr(z, "dtype", None) == xp.float32 else 300.0
    low = xp.where(z > top, 0.0 * z + top, z)
    return xp.exp(low), z - low


@dataclass(frozen=True)
class Poisson:
    """Negative log likelihood of a Poisson y: half its deviance.

    Domain: y >= 0. Link: log. Formula: exp(z) - y z. Dropped: y log(y) - y. For z > 300 (80 in float32) the tangent
    takes the place of exp. The curvature exp(z) has no bound.
    """

    name: ClassVar[str] = "poisson"
    domain: ClassVar[tuple[float, float]] = (0.0, math.inf)
    curvature: ClassVar[float | None] = None
    outputs: ClassVar[int] = 1

    def value(self, y: Array, z: Array) -> Array:
        """Return exp(z) - y z."""
        e, above = _exp(z)
        value: Array = e * (1.0 + above) - y * z
        return value

    def first(self, y: Array, z: Array) -> Array:
        """Return exp(z) - y."""
        return _exp(z)[0] - y

    def second(self, y: Array, z: Array) -> Array:
        """Return exp(z)."""
        e, above = _exp(z)
        second: Array = _namespace(z).where(above > 0, 0.0 * e, e)
        return second

    def dropped(self, y: Array) -> Array:
        """Return y log(y) - y."""
        xp = _namespace(y)
        dropped: Array = y * xp.log(xp.where(y > 0, y, 0.0 * y + 1.0)) - y
        return dropped

    def link(self, mean: float) -> float:
        """Return log(mean); a mean of 0 is taken for 1e-16."""
        return math.log(mean if mean > 0 else 1e-16)

    def predict(self, z: Array) -> Array:
        """Return exp(z)."""
        return _exp(z)[0]

    def exposed(self, y: Any, exposure: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """Return the y and the weights that put an exposure > 0 (n,), the exponential of an offset of z, into F.

        exposure * exp(z) is the expected y: as a loss in z this is the Poisson loss of the rate y / exposure, weighted
        by the exposure. An estimator's alpha * sum(s) then counts exposures.
        """
        return y / exposure, exposure if sample_weight is None else exposure * sample_weight


@dataclass(frozen=True)
class Gamma:
    """Negative log likelihood of a gamma-distributed y, divided by its shape: half its deviance.

    Domain: y > 0. Link: log. Formula: z + y exp(-z). Dropped: -log(y) - 1. For z < -300 (-80 in float32) the tangent
    takes the place of exp. The curvature y exp(-z) has no bound.
    """

    name: ClassVar[str] = "gamma"
    domain: ClassVar[tuple[float, float]] = (POSITIVE, math.inf)
    curvature: ClassVar[float | None] = None
    outputs: ClassVar[int] = 1

    def value(self, y: Array, z: Array) -> Array:
        """Return z + y exp(-z)."""
        e, below = _exp(-z)
        value: Array = z + y * e * (1.0 + below)
        return value

    def first(self, y: Array, z: Array) -> Array:
        """Return 1 - y exp(-z)."""
        first: Array = 1.0 - y * _exp(-z)[0]
        return first

    def second(self, y: Array, z: Array) -> Array:
        """Return y exp(-z)."""
        e, below = _exp(-z)
        second: Array = y * _namespace(z).where(below > 0, 0.0 * e, e)
        return second

    def dropped(self, y: Array) -> Array:
        """Return -log(y) - 1."""
        dropped: Array = -_namespace(y).log(y) - 1.0
        return dropped

    def link(self, mean: float) -> float:
        """Return log(mean); a mean of 0 is taken for 1e-16."""
        return math.log(mean if mean > 0 else 1e-16)

    def predict(self, z: Array) -> Array:
        """Return exp(z)."""
        return _exp(z)[0]

    def exposed(self, y: Any, exposure: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """Return the y and the weights that put an exposure > 0 (n,), the exponential of an offset of z, into F.

        exposure * exp(z) is the expected y: as a loss in z this is the gamma loss of y / exposure, with its weights.
        """
        return y / exposure, sample_weight


def shifted(loss: Loss, y: Any, offset: Any) -> tuple[Any, Any] | None:
    """Return y' and f where loss(y, z + offset) is f loss(y', z), but for what does not depend on z; else None.

    They are float64. What overflows is held where it still has a logarithm.
    """
    if type(loss) in (Squared, Huber):
        return y - offset, 1.0 + 0.0 * offset
    if type(loss) in (Poisson, Gamma):
        xp = _namespace(offset)
        o = xp.minimum(xp.maximum(offset, 0.0 * offset - EXPONENT), 0.0 * offset + EXPONENT)
        return y * xp.exp(-o), xp.exp(o) if type(loss) is Poisson else 1.0 + 0.0 * offset
    return None


def line(loss: Loss, z: Array) -> tuple[Array, Array] | None:
    """Return a (k,) and c (k,), where the slope of a loss at constants z (k,) is a + c y; None where it is no line.

    Of softmax y is 1 for the class of the output and else 0. A loss of your own has none.
    """
    kind = type(loss)
    if kind in (Squared, Logistic, Poisson):
        return loss.first(0.0 * z, z), np.full_like(z, -1.0)
    if kind is Gamma:
        return np.ones_like(z), -_exp(-z)[0]
    return (loss.predict(z), np.full_like(z, -1.0)) if kind is Softmax else None


def lines_of(loss: Loss, z: Array) -> Array | None:
    """Return [z, a, c, d, e] of each constant (k, 5): the slope there is a + c y, the curvature d + e y.

    None where the slope is no line, and for softmax.
    """
    found = line(loss, z)
    if found is None or loss.outputs > 1:
        return None
    a, c = found
    d, e = (0.0 * z, -c) if type(loss) is Gamma else (loss.second(0.0 * z, z), 0.0 * z)
    return np.column_stack([z, a, c, d, e])
