"""Parameters and rows that cannot be used: a row each, with the words that the user reads, and before a round is made.

What scikit-learn's own validation refuses in plain arrays keeps scikit-learn's words.
"""

import datetime

import dask.array as da
import numpy as np
import pandas as pd
import pytest

from dist_dot import (
    DataError,
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Objective,
    PoissonRegressor,
    Ridge,
    RidgeCV,
    lay_out,
    losses,
    minimise,
    top_k,
)
from dist_dot.errors import DistDotError, InputError, SolverError
from dist_dot.solvers import LBFGS, Exact, Newton

N = 30
X = np.random.default_rng(0).standard_normal((N, 3))
Y = X @ [1.0, 2.0, 3.0] + 1.0
LABELS, COUNTS = (Y > 1).astype(int), np.round(np.abs(Y))
NUMBER, WHOLE, FLAG = "give a finite number >= 0", "give a whole number >= 0", "give True or False"

PARAMETERS = [
    (Ridge, {"alpha": "1"}, f"alpha is '1': {NUMBER}"),
    (Ridge, {"alpha": None}, f"alpha is None: {NUMBER}"),
    (Ridge, {"alpha": True}, f"alpha is True: {NUMBER}"),
    (Ridge, {"alpha": 1j}, "alpha is 1j"),
    (Ridge, {"alpha": [1, 2]}, r"alpha is \(1.0, 2.0\): give one number, or one for each of the 1 targets"),
    (Ridge, {"alpha": [1, -2]}, rf"alpha\[1\] is -2: {NUMBER}"),
    (Ridge, {"alpha": (1, "2")}, rf"alpha\[1\] is '2': {NUMBER}"),
    (Ridge, {"alpha": np.array([np.nan])}, rf"alpha\[0\] is nan: {NUMBER}"),
    (Ridge, {"alpha": []}, r"alpha is \(\): give one number"),
    (PoissonRegressor, {"alpha": [1.0]}, rf"alpha is \[1.0\]: {NUMBER}"),
    (Ridge, {"alpha": np.nan}, "alpha is nan"),
    (Ridge, {"alpha": np.inf}, "alpha is inf"),
    (Ridge, {"alpha": -1}, "alpha is -1"),
    (Ridge, {"tol": "x"}, "tol is 'x': give a number >= 0"),
    (Ridge, {"tol": np.nan}, "tol is nan"),
    (Ridge, {"tol": -1e-9}, "tol is -1e-09"),
    (Ridge, {"max_iter": None}, f"max_iter is None: {WHOLE}"),
    (Ridge, {"max_iter": 2.5}, f"max_iter is 2.5: {WHOLE}"),
    (Ridge, {"max_iter": True}, f"max_iter is True: {WHOLE}"),
    (Ridge, {"max_iter": "5"}, f"max_iter is '5': {WHOLE}"),
    (Ridge, {"max_iter": -1}, "max_iter is -1"),
    (Ridge, {"fit_intercept": "yes"}, f"fit_intercept is 'yes': {FLAG}"),
    (Ridge, {"fit_intercept": 1}, f"fit_intercept is 1: {FLAG}"),
    (Ridge, {"standardize": None}, f"standardize is None: {FLAG}"),
    (Ridge, {"solver": "nope"}, "unknown solver 'nope'"),
    (Ridge, {"device": 3}, "device is 3"),
    (Ridge, {"device": "gpu"}, "device is 'gpu'"),
    (Ridge, {"callbacks": print}, r"callbacks is .*: give a list of functions, such as \[print\]"),
    (Ridge, {"callbacks": 3}, "callbacks is 3"),
    (Ridge, {"callbacks": ("log",)}, "callbacks holds 'log', which cannot be called"),
    (LinearRegression, {"tol": None}, "tol is None"),
    (RidgeCV, {"alphas": "x"}, "alphas is 'x': give numbers"),
    (RidgeCV, {"alphas": []}, r"alphas is \[\]"),
    (RidgeCV, {"alphas": [0.0]}, r"alphas is \[0.0\]"),
    (RidgeCV, {"alphas": [1.0, np.nan]}, "give positive numbers"),
    (LogisticRegression, {"C": "1"}, "C is '1': give a number > 0, or infinity"),
    (LogisticRegression, {"C": "l2"}, "C is 'l2'"),
    (LogisticRegression, {"C": 0}, "C is 0"),
    (LogisticRegression, {"C": -1.0}, "C is -1.0"),
    (LogisticRegression, {"C": np.nan}, "C is nan"),
    (LogisticRegression, {"early_stopping": True}, "early_stopping is True: give dist_dot.EarlyStopping()"),
    (LogisticRegression, {"warm_start": "a"}, f"warm_start is 'a': {FLAG}"),
    (LogisticRegression, {"class_weight": "balancd"}, "class_weight is 'balancd'"),
    (LogisticRegressionCV, {"Cs": "x"}, "Cs is 'x': give numbers"),
    (LogisticRegressionCV, {"Cs": 0}, "Cs is 0"),
    (LogisticRegressionCV, {"Cs": [1.0, -1.0]}, "give positive numbers"),
    (LogisticRegressionCV, {"scoring": "r2"}, "scoring is 'r2'"),
    (PoissonRegressor, {"alpha": "1"}, f"alpha is '1': {NUMBER}"),
    (PoissonRegressor, {"early_stopping": 5}, "early_stopping is 5"),
    (GammaRegressor, {"alpha": -1.0}, "alpha is -1.0"),
]


