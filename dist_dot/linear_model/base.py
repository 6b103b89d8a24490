"""What every estimator does: check what it was given, minimise F, and predict from z."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import sklearn.linear_model
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from dist_dot import checks
from dist_dot.errors import DataError, InputError
from dist_dot.losses import Loss
from dist_dot.objective import Objective
from dist_dot.rounds.layout import check_memory, client_in_force, lay_out
from dist_dot.rows.arrays import cast, is_lazy, is_other, no_rows
from dist_dot.rows.inputs import (
    as_array,
    check_collection,
    check_unmasked,
    computed,
    float_dtype,
    n_targets,
    no_numbers,
    rows_of,
)
from dist_dot.rows.settle import known, taken
from dist_dot.solvers.choice import AUTO, named
from dist_dot.training.early_stopping import EarlyStopping
from dist_dot.training.fit import Fit, Status
from dist_dot.training.inference import ended
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


def _check_early_stopping(name: str, value: Any) -> None:
    if not (value is None or isinstance(value, EarlyStopping)):
        raise InputError(f"{name} is {value!r}: give dist_dot.EarlyStopping(), or None")


def _check_solver(name: str, value: Any) -> None:
    if not (isinstance(value, str) and value == AUTO):
        named(value)


def _check_class_weight(name: str, value: Any) -> None:
    if value is None or (isinstance(value, str) and value == "balanced"):
        return
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is {value!r}: give None, 'balanced', or a dict of weights by label")
    for label, weight in value.items():
        checks.finite(f"{name}[{label!r}]", weight)


def _check_cv(name: str, value: Any) -> None:
    if isinstance(value, bool | Integral) and (value is True or value < 2):
        raise InputError(f"{name} is {value!r}: give None, a number of folds >= 2, a splitter, or a fold for each row")


PARAMETERS: dict[str, Callable[[str, Any], object]] = {
    "alpha": checks.finite,
    "C": partial(checks.number, advice="give a number > 0, or infinity for no penalty", least=np.nextafter(0.0, 1.0)),
    "fit_intercept": checks.flag,
    "standardize": checks.flag,
    "warm_start": checks.flag,
    "max_iter": checks.whole,
    "tol": partial(checks.number, advice="give a number >= 0"),
    "callbacks": checks.functions,
    "early_stopping": _check_early_stopping,
    "solver": _check_solver,
    "class_weight": _check_class_weight,
    "cv": _check_cv,
}
"""What the parameters of all estimators are to be; of others, each estimator's own `fit` says it."""


def is_plain(X: Any) -> bool:
    """Whether scikit-learn's own validation is for X: neither a Dask collection nor an array of another library."""
    return not (is_lazy(X) or is_other(X))


