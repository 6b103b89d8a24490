"""Least squares with an L2 penalty."""

from typing import Any, Self

from sklearn.base import RegressorMixin

from dist_dot.blocks.layout import float_dtype, lay_out
from dist_dot.linear_model.base import LinearModel
from dist_dot.losses import Squared
from dist_dot.objective import Objective
from dist_dot.solvers import Solver
from dist_dot.training.fit import Callback


class Ridge(RegressorMixin, LinearModel):  # type: ignore[misc, unused-ignore]
    """Linear least squares with an L2 penalty: ||y - X w - b||^2 + alpha ||w||^2, as in scikit-learn.

    Parameters
    ----------
    alpha : the L2 strength, >= 0. The objective of `dist_dot.Objective` is half of the above: the minimum is the same.
    fit_intercept : whether b is fitted. It is not penalised.
    solver : "auto" or "gradient_descent" (the same for now), or a solver of `dist_dot.solvers` with its options.
    max_iter : the largest number of steps; one round each, beside some ten to start.
    tol : stop when the gradient is this small a part of that at 0; see `dist_dot.minimise`. scikit-learn's tol differs.
    callbacks : called with a `dist_dot.Progress` after each round; see `dist_dot.minimise`.

    Attributes
    ----------
    coef_ (p,), intercept_, n_iter_ (steps), n_features_in_, feature_names_in_ (for data frames), and fit_, the
    `dist_dot.Fit` with the history.

    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        fit_intercept: bool = True,
        solver: str | Solver[Any] = "auto",
        max_iter: int = 10_000,
        tol: float = 1e-6,
        callbacks: tuple[Callback, ...] = (),
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.callbacks = callbacks

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to X (n, p) and y (n,), weighted by sample_weight (n,).

        A Dask array with a `distributed.Client` in force is trained on that cluster, anything else in this process.
        Warns with ConvergenceWarning if max_iter was reached. Raises DataError (a ValueError) for data that cannot be
        used, naming row and column.
        """
        X, y, sample_weight = self._checked(X, y, sample_weight)
        objective = Objective(lay_out(X, y, sample_weight), Squared(), float(self.alpha), self.fit_intercept)
        self._minimise(objective, float_dtype(X))
        return self

    def predict(self, X: Any) -> Any:
        """Return X @ coef_ + intercept_, (n,); of a Dask array a Dask array, not computed yet."""
        return self._linear_predictor(X)
