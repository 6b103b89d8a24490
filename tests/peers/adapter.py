"""Our estimators in the place of scikit-learn's, for the tests of scikit-learn.

Each takes scikit-learn's parameters beside our own, so that its tests can set, get and clone them. Parameters that both
have keep our defaults. `fit` reads scikit-learn's as follows.

- Words for a solver become ours: see `SOLVERS`. max_iter=None becomes our default.
- Parameters that say how scikit-learn computes, not what, are ignored: see `IGNORED`.
- Any other parameter that we do not have is refused, unless its value asks for what we do anyway: scikit-learn's
  default, or one of `SAME`; and the scoring of RidgeCV(cv=None), which is minus the mean squared error in both.

Two things are there because tests ask for them beside the coefficients: `solver_`, the word that was given, and
`_get_loss`, by which the tests of GLMs compute what they expect.
"""

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import sklearn.linear_model

import dist_dot

NAMES = (
    "LinearRegression",
    "Ridge",
    "RidgeCV",
    "LogisticRegression",
    "LogisticRegressionCV",
    "PoissonRegressor",
    "GammaRegressor",
)
SOLVERS = {
    "lbfgs": "lbfgs",
    "newton-cholesky": "newton",
    "svd": "exact",
    "cholesky": "exact",
    **dict.fromkeys(["liblinear", "lsqr", "newton-cg", "sag", "saga", "sparse_cg"], "auto"),
}
IGNORED = {"copy_X", "gcv_mode", "n_jobs", "random_state", "use_legacy_attributes", "verbose"}
SAME = {"penalty": "l2", "l1_ratios": (0,), "scoring": "neg_mean_squared_error"}

uses = 0
"""How often one of our estimators was fitted, or asked for its tags: a test in which none was says nothing of us."""


class Adapted:
    """What an estimator of ours is under the name of scikit-learn's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = self._parameters.bind(self, *args, **kwargs)
        bound.apply_defaults()
        for name, value in list(bound.arguments.items())[1:]:
            setattr(self, name, value)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit as ours, with our words for what scikit-learn says otherwise; they are taken back afterwards."""
        global uses
        uses += 1
        for name in self._theirs:
            if not self._is_ours(name):
                raise TypeError(f"dist_dot.{type(self).__name__} has no parameter {name}: {getattr(self, name)!r}")
        given = {name: getattr(self, name) for name in ("solver", "max_iter") if hasattr(self, name)}
        try:
            if isinstance(given.get("solver"), str):
                self.solver = SOLVERS.get(given["solver"], given["solver"])
            if given.get("max_iter", 0) is None:
                self.max_iter = self._parameters.parameters["max_iter"].default
            return super().fit(X, y, sample_weight)  # type: ignore[misc]
        finally:
            vars(self).update(given)

    def _is_ours(self, name: str) -> bool:
        """Whether a parameter that only scikit-learn has asks for what we do."""
        value = getattr(self, name)
        same = name in SAME and (name != "scoring" or self.cv is None) and np.array_equal(value, SAME[name])
        return same or np.array_equal(value, self._theirs[name])

    @property
    def solver_(self) -> Any:
        return self.solver

    def __sklearn_tags__(self) -> Any:
        global uses
        uses += 1
        return super().__sklearn_tags__()  # type: ignore[misc]


def _adapted(name: str) -> type:
    """Return our class of this name, whose signature is scikit-learn's, followed by what only we have."""
    base, other = getattr(dist_dot, name), getattr(sklearn.linear_model, name)
    ours, theirs = (dict(inspect.signature(kind.__init__).parameters) for kind in (base, other))
    both = [ours.get(each, theirs[each]).replace(kind=theirs[each].kind) for each in theirs]
    signature = inspect.Signature(both + [ours[each] for each in ours if each not in theirs])
    only_theirs = {
        each: parameter.default for each, parameter in theirs.items() if each not in ours and each not in IGNORED
    }

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        Adapted.__init__(self, *args, **kwargs)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    space = {"__init__": __init__, "_parameters": signature, "_theirs": only_theirs, "__module__": __name__}
    if hasattr(other, "_get_loss"):
        space["_get_loss"] = other._get_loss
    return type(name, (Adapted, base), space)


OURS = {name: _adapted(name) for name in NAMES}
globals().update(OURS)  # so that they pickle


@contextmanager
def in_place_of_theirs(module: str) -> Iterator[None]:
    """Have this module import our estimators under scikit-learn's names, when it is imported here.

    It is imported once before, so that what it imports itself is there, and keeps scikit-learn's.
    """
    importlib.import_module(module)
    del sys.modules[module]
    theirs = {name: getattr(sklearn.linear_model, name) for name in NAMES}
    try:
        vars(sklearn.linear_model).update(OURS)
        yield
    finally:
        vars(sklearn.linear_model).update(theirs)
