"""Losses: per-row mathematics in the linear predictor z = <x, w> + b, and nothing else.

Each loss states its domain (which y it accepts), its link (how z becomes a prediction), its formula and the constant
that the formula leaves out. `value`, `first` and `second` are elementwise over arrays of any shape and of any
library that speaks the array API; the sums over rows, the weights and the penalty belong to `dist_dot.objective`. A
loss of your own has these methods too; where it has no compiled pass it runs as array operations.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from dist_dot.typing import Array


def _namespace(z: Any) -> Any:
    """Return the array library of z; NumPy for a number."""
    if isinstance(z, np.ndarray | np.generic | float | int):
        return np
    from array_api_compat import array_namespace

    return array_namespace(z)


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
        """The supremum of d2 loss / dz2 over all y and z; None where there is none."""

    def value(self, y: Array, z: Array) -> Array:
        """Return loss(y, z), elementwise."""

    def first(self, y: Array, z: Array) -> Array:
        """Return d loss / dz, elementwise."""

    def second(self, y: Array, z: Array) -> Array:
        """Return d2 loss / dz2, elementwise."""

    def link(self, mean: float) -> float:
        """Return the z that predicts `mean` for every row: the intercept of the model without features."""

    def predict(self, z: Array) -> Array:
        """Return the expected y at z."""


@dataclass(frozen=True)
class Squared:
    """Squared error.

    Domain: every real y. Link: identity. Formula: (y - z)^2 / 2. Nothing is dropped.
    """

    name: ClassVar[str] = "squared"
    domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    curvature: ClassVar[float | None] = 1.0

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
