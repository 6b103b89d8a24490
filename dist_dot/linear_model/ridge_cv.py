"""Ridge with the alpha that cross-validation finds best."""

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.model_selection import check_cv

from dist_dot import checks
from dist_dot.errors import InputError
from dist_dot.linear_model.labels import LABELS, present
from dist_dot.linear_model.least_squares import LeastSquares
from dist_dot.rounds.layout import lay_out
from dist_dot.rows.inputs import as_array, computed, float_dtype, n_rows
from dist_dot.training.cross_validation import CrossValidation
from dist_dot.typing import Array


class RidgeCV(LeastSquares):
    """Ridge for each of the alphas, cross-validated from the sums of one round, as in scikit-learn.

    Parameters
    ----------
    alphas : the L2 strengths to try, > 0.
    fit_intercept : whether b is fitted. It is not penalised.
    cv : None: each row is left out once, exactly; the score is minus the mean squared error; two rounds.
        A number k: k folds of rows that follow each other. A splitter of scikit-learn, whose test parts hold each row
        once, or such pairs of train and test parts. An array (n,) with the fold of each row. With folds the score is
        R2, averaged over targets and folds, and everything takes one round, whatever the number of alphas, folds and
        targets. Where columns nearly depend on each other some rounds more refine the digits, as in `Ridge`.
    device : where fits and scores are computed: "auto", where the rows lie; "cpu"; or "cuda", a GPU of this process or
        of the workers. See `dist_dot.lay_out`.

    Where weights are given the scores of folds are weighted, too; scikit-learn's are not.

    Attributes
    ----------
    alpha_ and its best_score_; coef_ (p,) and intercept_, or (k, p) and (k,) where y is (n, k); n_features_in_,
    feature_names_in_ (for data frames), and fit_, the `dist_dot.Fit`, whose `path` has scores and coefficients for each
    alpha.

    """

    def __init__(
        self, alphas: Any = (0.1, 1.0, 10.0), *, fit_intercept: bool = True, cv: Any = None, device: str = "auto"
    ) -> None:
        self.alphas = alphas
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to X (n, p) and y (n,) or (n, k), weighted by sample_weight (n,).

        A Dask array with a `distributed.Client` in force is trained on that cluster, anything else in this process.
        Raises InputError for alphas and folds that cannot be used, DataError (both are ValueErrors) for such data,
        naming row and column.
        """
        alphas = _checked_alphas(self.alphas)
        X, y, sample_weight = self._checked(X, y, sample_weight)
        labels = None if self.cv is None else fold_labels(self.cv, n_rows(X))
        folds = 0 if labels is None else int(labels.max()) + 1
        blocks = lay_out(X, y, sample_weight, fold=labels, device=self.device)
        program = CrossValidation(alphas, folds, self.fit_intercept)
        fit: Any = blocks.run(program, lambda progress: False)
        self._set(fit, float_dtype(X))
        self._shape(y.ndim)
        self.alpha_, self.best_score_ = fit.path.best, float(fit.path.mean_scores.max())
        return self


KINDS = "give None, a number of folds, a splitter, pairs of train and test rows, or a fold for each row"


def fold_labels(cv: Any, n_samples: int, y: Any = None) -> Array:
    """Return the number of each row's fold (n,), from 0. A splitter is given y, where it needs some.

    Raises InputError unless each row is tested once, and for what is none of the kinds of cv that `RidgeCV` names.
    """
    if isinstance(cv, Integral) or (hasattr(cv, "split") and not isinstance(cv, str | type)):
        try:
            splits = list(check_cv(cv).split(np.zeros(n_samples), y))
        except ValueError as error:
            raise InputError(f"cv is {cv}, which finds no folds: {error}; you may give a fold for each row") from error
        return _tested(splits, n_samples)
    if isinstance(cv, str | type | Mapping) or not (hasattr(cv, "shape") or isinstance(cv, Iterable)):
        raise InputError(f"cv is {cv!r}: {KINDS}")
    parts = cv if hasattr(cv, "shape") else list(cv)
    if isinstance(parts, list) and parts and isinstance(parts[0], tuple | list):
        return _tested(parts, n_samples)
    labels = np.asarray(computed("cv", as_array("cv", parts)))
    if labels.dtype.kind not in LABELS:
        raise InputError(f"cv has dtype {labels.dtype}: {KINDS}")
    if labels.shape != (n_samples,):
        raise InputError(f"cv has shape {labels.shape}, and there are {n_samples} rows: {KINDS}")
    names, numbers = np.unique(present("cv", labels, 0, "give a fold for each row"), return_inverse=True)
    if names.size < 2:
        raise InputError(f"cv puts all rows into one fold, {names[0]}: two are needed at least")
    return numbers


def _tested(splits: list[tuple[Array, Array]], n_samples: int) -> Array:
    labels = np.full(n_samples, -1)
    times = np.zeros(n_samples, int)
    for number, (train, test) in enumerate(splits):
        test = np.asarray(test)
        if test.size == 0 or test.dtype.kind not in "iu" or not -n_samples <= test.min() <= test.max() < n_samples:
            raise InputError(f"cv tests {test!r} in split {number}: give numbers of the {n_samples} rows")
        labels[test] = number
        times[test] += 1
        if len(train) + len(test) != n_samples:
            raise InputError(f"cv leaves rows out of split {number}: each row must be trained on or tested")
    if not np.all(times == 1):
        row = int(np.argmax(times != 1))
        raise InputError(f"cv tests row {row} {times[row]} times: its test parts must hold each row once")
    return labels


def _checked_alphas(alphas: Any) -> tuple[float, ...]:
    values = np.atleast_1d(checks.numbers("alphas", alphas))
    if values.ndim != 1 or not values.size or not np.all(np.isfinite(values) & (values > 0)):
        raise InputError(f"alphas is {alphas!r}: give positive numbers")
    return tuple(values.tolist())
