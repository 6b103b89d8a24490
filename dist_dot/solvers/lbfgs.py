"""L-BFGS: the curvature, as the last few steps have shown it."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from dist_dot.errors import SolverError
from dist_dot.problem import Function
from dist_dot.reference import Reference
from dist_dot.solvers.linesearch import Line, search
from dist_dot.solvers.needs import columns
from dist_dot.solvers.scaling import PRECONDITIONERS, coordinates, to_parameters, to_scaled_gradient
from dist_dot.typing import Array

# The cosine of a step and its change of the gradient below which they say nothing of the curvature.
FLAT = 1e-10
# Steps in which neither F nor the gradient need become smaller, where F is rounding.
PATIENCE = 10


@dataclass(frozen=True)
class LBFGSState:
    """What L-BFGS remembers.

    `steps` and `changes` (memory, n_parameters) are the last moves and what they changed in the gradient, in the scaled
    coordinates of `scale` and `mean` (see `dist_dot.solvers.scaling`); the newest are last, and `count` of them count.
    `smallest` is the norm of the smallest gradient so far, and `waited` the steps since then, where F said nothing.
    """

    parameters: Array
    value: float
    gradient: Array
    steps: Array
    changes: Array
    count: int
    scale: Array
    mean: Array
    smallest: float
    waited: int


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS: Nocedal and Wright, Numerical optimization (2006), algorithms 7.4 and 7.5.

    memory
        The number of steps whose curvature is remembered. Each costs two vectors of n_parameters numbers in the loop,
        and nothing on the workers.
    preconditioner
        "diagonal": the columns are centred (with an intercept) and scaled to curvature 1, as algebra on W: X is not
        touched, and F, its penalty and its minimum stay what they are. "row_space": the columns are centred and not
        scaled, so that W from 0 stays in the space of the rows: the smallest W where columns depend on each other.
        None: the coordinates of W themselves. This alone works for every F.

    Where columns without a penalty are combinations of others, many w have the same predictions; from a start at 0 it
    finds the one that is smallest in the coordinates that it moves in.

    Cost: three rounds to start, two of which the stop needs anyway, and one more with a preconditioner where columns
    are far from 0; then one per step, and one more for each four steps of a line search that the first does not end.

    F need not be convex: the run ends where the gradient is 0, which may be one of several minima. Raises SolverError
    for a memory below 1, and for a preconditioner and an F whose columns cannot be measured.
    """

    memory: int = 10
    preconditioner: Literal["diagonal", "row_space"] | None = "diagonal"

    name: ClassVar[str] = "lbfgs"
    state: ClassVar[type[LBFGSState]] = LBFGSState

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise SolverError(f"memory is {self.memory!r}: give a number of steps >= 1")
        if self.preconditioner not in (None, *PRECONDITIONERS):
            raise SolverError(f"preconditioner is {self.preconditioner!r}: give None, 'diagonal' or 'row_space'")

    def require(self, function: Function) -> None:
        """Raise SolverError for a preconditioner and an F whose columns cannot be measured."""
        if self.preconditioner is not None:
            columns(function, self.preconditioner)

    def init(self, function: Function, parameters: Array) -> LBFGSState:
        """Evaluate F at the start, and measure the columns."""
        scale, mean = coordinates(self.preconditioner, function, parameters)
        empty = np.zeros((self.memory, function.n_parameters))
        value, gradient = function.first_value_and_gradient(parameters)
        return LBFGSState(parameters, value, gradient, empty, empty, 0, scale, mean, np.inf, 0)

    def norm(self, state: LBFGSState, gradient: Array) -> float:
        """Return the Euclidean norm of a gradient of F in the scaled coordinates."""
        return float(np.linalg.norm(to_scaled_gradient(gradient, state.scale, state.mean)))

    def reference(self, function: Function, state: LBFGSState) -> Reference:
        """Return what a gradient is small beside. Two rounds, which a preconditioner has made to start."""
        return function.reference()

    def step(self, function: Function, state: LBFGSState) -> LBFGSState:
        """Move once. One round in the common case; the same state again where no step lowers F."""
        g = to_scaled_gradient(state.gradient, state.scale, state.mean)
        d = -inverse_product(state.steps[-state.count :], state.changes[-state.count :], g) if state.count else -g
        direction = to_parameters(d, state.scale, state.mean)
        line = Line(function, state.parameters, direction, state.value, float(d @ g))
        trial = line.one(1.0) if line.slope < 0 else None
        if trial is not None and not line.accepts(trial):
            trial = search(line, trial)
        if trial is not None:
            # Where F says nothing any more the slope does, and the gradient must shrink, if not with every step.
            scaled = to_scaled_gradient(trial.gradient, state.scale, state.mean)
            after = float(np.linalg.norm(scaled))
            waited = 0 if line.surely_no_higher(trial) or after < state.smallest else state.waited + 1
            trial = trial if waited <= PATIENCE else None
        if trial is None:  # forget what misled, if anything did
            return replace(state, count=0) if state.count else state
        moved = replace(
            state,
            parameters=line.point(trial.step),
            value=trial.value,
            gradient=trial.gradient,
            smallest=min(state.smallest, after),
            waited=waited,
        )
        step, change = trial.step * d, scaled - g
        if not step @ change > FLAT * np.linalg.norm(step) * np.linalg.norm(change):
            return moved  # no curvature along it, but rounding
        return replace(
            moved,
            steps=np.concatenate([state.steps[1:], [step]]),
            changes=np.concatenate([state.changes[1:], [change]]),
            count=min(state.count + 1, self.memory),
        )


def inverse_product(steps: Array, changes: Array, gradient: Array) -> Array:
    """Return the approximate inverse Hessian times a gradient: the two-loop recursion, oldest pair first.

    It starts from gamma * I with gamma = s.y / y.y of the newest pair, the inverse curvature along it.
    """
    q = gradient
    rho = [1.0 / float(s @ y) for s, y in zip(steps, changes, strict=True)]
    weights = []
    for s, y, r in reversed(list(zip(steps, changes, rho, strict=True))):
        weights.append(r * float(s @ q))
        q = q - weights[-1] * y
    product: Array = q / (rho[-1] * float(changes[-1] @ changes[-1]))
    for s, y, r, a in zip(steps, changes, rho, reversed(weights), strict=True):
        product = product + (a - r * float(y @ product)) * s
    return product