class LinearModel(BaseEstimator):  # type: ignore[misc, unused-ignore]
    """z = X w + b, with w and b from `dist_dot.minimise`. Subclasses say which F, and what z means."""

    _checks: ClassVar[dict[str, bool]] = {"y_numeric": True}
    """What scikit-learn is to check of y."""
    _allowed: ClassVar[dict[str, Callable[[str, Any], object]]] = PARAMETERS

    def _check_parameters(self) -> None:
        """Raise InputError for a parameter that is not what its name means, before a row is looked at."""
        parameters = self.get_params(deep=False)
        for name, check in self._allowed.items():
            if name in parameters:
                check(name, parameters[name])

    def _received(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Return what was given, torch tensors as the arrays of the same memory.

        Raises DataError for masked values, and for a Dask collection that is no array.
        """
        known(self.device)
        X, y, sample_weight = map(taken, (X, y, sample_weight))
        for name, values in (("X", X), ("y", y), ("sample_weight", sample_weight)):
            if is_lazy(values):
                check_collection(name, values)
            check_unmasked(name, values)
        return X, y, sample_weight

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Return X (n, p), y (n,) or (n, k) and the weights (n,) or None, checked by scikit-learn where X is plain.

        y and the weights are then on the host, too. Rows that are not plain are left as they are, and their dtypes and
        shapes are checked: `lay_out` looks at the numbers where they lie.
        """
        self._check_parameters()
        X, y, sample_weight = self._received(X, y, sample_weight)
        if not is_plain(X):
            return self._rows(X, y, sample_weight)
        y, sample_weight = computed("y", y), computed("sample_weight", sample_weight)
        _check_numbers(X)
        try:
            X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], order="C", **self._checks)
        except OverflowError as error:
            raise DataError(f"X or y holds a whole number that float64 cannot hold: {error}") from error
        weight = self._rows(X, y, sample_weight)[2]
        return X, y, None if weight is None else np.asarray(weight, X.dtype)

    def _rows(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Return X, y and the weights (n,) or None, as arrays of dtypes and shapes that a model can be fitted to.

        Raises DataError for others, before anything is computed but the sizes of chunks that are not known.
        """
        if any(map(is_lazy, (X, y, sample_weight))):
            client_in_force()
        y = y if y is None or is_lazy(y) else as_array("y", y)
        if y is not None and n_targets(y.shape) > 1 and "multi_output" not in self._checks:
            words = "number per row" if self._numbers else "label per row; of one-hot columns, take y.argmax(axis=1)"
            raise DataError(f"y has shape {tuple(y.shape)}: expected (n_samples,), one {words}")
        beside = {} if sample_weight is None else {"sample_weight": sample_weight}
        rows = rows_of({"X": X, "y": y, **beside}, () if self._numbers else "y")
        return rows["X"], rows["y"], rows.get("sample_weight")

    @property
    def _numbers(self) -> bool:
        """Whether y is of numbers, and not of labels."""
        return "y_numeric" in self._checks

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
        if fit.status in (Status.MAX_ITER, Status.STALLED, Status.DIVERGED):
            warnings.warn(f"after {fit.n_iter} steps: {fit.status.value}", ConvergenceWarning, stacklevel=3)
        self._set(fit, dtype)

    def _set(self, fit: Fit, dtype: str) -> None:
        """Set the fitted attributes, with coefficients of this dtype."""
        self.fit_ = replace(fit, state=ended(fit.state))  # what L-BFGS remembers is 60 times the coefficients
        self.coef_ = fit.w.astype(dtype)
        self.intercept_ = np.asarray(fit.intercept, dtype)[()]
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
        X, y, sample_weight = self._rows(self._features(X), y, sample_weight)
        objective = Objective(lay_out(X, self._numbered(y), sample_weight, device=self.device), loss)
        W, b = np.atleast_2d(self.coef_).T, np.atleast_1d(self.intercept_)
        if W.shape[1] != objective.n_outputs:
            raise InputError(f"y has {objective.n_outputs} targets: the model was fitted to {W.shape[1]}")
        return objective, objective.join(W, b)

    def _numbered(self, y: Any) -> Any:
        """Return y as the loss takes it."""
        return y

    def _linear_predictor(self, X: Any) -> Any:
        """Return z = X @ coef_.T + intercept_, (n,) or (n, k); of a Dask array a Dask array, not computed yet."""
        check_is_fitted(self)
        coef = self.coef_.T
        of_rows = partial(_z, coef=coef, intercept=self.intercept_)
        X = self._features(X)
        if not is_lazy(X):
            advice = "predict some rows at a time, or give a Dask array"
            check_memory((X.shape[0], *coef.shape[1:]), "the predictions", advice)
            return of_rows(X)
        like = no_rows(X._meta, np.result_type(float_dtype(X), coef.dtype), coef.ndim)
        X = as_array("X", X).rechunk({1: -1})
        if coef.ndim == 1:
            return X.map_blocks(of_rows, dtype=like.dtype, drop_axis=1, meta=like)
        return X.map_blocks(of_rows, dtype=like.dtype, chunks=(X.chunks[0], coef.shape[1]), meta=like)

    def _features(self, X: Any) -> Any:
        """Return X (n, p), checked to have the columns that the model was fitted to."""
        X = taken(X)
        check_unmasked("X", X)
        if is_plain(X):
            _check_numbers(X)
            return validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        if is_lazy(X):
            check_collection("X", X)
        if X.ndim != 2 or X.shape[1] != self.n_features_in_:
            advice = "; a single row is X.reshape(1, -1)" if X.ndim == 1 else ""
            raise InputError(f"X has shape {X.shape}: the model was fitted to {self.n_features_in_} columns{advice}")
        return X


def _check_numbers(X: Any) -> None:
    """Raise DataError for what scikit-learn lets pass, or NumPy refuses in words of its own.

    These are dates and durations, which NumPy takes for whole numbers of nanoseconds, and records.
    """
    of_frame = hasattr(X, "dtypes")
    listed = isinstance(X, list | tuple)
    kinds = X.dtypes if of_frame else [np.asarray(X).dtype if listed else getattr(X, "dtype", None)]
    for number, kind in enumerate(kinds):
        if getattr(kind, "kind", "") in ("m", "M", "V"):
            raise DataError(no_numbers(f"column {X.columns[number]!r} of X" if of_frame else "X", kind))


def _z(rows: Any, coef: Array, intercept: Any) -> Any:
    """Return rows @ coef + intercept in the library of the rows."""
    rows = cast(rows, float_dtype(rows))
    b = float(intercept) if coef.ndim == 1 else cast(intercept, coef.dtype.name, rows)
    return rows @ cast(coef, coef.dtype.name, rows) + b


def apply(function: Callable[..., Any], z: Any, dtype: Any, columns: int | None = None) -> Any:
    """Return function(z) for the rows of z; lazily for a Dask array, whose rows may have another number of columns.

    columns is that of the result, None for an array (n,). The result is of the library of z, but for a dtype that is no
    number.
    """
    if not is_lazy(z):
        return function(z)
    options: dict[str, Any] = {"dtype": dtype, "meta": no_rows(z._meta, dtype, 1 if columns is None else 2)}
    if columns is None:
        return z.map_blocks(function, drop_axis=1 if z.ndim == 2 else None, **options)
    if z.ndim == 1:
        return z.map_blocks(function, new_axis=1, chunks=(z.chunks[0], columns), **options)
    return z.map_blocks(function, chunks=(z.chunks[0], columns), **options)
