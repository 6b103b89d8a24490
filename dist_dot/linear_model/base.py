"""What every estimator does: check what it was given, minimise F, and predict from z."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import sklearn.linear_model
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from dist_dot.blocks.arrays import cast, dtype_name, is_other, no_rows, to_host
from dist_dot.blocks.device.settle import known, taken
from dist_dot.blocks.layout import lay_out
from dist_dot.errors import InputError
from dist_dot.losses import Loss
from dist_dot.objective import Objective
from dist_dot.training.early_stopping import EarlyStopping
from dist_dot.training.fit import Fit, Status
from dist_dot.training.loop import minimise
from dist_dot.typing import Array

# What another solver would not understand, and what a fitted estimator has.
OF_THE_SOLVER = ("solver", "tol", "max_iter")
FITTED = (
    "coef_",
    "intercept_",
    "n_iter_",
    "n_features_in_",
    "feature_names_in_",
    "classes_",
    "alpha_",
    "best_score_",
    "C_",
    "Cs_",
)


def is_plain(X: Any) -> bool:
    """Whether scikit-learn's own validation is for X: neither a Dask collection nor an array of another library."""
    return not (hasattr(X, "__dask_graph__") or is_other(X))


class LinearModel(BaseEstimator):  # type: ignore[misc, unused-ignore]
    """z = X w + b, with w and b from `dist_dot.minimise`. Subclasses say which F, and what z means."""

    def _received(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Return what was given, torch tensors as the arrays of the same memory, y and weights on the host if X is."""
        known(self.device)
        X, y, sample_weight = map(taken, (X, y, sample_weight))
        return (X, to_host(y), to_host(sample_weight)) if is_plain(X) else (X, y, sample_weight)

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Return X (n, p), y (n,) and the weights (n,) or None, checked by scikit-learn where they are plain."""
        X, y, sample_weight = self._received(X, y, sample_weight)
        if is_plain(X):
            X, y = validate_data(
                self, X, y, dtype=[np.float64, np.float32], y_numeric=True, order="C", ensure_all_finite=True
            )
            if sample_weight is not None:
                sample_weight = np.broadcast_to(np.asarray(sample_weight, X.dtype), y.shape)
        return X, y, sample_weight

    def _minimise(
        self,
        objective: Objective,
        dtype: str,
        start: Array | None = None,
        early_stopping: EarlyStopping | None = None,
    ) -> None:
        """Minimise F and set the fitted attributes, with coefficients of this dtype."""
        fit: Fit = minimise(
            objective,
            self.solver,
            tol=self.tol,
            max_iter=self.max_iter,
            callbacks=tuple(self.callbacks),
            start=start,
            early_stopping=early_stopping,
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

    def _warm_start(self, objective: Objective) -> Array | None:
        """Return the last coefficients as a flat vector; None where there are none of this shape, or none wanted."""
        if not (self.warm_start and hasattr(self, "coef_")):
            return None
        W, b = np.atleast_2d(self.coef_).T.astype(np.float64), np.atleast_1d(self.intercept_)
        fits = W.shape == (objective.n_features, objective.n_outputs)
        return objective.join(W, b) if fits else None

    def to_sklearn(self) -> Any:
        """Return the fitted scikit-learn estimator of the same name, with the same predictions.

        Parameters that both have carry over, but for `solver`, `tol` and `max_iter`, which mean something else there.
        """
        check_is_fitted(self)
        kind: Any = getattr(sklearn.linear_model, type(self).__name__)
        ours, theirs = self.get_params(deep=False), kind().get_params(deep=False)
        other: Any = kind(**{name: ours[name] for name in theirs if name in ours and name not in OF_THE_SOLVER})
        for name in FITTED:
            if hasattr(self, name):
                setattr(other, name, getattr(self, name))
        return other

    def _objective(self, X: Any, y: Any, sample_weight: Any, loss: Loss) -> tuple[Objective, Array]:
        """Return F of these rows without a penalty, and the flat vector of this model: what scores are made of."""
        check_is_fitted(self)
        X, y, sample_weight = self._received(X, y, sample_weight)
        if is_plain(X):
            X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        objective = Objective(lay_out(X, y, sample_weight, device=self.device), loss)
        return objective, objective.join(np.atleast_2d(self.coef_).T, np.atleast_1d(self.intercept_))

    def _linear_predictor(self, X: Any) -> Any:
        """Return z = X @ coef_.T + intercept_, (n,) or (n, k); of a Dask array a Dask array, not computed yet."""
        check_is_fitted(self)
        coef = self.coef_.T
        X = taken(X)
        if is_plain(X):
            X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        elif X.shape[1] != self.n_features_in_:
            raise InputError(f"X has {X.shape[1]} columns, the model was fitted to {self.n_features_in_}")
        of_rows = partial(_predictor, coef=coef, intercept=self.intercept_)
        if is_other(X):
            return of_rows(X)
        if hasattr(X, "__dask_graph__") and is_other(X._meta):
            dtype = np.result_type(coef.dtype, dtype_name(X._meta))
            return apply(of_rows, X.rechunk({1: -1}), dtype, None if coef.ndim == 1 else coef.shape[1])
        return X @ coef + self.intercept_


def _predictor(X: Any, coef: Array, intercept: Any) -> Any:
    """Return X @ coef + intercept, in the library of X."""
    intercept = intercept if coef.ndim == 1 else cast(intercept, coef.dtype.name, X)
    return X @ cast(coef, coef.dtype.name, X) + intercept


def apply(function: Callable[..., Any], z: Any, dtype: Any, columns: int | None = None) -> Any:
    """Return function(z) for the rows of z; lazily for a Dask array, whose rows may have another number of columns.

    columns is that of the result, None for an array (n,). The result is of the library of z, but for a dtype that is no
    number.
    """
    if not hasattr(z, "__dask_graph__"):
        return function(z)
    options: dict[str, Any] = {"dtype": dtype, "meta": no_rows(z._meta, dtype, 1 if columns is None else 2)}
    if columns is None:
        return z.map_blocks(function, drop_axis=1 if z.ndim == 2 else None, **options)
    if z.ndim == 1:
        return z.map_blocks(function, new_axis=1, chunks=(z.chunks[0], columns), **options)
    return z.map_blocks(function, chunks=(z.chunks[0], columns), **options)
