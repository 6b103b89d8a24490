"""What solvers need to know of F beyond `dist_dot.problem.Function`, and the refusal of an F that does not know it.

Each function below returns the F that it was given, as what it was asked to be, or raises SolverError. No round.
"""

from typing import Protocol, runtime_checkable

from dist_dot.baseline import ColumnMoments
from dist_dot.errors import SolverError
from dist_dot.losses import Loss, Squared
from dist_dot.problem import Function
from dist_dot.typing import Array

# What minimises every F: the advice of most refusals.
PLAIN = "LBFGS(preconditioner=None)"


@runtime_checkable
class Columns(Function, Protocol):
    """F of z = X W + b, whose columns can be measured: what a preconditioner needs. See `dist_dot.Objective`.

    No member that is an attribute may cost a round: `isinstance` looks at each of them.
    """

    @property
    def n_features(self) -> int:
        """Columns of X."""

    @property
    def n_outputs(self) -> int:
        """Columns of W."""

    @property
    def fit_intercept(self) -> bool:
        """Whether there is a b."""

    @property
    def alpha(self) -> float | tuple[float, ...]:
        """The L2 strength, or that of each target."""

    @property
    def scale(self) -> Array | None:
        """The scale of each column in the penalty."""

    @property
    def penalty(self) -> Array:
        """The Hessian of the penalty, as its diagonal."""

    def split(self, parameters: Array) -> tuple[Array, Array]:
        """Return W and b of a flat vector."""

    def join(self, W: Array, b: Array) -> Array:
        """Return the flat vector of W and b."""

    def moments(self) -> ColumnMoments:
        """Return the moments of the columns."""

    def curvature(self) -> float:
        """Return the typical curvature of the loss in z."""


@runtime_checkable
class Bounded(Function, Protocol):
    """F whose curvature can be told: what an automatic learning rate needs."""

    @property
    def loss(self) -> Loss:
        """The loss, whose `curvature` says whether there is a bound."""

    def hessian_product(self, parameters: Array, direction: Array) -> Array:
        """Return the Hessian of F at a flat vector times a direction."""

    def curvature_bound_product(self, direction: Array) -> Array:
        """Return H d for an H that is no smaller than the Hessian of F at any point."""


@runtime_checkable
class Curved(Columns, Bounded, Protocol):
    """F that brings its Hessian: what Newton's method needs."""

    def hessian(self, parameters: Array, centre: Array | None = None) -> Array:
        """Return the Hessian of F."""

    def expansion(self, parameters: Array, centre: Array | None = None) -> tuple[float, Array, Array]:
        """Return F, its gradient and its Hessian."""

    def shows_columns(self, parameters: Array) -> bool:
        """Whether an expansion here tells what the columns are."""

    def far_columns(self) -> tuple[Array, Array]:
        """Return the means of columns far from 0, and the sums of squares about them."""

    def null_model(self) -> tuple[float, Array]:
        """Return the sum of the weights, and the flat vector that predicts the mean of y."""

    def least_curvature(self) -> Array:
        """Return the curvature in z that is rounding beside the typical one."""


@runtime_checkable
class LinearRows(Columns, Protocol):
    """F as a sum of one loss over rows and a penalty: what least squares is asked of."""

    @property
    def loss(self) -> Loss:
        """The loss."""

    @property
    def n_targets(self) -> int:
        """Columns of y."""


def columns(function: Function, preconditioner: str) -> Columns:
    """Return F, whose columns can be measured for this preconditioner."""
    if not isinstance(function, Columns):
        raise _refusal(
            function,
            f"preconditioner={preconditioner!r}",
            "the means and the spread of the columns of a linear model",
            PLAIN,
        )
    return function


def bounded(function: Function, who: str) -> Bounded:
    """Return F, whose curvature can be told."""
    if not isinstance(function, Bounded):
        instead = f"a number, such as GradientDescent(learning_rate=0.01, preconditioner=None), or {PLAIN}"
        raise _refusal(function, who, "a bound of the curvature of F, or products with its Hessian", instead)
    return function


def curved(function: Function, who: str) -> Curved:
    """Return F, which brings its Hessian."""
    if not isinstance(function, Curved):
        raise _refusal(function, who, "the Hessian of F, and the columns of a linear model", PLAIN)
    return function


def least_squares(function: Function, who: str) -> LinearRows:
    """Return F, which is a polynomial of the second degree in W and b."""
    if not isinstance(function, LinearRows):
        raise _refusal(function, who, "the squared loss of a linear model", PLAIN)
    if function.loss != Squared():
        raise SolverError(f"{who} needs the squared loss, this is {function.loss.name}: use another solver")
    return function


def _refusal(function: Function, who: str, what: str, instead: str) -> SolverError:
    return SolverError(f"{who} needs {what}, which {function.problem.name} does not have: use {instead}")
