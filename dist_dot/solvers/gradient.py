"""Gradient descent: fixed, automatic or backtracked rate, Nesterov momentum with adaptive restart, preconditioning."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import numpy as np

from dist_dot.errors import SolverError
from dist_dot.kernels.moments import CentredMoments
from dist_dot.problem import Function
from dist_dot.reference import Reference
from dist_dot.solvers.curvature import largest_curvature
from dist_dot.solvers.least_squares import answered_from
from dist_dot.solvers.needs import Bounded, LinearRows, bounded, columns, least_squares
from dist_dot.solvers.scaling import coordinates, to_parameters, to_scaled, to_scaled_gradient
from dist_dot.typing import Array

# After a step that descended as far as it must, where no bound of the curvature is known.
SHRINK = 0.98
# What errors call two of the options.
REUSE, AUTO_RATE = "reuse='gram'", "learning_rate='auto'"


@dataclass(frozen=True)
class GradientState:
    """What gradient descent remembers. Lower-case letters are those of Beck and Teboulle.

    The solver moves in scaled coordinates v with w = scale * v and b = scale_b * c - <mean, w>; `scale` and `mean`
    hold that map, `v` is the point where F was evaluated, `x` the one without momentum, `t` the momentum counter and
    `curvature` the L of the step 1 / L. `summary` is that of all rows (see `dist_dot.kernels.moments`), or empty.
    """

    parameters: Array
    value: float
    gradient: Array
    v: Array
    x: Array
    t: float
    curvature: float
    scale: Array
    mean: Array
    summary: Array


@dataclass(frozen=True)
class GradientDescent:
    """w <- w - learning_rate * gradient of F(w).

    learning_rate
        A positive number, or "auto": 1 / L with L a safe bound of the largest curvature of F, from some ten Lanczos
        rounds (see `dist_dot.solvers.curvature`). Should the bound turn out too small, a step without momentum that
        does not descend as far as it must doubles L. Where the curvature of the loss has no bound, L is that of F at
        the start, each step is tested and repeated with twice the L until it descends far enough, and L falls by 2 per
        cent with each that does: the backtracking of Beck and Teboulle, section 4, with an L that may come down again.
    momentum
        "nesterov": Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm (2009), FISTA with constant
        step, equations 4.1 - 4.3 without the prox; the momentum starts anew whenever it points uphill (O'Donoghue
        and Candes, Adaptive restart for accelerated gradient schemes (2015), section 3.2, gradient scheme) or F has
        grown (the function scheme there). None: plain gradient descent.
    preconditioner
        "diagonal": the columns are centred (with an intercept) and scaled to curvature 1, as algebra on w: X is not
        touched, and F, its penalty and its minimum stay what they are. None: the coordinates of w themselves.
    reuse
        "gram": for the squared loss, sum up the rows once, and iterate on that: the same iterates to rounding, no
        matter how many, for one round of n p^2 operations. "none": every evaluation is a pass over the rows.

    Cost: three rounds to start, two of which the stop needs anyway, and one more with a preconditioner where columns
    are far from 0; some ten for an automatic rate; then one per step, at two points where steps with momentum are
    backtracked. With reuse="gram" one round in all. Raises SolverError for a learning rate that is not positive, and
    for reuse="gram" with another loss than the squared one. With a number as the learning rate, and without a
    preconditioner, it minimises every F, also one that is not convex.
    """

    learning_rate: float | Literal["auto"] = "auto"
    momentum: Literal["nesterov"] | None = "nesterov"
    preconditioner: Literal["diagonal"] | None = "diagonal"
    reuse: Literal["none", "gram"] = "none"

    name: ClassVar[str] = "gradient_descent"
    state: ClassVar[type[GradientState]] = GradientState

    def __post_init__(self) -> None:
        if isinstance(self.learning_rate, str):
            if self.learning_rate != "auto":
                raise SolverError(f"learning_rate is {self.learning_rate!r}: give a positive number, or 'auto'")
        elif not (np.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise SolverError(f"learning_rate is {self.learning_rate!r}: give a positive number, or 'auto'")
        if self.momentum not in (None, "nesterov"):
            raise SolverError(f"momentum is {self.momentum!r}: give None or 'nesterov'")
        if self.preconditioner not in (None, "diagonal"):
            raise SolverError(f"preconditioner is {self.preconditioner!r}: give None or 'diagonal'")
        if self.reuse not in ("none", "gram"):
            raise SolverError(f"reuse is {self.reuse!r}: give 'none' or 'gram'")

    def require(self, function: Function) -> None:
        """Raise SolverError for an F that lacks what the preconditioner, the rate or `reuse` needs."""
        if self.reuse == "gram":
            least_squares(function, REUSE)
        if self.preconditioner is not None:
            columns(function, self.preconditioner)
        if self.learning_rate == "auto":
            bounded(function, AUTO_RATE)

    def init(self, function: Function, parameters: Array) -> GradientState:
        """Evaluate F at the start, measure the columns and the largest curvature."""
        summary = np.empty(0)
        if self.reuse == "gram":
            rows = least_squares(function, REUSE)
            summary = rows.blocks.reduce(CentredMoments(), np.zeros(0))
            function = answered_from(summary, rows)
        scale, mean = coordinates(self.preconditioner, function, parameters)
        if self.learning_rate == "auto":
            known = bounded(function, AUTO_RATE)

            def product(direction: Array) -> Array:
                raw = to_parameters(direction, scale, mean)
                if known.loss.curvature is None:
                    return to_scaled_gradient(known.hessian_product(parameters, raw), scale, mean)
                return to_scaled_gradient(known.curvature_bound_product(raw), scale, mean)

            curvature = largest_curvature(product, function.n_parameters)
        else:
            curvature = 1.0 / self.learning_rate
        value, gradient = function.first_value_and_gradient(parameters)
        v = to_scaled(parameters, scale, mean)
        return GradientState(parameters, value, gradient, v, v, 1.0, curvature, scale, mean, summary)

    def norm(self, state: GradientState, gradient: Array) -> float:
        """Return the Euclidean norm of a gradient of F in the scaled coordinates."""
        return float(np.linalg.norm(to_scaled_gradient(gradient, state.scale, state.mean)))

    def reference(self, function: Function, state: GradientState) -> Reference:
        """Return what a gradient is small beside. Two rounds that a preconditioner has made; none with "gram"."""
        return self._answering(function, state).reference()

    def step(self, function: Function, state: GradientState) -> GradientState:
        """Move once. One round, which reads X once; none with reuse="gram"."""
        g = to_scaled_gradient(state.gradient, state.scale, state.mean)
        x = state.v - g / state.curvature
        if self.momentum is None:
            return self._evaluate(function, state, g, x, x, 1.0)
        if g @ (x - state.x) > 0:  # uphill: start anew from here, with a plain step
            return self._evaluate(function, state, g, x, x, 1.0)
        t = (1.0 + np.sqrt(1.0 + 4.0 * state.t * state.t)) / 2.0
        v = x + (state.t - 1.0) / t * (x - state.x)
        return self._evaluate(function, state, g, x, v, float(t))

    def _evaluate(
        self, function: Function, state: GradientState, g: Array, x: Array, v: Array, t: float
    ) -> GradientState:
        if self.learning_rate == "auto" and cast(Bounded, function).loss.curvature is None:
            return _backtracked(function, state, g, x, v, t)
        parameters = to_parameters(v, state.scale, state.mean)
        value, gradient = self._answering(function, state).value_and_gradient(parameters)
        rounding = _rounding(function, state, value)
        if self.learning_rate == "auto" and np.array_equal(v, x):
            # A plain step: the descent lemma holds for every step 1 / L if L bounds the curvature.
            promised = g @ g / (2.0 * state.curvature)
            if not value <= state.value - promised + rounding:
                return replace(state, curvature=2.0 * state.curvature, x=state.v, t=1.0)
        elif self.momentum and not value <= state.value + rounding:
            x, t = v, 1.0  # uphill after all: a plain step is next, and with it the check above
        return replace(state, parameters=parameters, value=value, gradient=gradient, v=v, x=x, t=t)

    def _answering(self, function: Function, state: GradientState) -> Function:
        """Return the F that is evaluated: from the sums of all rows where they are known."""
        return answered_from(state.summary, cast(LinearRows, function)) if state.summary.size else function


@np.errstate(invalid="ignore", over="ignore")  # where F is not finite, its gradient is not
def _backtracked(function: Function, state: GradientState, g: Array, x: Array, v: Array, t: float) -> GradientState:
    """Move to v if the plain step to x has descended as far as it must; else stay, with twice the curvature."""
    parameters = np.array([to_parameters(point, state.scale, state.mean) for point in (v, x)])
    if np.array_equal(v, x):
        value, gradient = function.value_and_gradient(parameters[0])
        values, gradients = np.array([value, value]), np.array([gradient, gradient])
    else:
        values, gradients = function.values_and_gradients(parameters)
    promised, rounding = g @ g / (2.0 * state.curvature), _rounding(function, state, values[1])
    descended = values[1] <= state.value - promised + rounding
    if promised <= rounding:
        # Too little to see in the values; what the slopes show is whether the step went beyond the lowest point.
        descended &= to_scaled_gradient(gradients[1], state.scale, state.mean) @ g >= 0
    if not descended:
        return replace(state, curvature=2.0 * state.curvature)
    # Momentum may climb, but not out of sight: the point without it is known as well.
    far = not values[0] - state.value <= abs(state.value)
    return replace(
        state,
        parameters=parameters[int(far)],
        value=float(values[int(far)]),
        gradient=gradients[int(far)],
        v=x if far else v,
        x=x,
        t=1.0 if far else t,
        curvature=SHRINK * state.curvature,
    )


def _rounding(function: Function, state: GradientState, value: float) -> float:
    """Return what near the minimum the difference of two values may be by rounding alone, which must not count."""
    eps = float(np.finfo(function.blocks.cuts.dtype).eps)
    return max(8.0 * eps, 1e-12) * (abs(value) + abs(state.value))
