"""What a loop minimises: a `Problem` is data, and bound to the blocks that hold the rows it is a `Function` F.

A problem travels to where the rows are, and is bound there. The linear problem is `dist_dot.objective.Linear`; its
function is `dist_dot.Objective`. Another problem is written as two classes: a frozen dataclass that is a `Problem`, and
a subclass of `Smooth` for its function. `examples/layers.py` trains a network of two layers this way.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from dist_dot.reference import Reference
from dist_dot.rounds.blocks import Blocks
from dist_dot.typing import Array


class Problem(Protocol):
    """What is fitted, without the rows. It must pickle."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def words(self) -> dict[str, Any]:
        """What tells it from other problems, as JSON has it: a checkpoint of other words is refused.

        The keys "data", "solver" and "early stopping" are taken.
        """

    def bind(self, blocks: Blocks) -> "Function":
        """Return F of these rows."""


class Function(Protocol):
    """F of some rows, at flat vectors of `n_parameters` numbers. Each evaluation is one round.

    Every solver can work with these members or with less; what a solver needs beyond them is in
    `dist_dot.solvers.needs`.
    """

    @property
    def problem(self) -> Problem:
        """The problem, with all that was measured when it was bound: it binds to the same F."""

    @property
    def blocks(self) -> Blocks:
        """The rows."""

    @property
    def n_parameters(self) -> int:
        """Length of the flat vector."""

    @property
    def convex(self) -> bool:
        """Whether F is convex. Along a line its slope then only grows, which a line search makes use of."""

    def check(self) -> None:
        """Raise DataError for rows that F is not defined for, before the first evaluation."""

    def start(self) -> Array:
        """Return the flat vector where a run begins that is given no other."""

    def value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """Return F and its gradient (n_parameters,) at a flat vector. One round."""

    def first_value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """Return the same at the start of a run, where it may be cheaper."""

    def values_and_gradients(self, points: Array) -> tuple[Array, Array]:
        """Return F (m,) and its gradients (m, n_parameters) at m points (m, n_parameters)."""

    def reference(self) -> Reference:
        """Return the gradient that a gradient must be small beside, and the rounding of its sums.

        A gradient of zeros stands for the one at the start of the run.
        """

    def rounding(self, parameters: Array) -> float:
        """Return what F may be off by at a flat vector, beyond the rounding of its own sum. No round."""

    def is_rounding(self, parameters: Array, gradient: Array) -> bool:
        """Return whether the gradient at a flat vector is nothing but rounding."""

    def violation(self, parameters: Array, gradient: Array) -> Array:
        """Return how far a point is from optimal (n_parameters,), by its gradient: the stop compares it with tol."""

    def result(self, parameters: Array) -> object:
        """Return what the Fit calls its result."""


P = TypeVar("P", bound=Problem)


@dataclass(frozen=True)
class Smooth(ABC, Generic[P]):
    """A Function of which a subclass says four things: `n_parameters`, `convex`, `start` and `value_and_gradient`.

    The rest has defaults. The gradient at `start()` is what others must be small beside; nothing is known of roundings,
    so a run that ends at them is STALLED; the result is the flat vector; every row is accepted.
    """

    problem: P
    blocks: Blocks

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """Length of the flat vector."""

    @property
    @abstractmethod
    def convex(self) -> bool:
        """Whether F is convex. If in doubt, it is not."""

    @abstractmethod
    def start(self) -> Array:
        """Return the flat vector where a run begins: the same one at each call."""

    @abstractmethod
    def value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """Return F and its gradient (n_parameters,) at a flat vector. One round."""

    def check(self) -> None:
        """Accept every row."""

    def first_value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """Return `value_and_gradient`."""
        return self.value_and_gradient(parameters)

    def values_and_gradients(self, points: Array) -> tuple[Array, Array]:
        """Return F (m,) and its gradients (m, n_parameters) at m points. One round for each point."""
        both = [self.value_and_gradient(point) for point in points]
        return np.array([value for value, _ in both]), np.array([gradient for _, gradient in both])

    def reference(self) -> Reference:
        """Return the gradient at `start()`, wherever the run begins. One round."""
        return Reference(self.first_value_and_gradient(self.start())[1], 0.0, 0.0)

    def rounding(self, parameters: Array) -> float:
        """Return 0: F has the rounding of its own sum and no other."""
        return 0.0

    def is_rounding(self, parameters: Array, gradient: Array) -> bool:
        """Return False: nothing is known of it."""
        return False

    def violation(self, parameters: Array, gradient: Array) -> Array:
        """Return the gradient: it is 0 at a minimum."""
        return gradient

    def result(self, parameters: Array) -> object:
        """Return the flat vector."""
        return parameters
