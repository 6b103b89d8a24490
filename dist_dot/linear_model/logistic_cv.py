"""Logistic regression with the C that cross-validation finds best."""

import warnings
from typing import Any, Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold

from dist_dot import checks
from dist_dot.errors import InputError
from dist_dot.kernels.folds import ALL
from dist_dot.linear_model.labels import class_weights, classes_of, encoded, weighted
from dist_dot.linear_model.logistic import LogisticRegression
from dist_dot.linear_model.ridge_cv import fold_labels
from dist_dot.objective import Linear
from dist_dot.rounds.layout import lay_out
from dist_dot.rows.inputs import computed, float_dtype
from dist_dot.solvers import LBFGS, Solver
from dist_dot.solvers.choice import AUTO, MEMORY, named
from dist_dot.training.fit import Callback, Progress, Status
from dist_dot.training.loop import Loop
from dist_dot.training.together import CrossValidated, Together
from dist_dot.typing import Array

ACCURACY, LOG_LOSS = "accuracy", "neg_log_loss"
SCORES = (ACCURACY, LOG_LOSS)


class LogisticRegressionCV(LogisticRegression):
    """Logistic regression for each C, cross-validated as in scikit-learn; then fitted to all rows.

    The fits for all Cs and folds share each read of X: they are columns of one W.

    Parameters
    ----------
    Cs : the inverse L2 strengths to try, > 0, or a number of them, spread evenly from 1e-4 to 1e4 in logarithms.
    cv : the number of folds, in each of which the classes have the shares that they have in y; 5 for None. A splitter
        of scikit-learn, whose test parts hold each row once. An array (n,) with the fold of each row.
    scoring : "accuracy", which None is too, or "neg_log_loss". Weighted by sample_weight, but not by class_weight; a
        class of weight 0 does not count.
    fit_intercept, class_weight, standardize, max_iter, tol, device : see `LogisticRegression`. Columns are standardised
        by the rows that a fit is made to, with two rounds for each fold.
    callbacks : called with the `dist_dot.Progress` of all fits as one: see `dist_dot.training.together`.
    solver : "auto", which is L-BFGS here, since fits share no Hessians; "gradient_descent", or a solver of
        `dist_dot.solvers` with its options.

    Attributes
    ----------
    C_ and Cs_ (c,), scores_ (c, folds) on each fold; and those of `LogisticRegression`, for C_.

    """

    def __init__(
        self,
        Cs: Any = 10,
        *,
        cv: Any = None,
        fit_intercept: bool = True,
        class_weight: Any = None,
        scoring: str | None = None,
        standardize: bool = False,
        solver: str | Solver[Any] = "auto",
        max_iter: int = 1000,
        tol: float = 1e-6,
        callbacks: tuple[Callback, ...] = (),
        device: str = "auto",
    ) -> None:
        self.Cs = Cs
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.scoring = scoring
        self.standardize = standardize
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.callbacks = callbacks
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to X (n, p) and the labels y (n,), weighted by sample_weight (n,), in training and in scores.

        A Dask array with a `distributed.Client` in force is trained on that cluster, anything else in this process;
        its y comes here once, for the folds. Warns with ConvergenceWarning if max_iter was reached in some fits.
        Raises InputError for Cs, folds and a scoring that cannot be used, DataError (both are ValueErrors) for such
        data.
        """
        self.Cs_ = _checked_strengths(self.Cs)
        if self.scoring not in (None, *SCORES):
            raise InputError(f"scoring is {self.scoring!r}: give {' or '.join(map(repr, SCORES))}")
        X, y, sample_weight = self._checked(X, y, sample_weight)
        folds = self.cv if isinstance(self.cv, int | np.integer) else 5  # or about so many
        self.classes_ = classes_of(y, X.shape[1], self.Cs_.size * int(folds))
        codes = encoded(y, self.classes_, known=True)
        of_class = class_weights(codes, sample_weight, self.class_weight, self.classes_)
        weight = weighted(codes, sample_weight, of_class)
        labels = self._folds(computed("y", codes))
        blocks = lay_out(X, codes, weight, fold=labels, device=self.device)
        count = int(labels.max()) + 1
        zero = np.zeros((blocks.cuts.n_features + int(self.fit_intercept)) * self._loss.outputs)
        members = tuple(self._loop(C, zero) for C in self.Cs_ for _ in range(count))
        together = Together(members, tuple(range(count)) * self.Cs_.size)
        weights = None if of_class is None else tuple(of_class.tolist())
        fits, sums = blocks.run(CrossValidated(together, self._loss, weights), self._report)
        self.scores_ = self._scores(sums).reshape(self.Cs_.size, count)
        best = int(np.argmax(self.scores_.mean(axis=1)))
        self.C_ = float(self.Cs_[best])
        start = np.mean([fit.parameters for fit in fits[best * count :][:count]], axis=0)
        fits += blocks.run(Together((self._loop(self.C_, start),), (ALL,)), self._report)
        short = sum(fit.status in (Status.MAX_ITER, Status.STALLED, Status.DIVERGED) for fit in fits)
        if short:
            words = f"{short} of {len(fits)} fits stopped before the gradient was small enough: raise max_iter or tol"
            warnings.warn(words, ConvergenceWarning, stacklevel=2)
        self._set(fits[-1], float_dtype(X))
        self._shape()
        return self

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the score that `scoring` names: accuracy, one round, or minus the log loss, three rounds."""
        if self.scoring == LOG_LOSS:
            return -self.log_loss(X, y, sample_weight)
        return super().score(X, y, sample_weight)

    def _loop(self, C: float, start: Array) -> Loop:
        solver = LBFGS(MEMORY) if self.solver == AUTO else named(self.solver)
        problem = Linear(self._loss, 1.0 / C, self.fit_intercept, standardize=self.standardize)
        return Loop(problem, solver, self.tol, self.max_iter, start=start)

    def _report(self, progress: Progress) -> bool:
        return any([bool(callback(progress)) for callback in self.callbacks])

    def _scores(self, sums: Array) -> Array:
        """Return the score of each fit from its sums (fits, 3): see `FoldScores`. The folds of one C come first."""
        if not np.all(sums[:, 0] > 0):
            number = int(np.argmin(sums[:, 0] > 0))
            raise InputError(f"no row of fold {number} has a weight, so that it scores nothing: give other folds")
        of_rows = sums[:, 2] if self.scoring in (None, ACCURACY) else -sums[:, 1]
        scores: Array = of_rows / sums[:, 0]
        return scores

    def _folds(self, codes: Array) -> Array:
        """Return the number of each row's fold (n,)."""
        if self.cv is not None and not isinstance(self.cv, int | np.integer):
            return fold_labels(self.cv, codes.size)
        return fold_labels(StratifiedKFold(5 if self.cv is None else self.cv), codes.size, codes)


def _checked_strengths(Cs: Any) -> Array:
    many = isinstance(Cs, int | np.integer) and not isinstance(Cs, bool)
    values = np.logspace(-4, 4, max(Cs, 0)) if many else checks.numbers("Cs", Cs)
    if values.ndim != 1 or not values.size or not np.all(values > 0):
        raise InputError(f"Cs is {Cs!r}: give positive numbers, or how many to try")
    return values
