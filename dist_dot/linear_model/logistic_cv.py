"""Logistic regression with the C that cross-validation finds best."""

import warnings
from typing import Any, Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold

from dist_dot.blocks.layout import beside, float_dtype, lay_out
from dist_dot.blocks.together import ALL
from dist_dot.errors import InputError
from dist_dot.linear_model.labels import classes_of, encoded, weighted
from dist_dot.linear_model.logistic import LogisticRegression
from dist_dot.linear_model.ridge_cv import fold_labels
from dist_dot.solvers import LBFGS, Solver
from dist_dot.solvers.choice import AUTO, MEMORY, named
from dist_dot.training.fit import Status
from dist_dot.training.loop import Loop
from dist_dot.training.together import Together
from dist_dot.typing import Array


class LogisticRegressionCV(LogisticRegression):
    """Logistic regression for each C, cross-validated by accuracy, as in scikit-learn; then fitted to all rows.

    The fits for all Cs and folds share each read of X: they are columns of one W.

    Parameters
    ----------
    Cs : the inverse L2 strengths to try, > 0, or a number of them, spread evenly from 1e-4 to 1e4 in logarithms.
    cv : the number of folds, in each of which the classes have the shares that they have in y; 5 for None. A splitter
        of scikit-learn, whose test parts hold each row once. An array (n,) with the fold of each row.
    fit_intercept, class_weight, max_iter, tol : see `LogisticRegression`.
    solver : "auto", which is L-BFGS here, since fits share no Hessians; "gradient_descent", or a solver of
        `dist_dot.solvers` with its options.

    Attributes
    ----------
    C_ and Cs_ (c,), scores_ (c, folds): accuracy on each fold; and those of `LogisticRegression`, for C_.

    """

    def __init__(
        self,
        Cs: Any = 10,
        *,
        cv: Any = None,
        fit_intercept: bool = True,
        class_weight: Any = None,
        solver: str | Solver[Any] = "auto",
        max_iter: int = 1000,
        tol: float = 1e-6,
    ) -> None:
        self.Cs = Cs
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to X (n, p) and the labels y (n,), weighted by sample_weight (n,), in training and in scores.

        A Dask array with a `distributed.Client` in force is trained on that cluster, anything else in this process;
        its y comes here once, for the folds. Warns with ConvergenceWarning if max_iter was reached in some fits.
        Raises InputError for Cs and folds that cannot be used, DataError (both are ValueErrors) for such data.
        """
        self.Cs_ = _checked_strengths(self.Cs)
        X, y, sample_weight = self._checked(X, y, sample_weight)
        self.classes_ = classes_of(y)
        codes = encoded(y, self.classes_)
        weight = weighted(codes, sample_weight, self.class_weight, self.classes_)
        folds = self._folds(np.asarray(codes))
        blocks = lay_out(X, beside(codes, folds), weight)
        count = int(folds.max()) + 1
        members = tuple(self._loop(C, blocks.cuts.n_features) for C in self.Cs_ for _ in range(count))
        fits, scores = blocks.run(Together(members, tuple(range(count)) * self.Cs_.size), lambda progress: False)
        self.scores_ = (scores[:, 2] / scores[:, 0]).reshape(self.Cs_.size, count)
        self.C_ = float(self.Cs_[np.argmax(self.scores_.mean(axis=1))])
        last = Together((self._loop(self.C_, blocks.cuts.n_features),), (ALL,))
        fits += blocks.run(last, lambda progress: False)[0]
        short = sum(fit.status in (Status.MAX_ITER, Status.DIVERGED) for fit in fits)
        if short:
            words = f"{short} of {len(fits)} fits stopped before the gradient was small enough: raise max_iter or tol"
            warnings.warn(words, ConvergenceWarning, stacklevel=2)
        self._set(fits[-1], float_dtype(X))
        self._shape()
        return self

    def _loop(self, C: float, n_features: int) -> Loop:
        solver = LBFGS(MEMORY) if self.solver == AUTO else named(self.solver)
        start = np.zeros((n_features + int(self.fit_intercept)) * self._loss.outputs)
        return Loop(self._loss, 1.0 / C, self.fit_intercept, solver, self.tol, self.max_iter, None, start)

    def _folds(self, codes: Array) -> Array:
        """Return the number of each row's fold (n,)."""
        if self.cv is not None and not isinstance(self.cv, int | np.integer):
            return fold_labels(self.cv, codes.size)
        folds = np.empty(codes.size, int)
        for number, (_, test) in enumerate(StratifiedKFold(5 if self.cv is None else self.cv).split(codes, codes)):
            folds[test] = number
        return folds


def _checked_strengths(Cs: Any) -> Array:
    values = np.logspace(-4, 4, Cs) if isinstance(Cs, int | np.integer) else np.asarray(Cs, np.float64)
    if values.ndim != 1 or not values.size or not np.all(values > 0):
        raise InputError(f"Cs is {Cs!r}: give positive numbers, or how many to try")
    return values
