"""scikit-learn estimators: fit, predict, score."""

import warnings
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from dist_dot.blocks.arrays import cast, is_other
from dist_dot.blocks.layout import float_dtype, lay_out
from dist_dot.errors import InputError, SolverError, suggestion
from dist_dot.losses import Squared
from dist_dot.objective import Objective
from dist_dot.solvers import GradientDescent, Solver
from dist_dot.training.fit import Callback, Fit, Status
from dist_dot.training.loop import minimise


def solver_named(name: str | Solver[Any]) -> Solver[Any]:
    """Return the solver that a word stands for; a solver stands for itself.

    "auto" is gradient descent. Raises SolverError for another word.
    """
    if not isinstance(name, str):
        return name
    if name in ("auto", GradientDescent.name):
        return GradientDescent()
    raise SolverError(f"unknown solver {name!r}: {suggestion(name, ('auto', GradientDescent.name))}")


class Ridge(RegressorMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
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
        if not (hasattr(X, "__dask_graph__") or is_other(X)):
            X, y = validate_data(
                self, X, y, dtype=[np.float64, np.float32], y_numeric=True, order="C", ensure_all_finite=True
            )
            if sample_weight is not None:
                sample_weight = np.broadcast_to(np.asarray(sample_weight, X.dtype), y.shape)
        blocks = lay_out(X, y, sample_weight)
        objective = Objective(blocks, Squared(), float(self.alpha), self.fit_intercept)
        fit: Fit = minimise(
            objective,
            solver_named(self.solver),
            tol=self.tol,
            max_iter=self.max_iter,
            callbacks=tuple(self.callbacks),
        )
        if fit.status in (Status.MAX_ITER, Status.DIVERGED):
            warnings.warn(f"after {fit.n_iter} steps: {fit.status.value}", ConvergenceWarning, stacklevel=2)
        self.fit_ = fit
        self.coef_ = fit.w.astype(float_dtype(X))
        self.intercept_ = fit.intercept
        self.n_iter_ = fit.n_iter
        self.n_features_in_ = objective.n_features
        return self

    def predict(self, X: Any) -> Any:
        """Return X @ coef_ + intercept_, (n,); of a Dask array a Dask array, not computed yet."""
        check_is_fitted(self)
        coef = self.coef_
        if hasattr(X, "__dask_graph__") or is_other(X):
            if X.shape[1] != self.n_features_in_:
                raise InputError(f"X has {X.shape[1]} columns, the model was fitted to {self.n_features_in_}")
        else:
            X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return X @ cast(coef, coef.dtype.name, X if is_other(X) else coef) + self.intercept_