def target_of(kind):
    classifies = issubclass(kind, LogisticRegression)
    counts = kind in (PoissonRegressor, GammaRegressor)
    return LABELS if classifies else COUNTS + 1.0 if counts else Y


@pytest.mark.parametrize(("kind", "options", "words"), PARAMETERS, ids=lambda part: getattr(part, "__name__", None))
@pytest.mark.parametrize("lazy", [False, True])
def test_parameters_are_what_their_names_say(kind, options, words, lazy):
    rows, y = X, target_of(kind)
    if lazy:
        rows, y = da.from_array(rows, chunks=(10, 3)), da.from_array(y, chunks=10)
    with pytest.raises(DistDotError, match=words):
        kind(**options).fit(rows, y)


WEIGHTS = [
    (np.ones(29), r"sample_weight has shape \(29,\): expected \(30,\)"),
    (np.ones((N, 1)), r"sample_weight has shape \(30, 1\)"),
    ([2.0], r"sample_weight has shape \(1,\)"),
    (["a"] * N, "sample_weight has dtype <U1: expected numbers"),
    (np.ones(N) * 1j, "sample_weight has dtype complex128"),
    (np.arange(N).astype("M8[D]"), "sample_weight has dtype datetime64"),
    (np.full(N, np.nan), "sample_weight is nan, row 0"),
    (-np.ones(N), "sample_weight is -1.0 in row 0"),
    (np.zeros(N), "the sample weights are all zero"),
    (np.ma.masked_greater(np.arange(30.0), 20.0), "sample_weight is masked in row 21"),
]


@pytest.mark.parametrize("kind", [Ridge, RidgeCV, LogisticRegression, LogisticRegressionCV, PoissonRegressor])
@pytest.mark.parametrize(("weights", "words"), WEIGHTS)
def test_weights_are_numbers_one_for_each_row(kind, weights, words):
    with pytest.raises(InputError, match=words):
        kind().fit(X, target_of(kind), sample_weight=weights)


ROWS = [
    (np.arange(90).reshape(N, 3).astype("M8[D]"), Y, "X has dtype datetime64"),
    (np.arange(90).reshape(N, 3).astype("m8[s]"), Y, "X has dtype timedelta64"),
    (pd.DataFrame({"a": Y, "when": [datetime.datetime(2026, 1, 1)] * N}), Y, "column 'when' of X has dtype datetime64"),
    (X, [10**400] * N, "X or y holds a whole number that float64 cannot hold"),
    (X, np.arange(N).astype("M8[D]"), "y has dtype datetime64"),
    (X * 1e200, Y, "column 0 of X is about .*, and its squares overflow float64"),
    (X, Y * 1e300, r"y is about 2e\+300, and its squares overflow float64"),
    (X, Y * 1e-310, "y is about 2e-310, and its squares vanish in float64"),
    (X, np.column_stack([Y, Y * 1e200]), "target 1 of y is about"),
]


@pytest.mark.parametrize("model", [Ridge(), RidgeCV(), LinearRegression(), Ridge(solver=Exact("qr"))])
@pytest.mark.parametrize(("rows", "y", "words"), ROWS)
def test_rows_that_no_sum_can_hold_and_that_are_no_numbers(model, rows, y, words):
    with pytest.raises((DataError, ValueError), match=words):
        model.fit(rows, y)


