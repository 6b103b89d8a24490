"""Newton's method: the curvature itself, factorised, or by its products where it is too large for that."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from dist_dot.errors import SolverError
from dist_dot.problem import Function
from dist_dot.reference import Reference
from dist_dot.rounds.layout import check_memory
from dist_dot.solvers.conjugate import conjugate_gradients
from dist_dot.solvers.linesearch import Line, Trial, search
from dist_dot.solvers.needs import Curved, curved
from dist_dot.solvers.scaling import column_scaling, far_scaling, to_parameters, to_scaled_gradient
from dist_dot.typing import Array

# Up to so many parameters the curvature is factorised: 32 MB of it travel, and 3 Gflop factorise it.
LARGEST = 2000
SUMS = 3  # of blocks, which are held at the same time
# After a step that shrank the gradient so much, the factor serves one more, and so on: the curvature has hardly
# changed. On the flights that saves two Hessians of eight.
KEEP = 0.15


@dataclass(frozen=True)
class NewtonState:
    """What Newton's method remembers.

    `factor` is L with L @ L.T the Hessian at `parameters`, in the coordinates of `scale` and `mean` (see
    `dist_dot.solvers.scaling`): those of the parameters themselves, but for columns far from 0, which are centred. For
    conjugate gradients it is (0, 0), all columns are centred and scaled, and `first` is the norm of the first gradient
    there. `least` (n_parameters,), empty for conjugate gradients, is the curvature below which a coordinate has none.
    `contraction` is by how much the last step shrank the gradient. `note` names the columns that are combinations of
    others.
    """

    parameters: Array
    value: float
    gradient: Array
    factor: Array
    scale: Array
    mean: Array
    least: Array
    first: float
    contraction: float
    note: str = ""


@dataclass(frozen=True)
class Newton:
    """w <- w - t H^-1 g, with the Hessian H of F at w; Nocedal and Wright, Numerical optimization (2006), section 3.3.

    method
        "cholesky": each round brings the Hessian beside the gradient, n_parameters^2 numbers, and the loop's thread
        factorises it; near the minimum the last factor serves on, and a round is a pass. "cg": conjugate gradients on
        products with the Hessian, a round each, as exact as the gradient deserves (their algorithm 7.1). "auto":
        "cholesky" up to 2,000 parameters.

    Cost: with "cholesky" three rounds to start, two of which the stop needs anyway, and one per step, n p^2 operations
    each; three for a step that is too long as it is. Where columns are far from 0, they are centred: two more to start.
    With "cg" three rounds to start, and for each step one and as many as there are products.

    F must be convex. Where columns without a penalty are combinations of others, w is one of many with the same
    predictions, and a note of the state says so; what the classes of softmax have in common is 0. Raises SolverError
    for an unknown method, and for a Hessian that is not finite.
    """

    method: Literal["auto", "cholesky", "cg"] = "auto"

    name: ClassVar[str] = "newton"
    state: ClassVar[type[NewtonState]] = NewtonState

    def __post_init__(self) -> None:
        if self.method not in ("auto", "cholesky", "cg"):
            raise SolverError(f"method is {self.method!r}: give 'auto', 'cholesky' or 'cg'")

    def require(self, function: Function) -> None:
        """Raise SolverError for an F that does not bring its Hessian."""
        curved(function, self.name)

    def init(self, function: Function, parameters: Array) -> NewtonState:
        """Evaluate F at the start, and its Hessian or the columns."""
        objective = curved(function, self.name)
        if self.method == "cholesky" or (self.method == "auto" and objective.n_parameters <= LARGEST):
            shape = (SUMS, objective.n_parameters, objective.n_parameters)
            check_memory(shape, "Hessians of a few blocks", "name a solver without them, such as 'lbfgs'")
            begin = objective.expansion(parameters) if objective.shows_columns(parameters) else None
            scale, mean, least = far_scaling(objective, parameters)
            if begin is None or mean.any():
                begin = objective.expansion(parameters, mean)
            value, gradient, hessian = begin
            state = NewtonState(parameters, value, gradient, hessian, scale, mean, least, 0.0, 1.0)
            return _with_factor(objective, state, hessian)
        scale, mean = column_scaling(objective, parameters)
        value, gradient = objective.first_value_and_gradient(parameters)
        first = float(np.linalg.norm(to_scaled_gradient(gradient, scale, mean)))
        return NewtonState(parameters, value, gradient, np.zeros((0, 0)), scale, mean, np.zeros(0), first, 1.0)

    def norm(self, state: NewtonState, gradient: Array) -> float:
        """Return the Newton decrement sqrt(g.T H^-1 g), the size of a gradient in every coordinates; else as L-BFGS."""
        scaled = to_scaled_gradient(gradient, state.scale, state.mean)
        if state.factor.size:
            scaled = solve_triangular(state.factor, scaled, lower=True, check_finite=False)
        return float(np.linalg.norm(scaled))

    def reference(self, function: Function, state: NewtonState) -> Reference:
        """Return what a gradient is small beside. Two rounds, which "cholesky" has made to start."""
        return function.reference()

    def step(self, function: Function, state: NewtonState) -> NewtonState:
        """Move once; the same state again where no step lowers F."""
        move = self._factorised if state.factor.size else self._by_products
        return move(cast(Curved, function), state)

    def _factorised(self, objective: Curved, state: NewtonState) -> NewtonState:
        """One round where the whole step is accepted, three where several shorter ones are tried."""
        g = to_scaled_gradient(state.gradient, state.scale, state.mean)
        d = -cho_solve((state.factor, True), g, check_finite=False)
        direction = apart(to_parameters(d, state.scale, state.mean), objective, state.parameters)
        slope = float(d @ g) if objective.loss.outputs == 1 else float(direction @ state.gradient)
        line = Line(objective, state.parameters, direction, state.value, slope)
        if not line.slope < 0:
            return state
        if state.contraction <= KEEP:
            trial, hessian = line.one(1.0), None
        else:
            value, gradient, hessian = objective.expansion(line.point(1.0), state.mean)
            trial = line.trial(1.0, value, gradient)
        whole = line.accepts(trial)
        if not whole:
            found = search(line, trial)
            if found is None:
                return state
            trial = found
        if self._only_rounds(line, state, trial):
            return state
        moved = replace(
            state,
            parameters=line.point(trial.step),
            value=trial.value,
            gradient=trial.gradient,
            contraction=self.norm(state, trial.gradient) / self.norm(state, state.gradient),
        )
        if not whole:
            hessian = objective.hessian(moved.parameters, state.mean)
        return moved if hessian is None else _with_factor(objective, moved, hessian)

    def _by_products(self, objective: Curved, state: NewtonState) -> NewtonState:
        """One round for each product and one for the step, where the whole of it is accepted."""
        g = to_scaled_gradient(state.gradient, state.scale, state.mean)

        def product(d: Array) -> Array:
            image = objective.hessian_product(state.parameters, to_parameters(d, state.scale, state.mean))
            return apart(to_scaled_gradient(image, state.scale, state.mean), objective)

        # As exact as it pays: loose at first, and superlinear near the minimum.
        exactness = min(0.1, np.sqrt(float(np.linalg.norm(g)) / state.first)) if state.first else 0.1
        d = conjugate_gradients(product, apart(-g, objective), exactness)
        direction = apart(to_parameters(d, state.scale, state.mean), objective, state.parameters)
        slope = float(d @ g) if objective.loss.outputs == 1 else float(direction @ state.gradient)
        line = Line(objective, state.parameters, direction, state.value, slope)
        trial = line.one(1.0) if line.slope < 0 else None
        if trial is not None and not line.accepts(trial):
            trial = search(line, trial)
        if trial is None or self._only_rounds(line, state, trial):
            return state
        return replace(state, parameters=line.point(trial.step), value=trial.value, gradient=trial.gradient)

    def _only_rounds(self, line: Line, state: NewtonState, trial: Trial) -> bool:
        """Whether the gradient of a step is no smaller, and it may have gained the rounding of F alone."""
        if np.abs(trial.gradient).max(initial=0.0) < np.abs(state.gradient).max(initial=0.0):
            return False
        if self.norm(state, trial.gradient) < self.norm(state, state.gradient):
            return False
        eps = float(np.finfo(line.function.blocks.cuts.dtype).eps)
        rounding = max(8.0 * eps * abs(state.value), line.function.rounding(state.parameters))
        gained = trial.value < state.value - rounding or (line.surely_no_higher(trial) and -line.slope > rounding)
        return not gained


def _with_factor(objective: Curved, state: NewtonState, hessian: Array) -> NewtonState:
    """Return the state with the factor of its Hessian."""
    factor, dependent = factorise(with_least(anchored(hessian, objective), state.scale, state.least), objective)
    return replace(state, factor=factor, note=combinations(dependent, state.scale, objective))


def apart(direction: Array, objective: Curved, parameters: Array | None = None) -> Array:
    """Return a direction without what the classes have in common, or to where the parameters have it not.

    There F is lowest with a penalty, and W is the smallest without one: see `anchored`. For a loss of one output it is
    the direction itself.
    """
    if objective.loss.outputs == 1:
        return direction
    each = direction.reshape(-1, objective.n_outputs)
    now = each if parameters is None else each + parameters.reshape(each.shape)
    result: Array = (each - now.mean(axis=1, keepdims=True)).ravel()
    return result


def with_least(hessian: Array, scale: Array, least: Array) -> Array:
    """Return the Hessian without the coordinates of scale 0, and with the least curvature where others have less."""
    if not scale.all():
        each = np.repeat(scale, len(hessian) // scale.size)
        hessian = hessian * each * each[:, None]
    missing = np.maximum(least - np.diag(hessian), 0.0)
    return hessian + np.diag(missing) if missing.any() else hessian


def anchored(hessian: Array, objective: Curved) -> Array:
    """Return the Hessian with curvature along what all classes have in common, which their loss does not see.

    Adding a number to the z of each class changes no probability: along such directions the Hessian is that of the
    penalty, or 0. Newton's step there is known, to where the classes' parameters add up to 0. It has no share in the
    step of what tells classes apart, and neither has what is added here: the mean of the diagonal, for each column.
    """
    k = objective.n_outputs
    if objective.loss.outputs == 1:
        return hessian
    blocks = hessian.reshape(-1, k, len(hessian) // k, k).copy()
    rows = np.arange(len(blocks))
    blocks[rows, :, rows, :] += np.einsum("icic->i", blocks)[:, None, None] / k**2
    result: Array = blocks.reshape(hessian.shape)
    return result


def factorise(hessian: Array, objective: Curved) -> tuple[Array, Array]:
    """Return the lower L with L @ L.T = H for columns of any scale, and the coordinates that depend on earlier ones.

    H is scaled to a diagonal of 1 first, and gets as little more on it as its rounding asks for: a direction along
    which F does not change (one-hot columns beside an intercept) has a singular H. What is left of a column beside
    those before it is the square of its entry on the diagonal of L; the columns with nothing left but that little
    depend on the others. Where H is the rounding of float64 alone along such a direction, so is a gradient, and H gets
    a curvature of 1, so that no step goes there; what float32 products cannot tell from flat may be real. Raises
    SolverError for an H that is not finite.
    """
    if not np.isfinite(hessian).all():
        raise SolverError(f"the curvature of the {objective.loss.name} loss is not finite here: use the solver 'lbfgs'")
    diagonal = np.diag(hessian)
    root = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    unit = hessian / root / root[:, None]
    more = len(hessian) * float(np.finfo(objective.blocks.cuts.dtype).eps)
    while True:
        try:
            lower: Array = np.linalg.cholesky(unit + more * np.eye(len(hessian)))
        except np.linalg.LinAlgError:
            more *= 100.0
        else:
            break
    # The roundings of the Hessian and of the factor add to what was put there: 2 .. 5 times it were seen.
    dependent = np.flatnonzero(np.diag(lower) ** 2 <= 8.0 * more * np.diag(unit))
    if dependent.size:
        flat = _flat(unit, lower, dependent)
        lower = np.linalg.cholesky(unit + flat @ flat.T + more * np.eye(len(hessian)))
    return root[:, None] * lower, dependent


def _flat(unit: Array, lower: Array, dependent: Array) -> Array:
    """Return an orthonormal basis (n, m) of the directions along which a Hessian is the rounding of float64.

    There are no more than columns that depend on others, and two inverse iterations find them.
    """
    basis = np.eye(len(lower))[:, dependent]
    for _ in range(2):
        basis = np.linalg.qr(cho_solve((lower, True), basis, check_finite=False))[0]
    values, vectors = np.linalg.eigh(basis.T @ unit @ basis)
    rounding = 8.0 * float(np.finfo(np.float64).eps) * np.sqrt(len(unit))
    flat: Array = basis @ vectors[:, values <= rounding]
    return flat


def combinations(dependent: Array, scale: Array, objective: Curved) -> str:
    """Return in words which columns are combinations of others: those that depend on them, and constant ones.

    A constant column is held by a scale of 0; it is a combination where it has no penalty.
    """
    held = np.flatnonzero((scale == 0) & (objective.penalty.reshape(len(scale), -1).min(axis=1) == 0))
    numbers = sorted({int(number) // objective.n_outputs for number in dependent} | set(map(int, held)))
    if not numbers:
        return ""
    names = [f"column {j}" if j < objective.n_features else "the intercept" for j in numbers]
    listed = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
    return f"combinations of other columns, to rounding: {listed}; w is one of many with the same predictions"
