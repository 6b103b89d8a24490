"""What every estimator does: check what it was given, minimise F, and predict from z."""

import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from dist_dot.blocks.arrays import cast, is_other
from dist_dot.errors import InputError
from dist_dot.objective import Objective
from dist_dot.training.fit import Fit, Status
from dist_dot.training.loop import minimise


def is_plain(X: Any) -> bool:
    """Whether scikit-learn's own validation is for X: neither a Dask collection nor an array of another library."""
    return not (hasattr(X, "__dask_graph__") or is_other(X))


class LinearModel(BaseEstimator):  # type: ignore[misc, unused-ignore]
    """z = X w + b, with w and b from `dist_dot.minimise`. Subclasses say which F, and what z means."""

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Return X (n, p), y (n,) and the weights (n,) or None, checked by scikit-learn where they are plain."""
        if is_plain(X):
            X, y = validate_data(
                self, X, y, dtype=[np.float64, np.float32], y_numeric=True, order="C", ensure_all_finite=True
            )
            if sample_weight is not None:
                sample_weight = np.broadcast_to(np.asarray(sample_weight, X.dtype), y.shape)
        return X, y, sample_weight

    def _minimise(self, objective: Objective, dtype: str) -> None:
        """Minimise F and set the fitted attributes, with coefficients of this dtype."""
        fit: Fit = minimise(
            objective,
            self.solver,
            tol=self.tol,
            max_iter=self.max_iter,
            callbacks=tuple(self.callbacks),
        )
        if fit.status in (Status.MAX_ITER, Status.DIVERGED):
            warnings.warn(f"after {fit.n_iter} steps: {fit.status.value}", ConvergenceWarning, stacklevel=3)
        self._set(fit, dtype)

    def _set(self, fit: Fit, dtype: str) -> None:
        """Set the fitted attributes, with coefficients of this dtype."""
        self.fit_ = fit
        self.coef_ = fit.w.astype(dtype)
        self.intercept_ = fit.intercept
        self.n_iter_ = fit.n_iter
        self.n_features_in_ = fit.w.shape[0]

    def _linear_predictor(self, X: Any) -> Any:
        """Return z = X @ coef_.T + intercept_, (n,) or (n, k); of a Dask array a Dask array, not computed yet."""
        check_is_fitted(self)
        coef = self.coef_.T
        if is_plain(X):
            X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        elif X.shape[1] != self.n_features_in_:
            raise InputError(f"X has {X.shape[1]} columns, the model was fitted to {self.n_features_in_}")
        own = X if is_other(X) else coef
        intercept = self.intercept_ if coef.ndim == 1 else cast(self.intercept_, coef.dtype.name, own)
        return X @ cast(coef, coef.dtype.name, own) + intercept
