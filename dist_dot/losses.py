"""Losses: per-row mathematics in the linear predictor z = <x, w> + b, and nothing else.

Each loss states its domain (which y it accepts), its link (how z becomes a prediction), its formula and the constant
that the formula leaves out. `value`, `first` and `second` are elementwise over arrays of any shape and any array
library; the sums over rows, the weights and the penalty belong to `dist_dot.objective`.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from dist_dot.typing import Array


class Loss(Protocol):
    """Per-row loss and its derivatives in z."""

    @property
    def name(self) -> str:
        """The word for it in a job file."""

    @property
    def tile(self) -> int:
        """The number of its compiled form in `dist_dot.blocks.kernels`."""

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
    tile: ClassVar[int] = 0
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
