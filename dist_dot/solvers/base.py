"""What a solver is."""

from dataclasses import Field
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from dist_dot.problem import Function
from dist_dot.reference import Reference
from dist_dot.typing import Array


class State(Protocol):
    """All that a solver remembers: a frozen dataclass of arrays and numbers, so that a checkpoint is its fields."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def parameters(self) -> Array:
        """The flat vector at which F was evaluated last."""

    @property
    def value(self) -> float:
        """F there."""

    @property
    def gradient(self) -> Array:
        """The gradient of F there."""


S = TypeVar("S", bound=State)


class Solver(Protocol[S]):
    """Frozen options, and pure functions of F and the state."""

    @property
    def name(self) -> str:
        """The word for it."""

    @property
    def state(self) -> type[S]:
        """The class of its states, to read one back from a checkpoint."""

    def require(self, function: Function) -> None:
        """Raise SolverError for an F that lacks what the solver needs: see `dist_dot.solvers.needs`. No round."""

    def init(self, function: Function, parameters: Array) -> S:
        """Evaluate F at the starting point, and whatever the solver needs to know before its first step."""

    def norm(self, state: S, gradient: Array) -> float:
        """Return the Euclidean norm of a gradient of F in the coordinates that the solver moves in."""

    def reference(self, function: Function, state: S) -> Reference:
        """Return `function.reference()`, without a round where the state holds the sums that it is made of."""

    def step(self, function: Function, state: S) -> S:
        """Move once. A solver that can come no closer to the minimum returns the state it was given, itself."""


AnySolver: TypeAlias = Solver[Any]
"""A solver, whatever its states are."""