def test_large_numbers_that_squares_can_hold_are_fitted():
    for unit in (1e150, 1e-150):
        np.testing.assert_allclose(LinearRegression().fit(X, Y * unit).coef_ / unit, [1.0, 2.0, 3.0], rtol=1e-10)
        np.testing.assert_allclose(LinearRegression().fit(X * unit, Y).coef_ * unit, [1.0, 2.0, 3.0], rtol=1e-10)


CALLS = [
    (lambda: lay_out(X, Y, block_rows=2.5), "block_rows is 2.5"),
    (lambda: lay_out(X, Y, block_rows=0), "block_rows is 0"),
    (lambda: lay_out(X, Y, block_rows="x"), "block_rows is 'x'"),
    (lambda: lay_out(X, Y, offset=Y * np.nan), "offset is nan, row 0"),
    (lambda: lay_out(X, Y, offset=Y[:5]), r"offset has shape \(5,\)"),
    (lambda: lay_out(X, Y, offset=["a"] * N), "offset has dtype <U1"),
    (lambda: lay_out(X, Y, fold=["a"] * N), "fold has dtype <U1"),
    (lambda: Objective(lay_out(X, Y), losses.Squared(), "1"), "alpha is '1'"),
    (lambda: minimise(Objective(lay_out(X, Y), losses.Squared()), tol="x"), "tol is 'x'"),
    (lambda: minimise(Objective(lay_out(X, Y), losses.Squared()), max_iter=1.5), "max_iter is 1.5"),
    (lambda: minimise(Objective(lay_out(X, Y), losses.Squared()), callbacks=print), "callbacks is"),
    (lambda: minimise(Objective(lay_out(X, Y), losses.Squared()), start=np.zeros(7)), r"parameters have shape \(7,\)"),
    (lambda: top_k(X, X, 0), "k is 0"),
    (lambda: top_k(X, X, N + 1), "k is 31"),
    (lambda: top_k(X, X, "a"), "k is 'a': give a whole number >= 1"),
    (lambda: top_k(X, X, 2.5), "k is 2.5"),
]


@pytest.mark.parametrize(("call", "words"), CALLS)
def test_calls_are_refused_in_words(call, words):
    with pytest.raises((InputError, SolverError), match=words):
        call()


def test_no_queries_have_no_best_rows():
    best = top_k(X, np.zeros((0, 3)), 2)
    assert best.index.shape == best.score.shape == (0, 2)


@pytest.mark.parametrize("solver", ["exact", "lbfgs", "newton", "gradient_descent"])
def test_squares_that_vanish_and_weights_that_overflow_are_named_by_every_solver(solver):
    model, tiny = Ridge(1e-3, solver=solver), np.array([1.0, 1e-200, 1.0])
    with pytest.raises(
        DataError, match=r"column 1 of X is about .*e-20\d, and its squares vanish in float64: multiply"
    ):
        model.fit(X * tiny, Y)
    with pytest.raises(DataError, match=r"y is about .*e-20\d, and its squares vanish in float64: multiply it by"):
        model.fit(X, Y * 1e-200)
    with pytest.raises(DataError, match="the sample weights overflow float64 in sum.*: divide them by a power of ten"):
        model.fit(X, Y, np.full(N, 1e307))
    for y in (0.0 * Y, 0.0 * Y + 3.0):  # nothing to fit is no fault
        assert np.allclose(model.fit(X * [0, 1, 1], y).coef_, 0.0, atol=1e-12)


@pytest.mark.parametrize("solver", [3, None, LBFGS])
def test_what_is_no_solver_is_named(solver):
    objective = Objective(lay_out(X, Y), losses.Squared(), 1.0)
    with pytest.raises(SolverError, match="give 'auto', the name of a solver, or a solver such as LBFGS"):
        minimise(objective, solver)


@pytest.mark.parametrize("solver", [Exact("gram"), Exact("qr"), Newton("cholesky")])
def test_products_of_all_columns_are_held_against_the_memory(solver, monkeypatch):
    monkeypatch.setattr("dist_dot.rounds.layout.LARGE", 0)
    monkeypatch.setattr("dist_dot.rounds.layout.memory", lambda lazy: (3 * 8 * 4 * 4, 1))
    assert Ridge(solver=solver).fit(X, Y).n_iter_ == 1
    wide = np.hstack([X, X**2])
    with pytest.raises(InputError, match="of a few blocks are 3 x 7 x 7 numbers, .* name a solver without them"):
        Ridge(solver=solver).fit(wide, Y)
