"""What a solver is."""

from typing import Protocol, TypeVar

from dist_dot.objective import Objective
from dist_dot.reference import Reference
from dist_dot.typing import Array


class State(Protocol):
    """All that a solver remembers: a frozen dataclass of arrays and numbers, so that a checkpoint is its fields."""

    @property
    def parameters(self) -> Array:
        """The flat vector [w, b] at which F was evaluated last."""

    @property
    def value(self) -> float:
        """F there."""

    @property
    def gradient(self) -> Array:
        """The gradient of F there."""


S = TypeVar("S", bound=State)


class Solver(Protocol[S]):
    """Frozen options, and two pure functions of the objective and the state."""

    @property
    def name(self) -> str:
        """The word for it."""

    @property
    def state(self) -> type[S]:
        """The class of its states, to read one back from a checkpoint."""

    def init(self, objective: Objective, parameters: Array) -> S:
        """Evaluate F at the starting point, and whatever the solver needs to know before its first step."""

    def norm(self, state: S, gradient: Array) -> float:
        """Return the Euclidean norm of a gradient of F in the coordinates that the solver moves in."""

    def reference(self, objective: Objective, state: S) -> Reference:
        """Return `objective.reference()`, without a round where the state holds the sums that it is made of."""

    def step(self, objective: Objective, state: S) -> S:
        """Move once. A solver that can come no closer to the minimum returns the state it was given, itself."""
