"""Exact: least squares solved from one round, and refined to the last digit where that is asked for."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from dist_dot.errors import SolverError
from dist_dot.kernels.extended import ResidualProducts, add, two_product
from dist_dot.kernels.gathered import Rows
from dist_dot.kernels.moments import CentredMoments, CentredTriangle
from dist_dot.problem import Function
from dist_dot.reference import Reference
from dist_dot.rounds.layout import check_memory
from dist_dot.rows.block import Cuts
from dist_dot.solvers.factor import CONDITION, Factor, Factors
from dist_dot.solvers.least_squares import Quadratic, Summary, reference_of
from dist_dot.solvers.needs import LinearRows, least_squares
from dist_dot.solvers.row_space import Gathered, RowSpace, few_rows
from dist_dot.solvers.scaling import to_scaled_gradient
from dist_dot.typing import Array

EPS = float(np.finfo(np.float64).eps)
# Up to so many columns "auto" sums up second moments, whatever the number of rows: 8 MB travel. Beyond, it gathers the
# rows where they are few.
GATHERED = 1000
SUMS = 3  # of blocks, which are held at the same time
REFINEMENTS = 10
DIGITS = 0.1  # a round that adds less, on average over the coefficients, is the last,
SHRINKS = (
    0.1  # unless the gradient is this small beside that before: coefficients that nearly cancel show no digits yet
)


@dataclass(frozen=True)
class ExactState:
    """What the solver has found out.

    `flat` is the summary of all rows (see `dist_dot.kernels.moments`), with R where `method` is "qr" and second moments
    where it is "gram", or the rows themselves where it is "rows" (see `dist_dot.kernels.gathered`); `scale` and `mean`
    are those of `dist_dot.solvers.scaling`, to columns of norm 1; `condition` is that of X with the penalty, its
    columns so scaled, for "rows" its rows; `rank` counts the columns that are no combinations of others. For "rows"
    both are known once it is `solved`. `note` says in words what was not plain sailing.
    """

    parameters: Array
    value: float
    gradient: Array
    flat: Array
    scale: Array
    mean: Array
    n_samples: int
    alpha: float
    method: str
    condition: float
    rank: int
    solved: bool
    note: str

    @property
    def fit_intercept(self) -> bool:
        """Whether there is an intercept."""
        return self.scale.size > self.mean.size

    @property
    def gathered(self) -> Gathered:
        """All the rows, where `method` is "rows"."""
        return Gathered(self.flat, self.mean.size, self.parameters.size // self.scale.size, self.fit_intercept)

    @property
    def summary(self) -> Summary:
        """All the rows, summed up, where `method` is not "rows"."""
        fit_intercept = self.fit_intercept
        n_targets = self.parameters.size // self.scale.size
        return Summary(self.flat, self.method == "qr", self.n_samples, n_targets, fit_intercept)


@dataclass(frozen=True)
class Exact:
    """The minimum of the squared loss with an L2 penalty, for any number of targets, in one step.

    method
        "gram": means and centred second moments of [X y], then Cholesky with the penalty. Loses the digits of the
        condition of X squared.
        "qr": the triangle of a tall and skinny QR, then rounds of refinement: residuals and their products with X in
        twice the precision, a correction through the triangle, until the digits stop growing (Bjorck, Numerical
        methods for least squares problems (1996), section 2.9; the contraction is the condition times the rounding).
        Loses no more than the digits that the rounding of X itself costs.
        "rows": for fewer rows than columns. The rows travel to the loop, which solves on the n x n side (see
        `dist_dot.solvers.row_space`).
    "auto": "rows" beyond 1,000 columns, where there are fewer rows and at most 64 MB of them; else "gram", and "qr"
        where the condition that it finds is above 1e3.

    Where columns are combinations of others, within rounding and without a penalty, the smallest w is taken and the
    state's note names as many columns. The start of a run does not matter.

    Cost: gram one round, n p^2 operations; qr one round, 2 n p^2 operations, and some three rounds of 60 n p each, auto
    one more than that where it turns to qr. A worker sends (p + k)^2 numbers. rows: one round, in which a worker sends
    its rows; 4 n^2 p operations at the loop. Raises SolverError for another loss, and for "rows" where there are no
    fewer rows than columns, more than 64 MB of them, or a penalty on some columns alone.
    """

    method: Literal["gram", "qr", "rows", "auto"] = "auto"

    name: ClassVar[str] = "exact"
    state: ClassVar[type[ExactState]] = ExactState

    def __post_init__(self) -> None:
        if self.method not in ("gram", "qr", "rows", "auto"):
            raise SolverError(f"method is {self.method!r}: give 'gram', 'qr', 'rows' or 'auto'")

    def require(self, function: Function) -> None:
        """Raise SolverError for another F than the squared loss of a linear model."""
        least_squares(function, self.name)

    def init(self, function: Function, parameters: Array) -> ExactState:
        """Sum up the rows, or gather them. One round; two where "auto" turns to "qr"."""
        objective = least_squares(function, self.name)
        penalty, note = _penalty(objective), ""
        better = by_rows(objective.blocks.cuts) and _even(penalty)
        if self.method == "rows" or (self.method == "auto" and better):
            return _gathered(objective, parameters)
        summary = _summarise(objective, "qr" if self.method == "qr" else "gram")
        factor = summary.factors(penalty)
        if self.method == "auto" and (factor.condition > CONDITION or factor.dropped):
            summary = _summarise(objective, "qr")
            factor = summary.factors(penalty)
            note = f"gram -> qr: {_loses(factor)}"
        elif self.method == "gram" and factor.condition > CONDITION:
            note = _loses(factor)
        if factor.dropped:
            note = _shortfall(factor)
        rows = summary.quadratic()
        value, gradient = _at(objective, rows, parameters)
        return ExactState(
            parameters=parameters,
            value=value,
            gradient=gradient,
            flat=summary.flat,
            scale=np.append(factor.scale, np.full(int(objective.fit_intercept), rows.weight**-0.5)),
            mean=rows.mean,
            n_samples=summary.n_samples,
            alpha=float(np.max(objective.alpha)),
            method="qr" if summary.triangular else "gram",
            condition=factor.condition,
            rank=factor.rank,
            solved=False,
            note=note,
        )

    def norm(self, state: ExactState, gradient: Array) -> float:
        """Return the Euclidean norm of a gradient of F in centred columns of norm 1."""
        return float(np.linalg.norm(to_scaled_gradient(gradient, state.scale, state.mean)))

    def reference(self, function: Function, state: ExactState) -> Reference:
        """Return what a gradient is small beside. No round."""
        objective = least_squares(function, self.name)
        if state.method != "rows":
            return state.summary.reference(objective)
        rows = replace(state.gathered, fit_intercept=True).rows()  # about the means, whether b is fitted or not
        mean = np.append(rows.mean, rows.y_mean)
        spread = np.append(np.sum(rows.X**2, axis=0), np.sum(rows.Y**2, axis=0))
        return reference_of(objective, rows.weight, mean, spread, rows.X.T @ rows.Y)

    def step(self, function: Function, state: ExactState) -> ExactState:
        """Solve. No round for gram and rows; one for each refinement of qr. A solved state is returned as it is."""
        if state.solved:
            return state
        objective = least_squares(function, self.name)
        if state.method == "rows":
            return _from_rows(objective, state)
        rows, factor = state.summary.quadratic(), state.summary.factors(_penalty(objective))
        w = factor.minimum(rows.xy)
        b = rows.intercept(w) if objective.fit_intercept else np.zeros(objective.n_targets)
        parameters = objective.join(w, b)
        if state.method == "qr":
            parameters, value, gradient = _refined(objective, rows, factor, parameters)
        else:
            value, gradient = _at(objective, rows, parameters)
        return replace(state, parameters=parameters, value=value, gradient=gradient, solved=True)


def _loses(factor: Factor | Factors) -> str:
    """Return in words that second moments lose too many digits."""
    return f"the condition is {factor.condition:.1e}, gram is good up to {CONDITION:.0e}"


def by_rows(cuts: Cuts) -> bool:
    """Whether few rows are to be gathered, for they have too many columns to sum up second moments."""
    return cuts.n_features > GATHERED and few_rows(cuts)


def _even(penalty: Array) -> bool:
    """Whether all columns are penalised, or none."""
    return bool(penalty.all() or not penalty.any())


def _gathered(objective: LinearRows, parameters: Array) -> ExactState:
    """Return the state at the start, with all the rows. One round."""
    cuts = objective.blocks.cuts
    if not few_rows(cuts) or not _even(_penalty(objective)):
        raise SolverError(
            "method 'rows' is for fewer rows than columns, up to 64 MB of them, and a penalty on all columns or none; "
            f"X is {cuts.n_samples:,} x {cuts.n_features:,}: use 'auto'"
        )
    flat = objective.blocks.reduce(Rows(), np.zeros(0))
    rows = Gathered(flat, objective.n_features, objective.n_targets, objective.fit_intercept).rows()
    value, gradient = _at(objective, rows, parameters)
    norms = np.sum(rows.X**2, axis=0) + _penalty(objective).reshape(objective.n_features, -1).min(axis=1)
    scale = 1.0 / np.sqrt(np.where(norms > 0, norms, 1.0))
    return ExactState(
        parameters=parameters,
        value=value,
        gradient=gradient,
        flat=flat,
        scale=np.append(scale, np.full(int(objective.fit_intercept), rows.weight**-0.5)),
        mean=rows.mean,
        n_samples=len(rows.X),
        alpha=float(np.max(objective.alpha)),
        method="rows",
        condition=np.nan,
        rank=0,
        solved=False,
        note="",
    )


def _from_rows(objective: LinearRows, state: ExactState) -> ExactState:
    """Solve on the n x n side. No round."""
    rows, penalty = state.gathered.rows(), _penalty(objective)
    w, factor = rows.minimum(penalty)
    parameters = objective.join(w, rows.intercept(w))
    value, gradient = _at(objective, rows, parameters)
    p = objective.n_features
    note = f"rank {factor.rank} of {p:,}: there are fewer rows than columns; the smallest w was taken"
    return replace(
        state,
        parameters=parameters,
        value=value,
        gradient=gradient,
        condition=factor.condition,
        rank=p if penalty.any() else factor.rank,
        solved=True,
        note="" if penalty.any() else note,
    )


def _summarise(objective: LinearRows, method: str) -> Summary:
    """Sum up all rows. One round."""
    triangular, d = method == "qr", objective.n_features + objective.n_targets
    check_memory((SUMS, d, d), "second moments of a few blocks", "name a solver without them, such as 'lbfgs'")
    flat = objective.blocks.reduce(CentredTriangle() if triangular else CentredMoments(), np.zeros(0))
    cuts = objective.blocks.cuts
    return Summary(flat, triangular, cuts.n_samples, cuts.n_targets, objective.fit_intercept)


def _penalty(objective: LinearRows) -> Array:
    """Return the penalty of each column (p,), or where targets have other ones (p, k)."""
    each = objective.penalty[: objective.n_features * objective.n_targets].reshape(objective.n_features, -1)
    return each[:, 0] if np.all(each == each[:, :1]) else each


def _at(objective: LinearRows, rows: Quadratic | RowSpace, parameters: Array) -> tuple[float, Array]:
    """Return F and its gradient at the flat vector. No round."""
    w, b = objective.split(parameters)
    pull = objective.penalty * parameters
    gradient = objective.join(*rows.gradient(w, b))
    return rows.value(w, b) + 0.5 * float(pull @ parameters), gradient + pull


def _refined(
    objective: LinearRows, rows: Quadratic, factor: Factor | Factors, parameters: Array
) -> tuple[Array, float, Array]:
    """Return a better point, F and its gradient there. One round for each point that is looked at."""
    value, gradient = _precisely(objective, parameters)
    correction = _correction(objective, rows, factor, gradient)
    for _ in range(REFINEMENTS):
        digits = _digits(parameters, correction)
        if digits >= -np.log10(EPS):
            break
        candidate = parameters + correction
        its_value, its_gradient = _precisely(objective, candidate)
        correction = _correction(objective, rows, factor, its_gradient)
        gained = _digits(candidate, correction) - digits
        before, after = (_size(objective, rows, factor, each) for each in (gradient, its_gradient))
        shrinks = after < SHRINKS * before
        if gained > 0 or shrinks:
            parameters, value, gradient = candidate, its_value, its_gradient
        if gained < DIGITS and not shrinks:
            break
    return parameters, value, gradient


def _precisely(objective: LinearRows, parameters: Array) -> tuple[float, Array]:
    """Return F and its gradient, summed in twice the precision. One round."""
    w, b = objective.split(parameters)
    sums = objective.blocks.reduce(ResidualProducts(), np.concatenate([w.ravel(), b])).reshape(2, -1)
    high, low = sums[:, w.shape[1] :][:, : objective.n_parameters]
    high, low = add(-high, -low, *two_product(objective.penalty, parameters))
    value = 0.5 * float(np.sum(sums[:, : w.shape[1]]) + objective.penalty @ parameters**2)
    return value, high + low


def _centred(objective: LinearRows, rows: Quadratic, gradient: Array) -> Array:
    """Return the gradient (p, k) of centred columns."""
    in_w, in_b = objective.split(gradient)
    centred: Array = in_w - rows.mean[:, None] * in_b
    return centred


def _size(objective: LinearRows, rows: Quadratic, factor: Factor | Factors, gradient: Array) -> float:
    """Return the norm of a gradient in centred columns of norm 1."""
    return float(np.linalg.norm(factor.scale[:, None] * _centred(objective, rows, gradient)))


def _correction(objective: LinearRows, rows: Quadratic, factor: Factor | Factors, gradient: Array) -> Array:
    """Return the step to the minimum from where F has this gradient."""
    in_b = objective.split(gradient)[1]
    w = -factor.solve(_centred(objective, rows, gradient))
    b = -in_b / rows.weight - rows.mean @ w
    return objective.join(w, b)


def _digits(parameters: Array, correction: Array) -> float:
    """Return how many digits of a coefficient stand, on average: those that the correction leaves as they are."""
    size = np.abs(parameters)
    share = np.where(size > 0, np.abs(correction) / np.where(size > 0, size, 1.0), correction != 0)
    return float(np.mean(-np.log10(np.clip(share, EPS, 1.0))))


def _shortfall(factor: Factor | Factors) -> str:
    """Return in words what a rank below p means."""
    p = factor.scale.size
    listed = ", ".join(map(str, factor.dropped[:10])) + ", ..." * (len(factor.dropped) > 10)
    return f"rank {factor.rank} of {p}: columns {listed} are combinations of others; the smallest w was taken"
