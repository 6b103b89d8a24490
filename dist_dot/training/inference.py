"""What a least-squares fit says about its coefficients, if the model is right: standard errors, t and p values."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from dist_dot import checks
from dist_dot.errors import SolverError
from dist_dot.kernels.blas import one_blas_thread
from dist_dot.solvers.exact import ExactState
from dist_dot.typing import Array


@dataclass(frozen=True)
class Inference:
    """Estimates and their uncertainty under y = X w + b + e, e independent, normal, of variance sigma^2 / s_i.

    Each array has an entry for each coefficient, and a last one for the intercept where there is one: (p + 1,), with
    k targets (p + 1, k). `deviation` is the estimate of sigma, a number or (k,), from `freedom` = n - rank degrees of
    freedom; rows of weight 0 count in n, as statsmodels counts them.
    """

    estimate: Array
    standard_error: Array
    deviation: Array
    freedom: int

    @property
    def t_value(self) -> Array:
        """Estimates in units of their standard errors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.estimate / self.standard_error

    @property
    def p_value(self) -> Array:
        """Probability of a t value at least as large in size, were the coefficient 0."""
        return np.asarray(2.0 * student.sf(np.abs(self.t_value), self.freedom))

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Return the lower and the upper ends of the confidence intervals. Raises InputError unless 0 < level < 1."""
        checks.number("level", level, "give a number between 0 and 1", np.nextafter(0, 1), np.nextafter(1, 0))
        reach = float(student.ppf(0.5 + 0.5 * level, self.freedom)) * self.standard_error
        return self.estimate - reach, self.estimate + reach


@dataclass(frozen=True)
class Ended:
    """What a model keeps of its solver's state: the note, and whether a penalty was in the way of standard errors."""

    note: str = ""
    alpha: float = 0.0


def ended(state: object) -> ExactState | Ended:
    """Return what is worth keeping of a finished fit's state: all of an exact fit that tells standard errors."""
    if isinstance(state, ExactState):
        return Ended(state.note, state.alpha) if state.alpha > 0 else state
    return Ended(getattr(state, "note", ""))


@one_blas_thread()
def inference(state: object) -> Inference:
    """Return the inference of a finished fit from its solver's state. No round; p^3 operations.

    Raises SolverError for a state of another solver than `Exact`, for a penalised fit, whose errors are not these, for
    columns that are combinations of others, which no data can tell apart, and for no more rows than coefficients.
    """
    if isinstance(state, ExactState | Ended) and state.alpha > 0:
        raise SolverError(f"standard errors are those of the unpenalised fit, alpha is {state.alpha:g}: use alpha=0")
    if not isinstance(state, ExactState):
        raise SolverError(
            "standard errors are those of an exact fit of the squared loss: use solver='exact' there. Those of another "
            "loss are the roots of the diagonal of np.linalg.inv(objective.hessian(fit.parameters)), for an Objective "
            "of alpha=0"
        )
    if state.rank < state.mean.size:
        raise SolverError(f"some coefficients are not determined: {state.note}")
    summary = state.summary
    freedom = state.n_samples - state.scale.size
    if freedom < 1:
        raise SolverError(f"{state.n_samples} rows leave no error to estimate beside {state.scale.size} coefficients")
    rows, factor = summary.quadratic(), summary.factor(np.zeros(summary.n_features))
    variance = factor.diagonal()
    if summary.fit_intercept:
        variance = np.append(variance, 1.0 / rows.weight + np.sum(factor.half(rows.mean[:, None]) ** 2))
    deviation = np.sqrt(summary.residual_squares() / freedom)
    estimate = state.parameters.reshape(variance.size, -1)
    error = np.sqrt(variance)[:, None] * deviation
    if summary.n_targets == 1:
        estimate, error, deviation = estimate[:, 0], error[:, 0], deviation[0]
    return Inference(estimate, error, deviation, freedom)
