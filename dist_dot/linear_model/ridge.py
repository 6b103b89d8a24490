"""Least squares with an L2 penalty."""

from typing import Any, ClassVar, Self

from dist_dot import checks
from dist_dot.linear_model.base import PARAMETERS
from dist_dot.linear_model.least_squares import LeastSquares
from dist_dot.rows.arrays import to_host
from dist_dot.solvers import Solver
from dist_dot.training.fit import Callback


def _strengths(name: str, value: Any) -> float | tuple[float, ...]:
    """Return one L2 strength, or one for each target, given as an array of any library or as a list."""
    return checks.strengths(name, to_host(value))


class Ridge(LeastSquares):
    """Linear least squares with an L2 penalty: ||y - X w - b||^2 + alpha ||w||^2, as in scikit-learn.

    Parameters
    ----------
    alpha : the L2 strength, >= 0, or one for each target (k,). The objective of `dist_dot.Objective` is half of the
        above: the minimum is the same.
    fit_intercept : whether b is fitted. It is not penalised.
    standardize : whether the penalty acts on columns of standard deviation 1 instead of the columns as they are.
    solver : "exact" (one round), "gradient_descent", "auto" (exact up to 2,000 columns, and for few rows; see
        `dist_dot.solvers.choose`), or a solver of `dist_dot.solvers` with its options.
    max_iter : the largest number of steps; exact takes one.
    tol : stop when the gradient is this small a part of that of the best constant; see
        `dist_dot.minimise`. scikit-learn's tol differs.
    callbacks : called with a `dist_dot.Progress` after each step; see `dist_dot.minimise`.
    device : where fits and scores are computed: "auto", where the rows lie; "cpu"; or "cuda", a GPU of this process or
        of the workers. See `dist_dot.lay_out`.

    Attributes
    ----------
    coef_ (p,) and intercept_, or (k, p) and (k,) where y is (n, k); n_iter_ (steps), n_features_in_, feature_names_in_
    (for data frames), and fit_, the `dist_dot.Fit` with the history.

    """

    _allowed: ClassVar = PARAMETERS | {"alpha": _strengths}

    def __init__(
        self,
        alpha: Any = 1.0,
        *,
        fit_intercept: bool = True,
        standardize: bool = False,
        solver: str | Solver[Any] = "auto",
        max_iter: int = 10_000,
        tol: float = 1e-6,
        callbacks: tuple[Callback, ...] = (),
        device: str = "auto",
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.callbacks = callbacks
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to X (n, p) and y (n,) or (n, k), weighted by sample_weight (n,).

        A Dask array with a `distributed.Client` in force is trained on that cluster, anything else in this process.
        Warns with ConvergenceWarning if max_iter was reached. Raises DataError (a ValueError) for data that cannot be
        used, naming row and column.
        """
        self._fit(X, y, sample_weight, _strengths("alpha", self.alpha), self.standardize)
        return self
