"""Ridge with the alpha that cross-validation finds best."""

from typing import Any, Self

import numpy as np
from sklearn.model_selection import check_cv

from dist_dot import checks
from dist_dot.errors import InputError
from dist_dot.linear_model.least_squares import LeastSquares
from dist_dot.rounds.layout import lay_out
from dist_dot.rows.arrays import to_host
from dist_dot.rows.inputs import float_dtype, n_rows
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
        targets.
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


def fold_labels(cv: Any, n_samples: int) -> Array:
    """Return the number of each row's fold (n,), from 0. Raises InputError unless each row is tested once."""
    if isinstance(cv, int | np.integer) or hasattr(cv, "split"):
        return _tested(list(check_cv(cv).split(np.zeros(n_samples))), n_samples)
    parts = cv if hasattr(cv, "shape") else list(cv)
    if isinstance(parts, list) and isinstance(parts[0], tuple | list):
        return _tested(parts, n_samples)
    labels = np.asarray(to_host(parts))
    if labels.shape != (n_samples,):
        raise InputError(
            f"cv has shape {labels.shape}: give None, a number of folds, a splitter, or a fold for each row"
        )
    names, numbers = np.unique(labels, return_inverse=True)
    if names.size < 2:
        raise InputError(f"cv puts all rows into one fold, {names[0]}: two are needed at least")
    return numbers


def _tested(splits: list[tuple[Array, Array]], n_samples: int) -> Array:
    labels = np.full(n_samples, -1)
    times = np.zeros(n_samples, int)
    for number, (train, test) in enumerate(splits):
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
