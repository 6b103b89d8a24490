"""Rows that cannot be used are named, here and on a cluster: what is wrong, where, the value, and what to give instead.

What scikit-learn's own validation refuses in plain arrays keeps scikit-learn's words: OF_SCIKIT_LEARN.
"""

from contextlib import nullcontext

import array_api_strict
import dist_dot_cluster
import numpy as np
import pytest
from given import MODELS, N, X, Y, chunked, name_of, nothing_left, target_of, unknown
from sklearn.base import clone

from dist_dot import LogisticRegression, Objective, lay_out, losses, minimise
from dist_dot.errors import DistDotError

pytestmark = pytest.mark.filterwarnings("ignore:Sending large graph")


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes."""
    with dist_dot_cluster.open("local", 2) as client:
        yield client


def at_row_17(array, value):
    """Return a copy with another number in row 17, of column 1 where there are columns."""
    array = array.astype(np.result_type(array, np.float64))
    array[(17, 1)[: array.ndim]] = value
    return array


def masked(array):
    mask = np.zeros(array.shape, bool)
    mask[(17, 1)[: array.ndim]] = True
    return np.ma.array(array, mask=mask)


DATES = np.arange(N).astype("M8[D]")
RECORDS = np.zeros(N, dtype=[("a", float), ("b", float)])
WORDS = np.array(["a", "b", "c"] * 10)
DAYS = "expected numbers; turn dates and durations into numbers, such as days"
ENCODE = r"expected numbers; where words are numbers use {}.astype\(float\), else encode them"

# What X is, and what a user reads.
OF_X = {
    "one column": (X[:, 0], r"X has shape \(30,\): .* a single column is X.reshape\(-1, 1\)"),
    "no dimension": (np.array(3.0), r"X has shape \(\): expected \(n_samples, n_features\)"),
    "three dimensions": (X[:, :, None], r"X has shape \(30, 3, 1\): expected \(n_samples, n_features\)"),
    "no rows": (X[:0], "X has 0 rows and y has 30: give a y for each row of X"),
    "no columns": (X[:, :0], r"X has shape \(30, 0\): there is nothing to train on"),
    "fewer rows": (X[:20], "X has 20 rows and y has 30"),
    "words": (np.full((N, 3), "a"), "X has dtype <U1: " + ENCODE.format("X")),
    "bytes": (np.full((N, 3), b"a"), r"X has dtype \|S1: " + ENCODE.format("X")),
    "objects": (np.full((N, 3), None), r"X has dtype object: expected numbers; .* use X.astype\(float\)"),
    "complex": (X * 1j, "X has dtype .*complex128: expected numbers; take X.real, or the columns X.real and X.imag"),
    "dates": (DATES[:, None], r"X has dtype datetime64\[D\]: " + DAYS),
    "durations": (DATES[:, None] - DATES[0], r"X has dtype timedelta64\[D\]: " + DAYS),
    "records": (RECORDS[:, None], "X has dtype .*: expected numbers; take its fields, and stack them as columns"),
    "NaN": (at_row_17(X, np.nan), "X is nan in column 1, row 17: fill or drop such rows"),
    "infinity": (at_row_17(X, -np.inf), "X is -inf in column 1, row 17: fill or drop such rows"),
    "masked": (masked(X), "X is masked in column 1, row 17: fill or drop such rows first"),
    "1e200": (X * 1e200, r"column 0 of X is about -?\de\+\d+, and its squares overflow float64: divide it"),
    "1e300 in one column": (X * [1, 1, 1e300], r"column 2 of X is about -?\de\+\d+, and its squares overflow float64"),
}
OF_SCIKIT_LEARN = {
    "one column": "Expected 2D array",
    "no dimension": "Expected 2D array",
    "three dimensions": "Found array with dim 3",
    "no rows": "Found array with 0 sample",
    "no columns": r"0 feature\(s\)",
    "fewer rows": "inconsistent numbers of samples",
    "words": "could not convert string to float: .*'a'",
    "bytes": "could not convert string to float|dtype='numeric' is not compatible with arrays of bytes",
    "objects": "contains NaN",
    "complex": "Complex data not supported",
    "NaN": "Input X contains NaN",
    "infinity": "Input X contains infinity",
    "y of no dimension": "y should be a 1d array|at least 1 dimension",
    "y of three dimensions": "Found array with dim 3",
    "y complex": "Complex data not supported",
    "y NaN": "Input y contains NaN",
    "y infinity": "Input y contains infinity",
    "y None": "requires y to be passed",
    "y fewer": "inconsistent numbers of samples",
}
OF_NUMBERS = {  # what array_api_strict can hold
    *("one column", "no dimension", "three dimensions", "no rows", "no columns", "fewer rows", "complex", "NaN"),
    *("infinity", "1e200", "1e300 in one column"),
}


def refused(model, rows, words):
    with pytest.raises(DistDotError, match=words):
        clone(model).fit(*rows)


@pytest.mark.parametrize("model", MODELS, ids=name_of)
@pytest.mark.parametrize("fault", OF_X)
def test_X_here(model, fault):
    rows, words = OF_X[fault]
    words = f"{words}|{OF_SCIKIT_LEARN[fault]}" if fault in OF_SCIKIT_LEARN else words
    with pytest.raises((DistDotError, ValueError), match=words):
        clone(model).fit(rows, target_of(model))


@pytest.mark.parametrize("model", MODELS, ids=name_of)
@pytest.mark.parametrize("fault", sorted(OF_NUMBERS))
def test_X_of_another_library(model, fault):
    rows, words = OF_X[fault]
    refused(model, (array_api_strict.asarray(rows), target_of(model)), words)


@pytest.mark.parametrize("model", MODELS, ids=name_of)
@pytest.mark.parametrize("fault", OF_X)
def test_X_on_a_cluster(model, fault, cluster):
    rows, words = OF_X[fault]
    with nothing_left(cluster):
        refused(model, (chunked(rows), chunked(target_of(model))), words)


# What y is where a model takes numbers, and where it takes labels.
OF_Y = {
    "y None": (None, "y is None: give an array of it", None),
    "y of no dimension": (np.array(3.0), r"y has shape \(\): expected \(n_samples,\)", None),
    "y of three dimensions": (X[:, :, None], r"y has shape \(30, 3, 1\)", None),
    "y fewer": (Y[:20] > 0, "X has 30 rows and y has 20: give a y for each row of X", None),
    "y complex": (Y * 1j, "y has dtype complex128: expected numbers; take y.real", "y has dtype .*: expected labels"),
    "y records": (RECORDS, "y has dtype .*: expected numbers; take its fields", "y has dtype .*: expected labels"),
    "y NaN": (at_row_17(Y, np.nan), "y is nan, row 17: fill or drop", "y is nan in row 17|y is .* labels are words"),
    "y infinity": (at_row_17(np.ones(N), np.inf), "y is inf, row 17: fill or drop", "y is inf in row 17: labels are"),
    "y masked": (masked(np.abs(Y)), "y is masked in row 17: fill or drop such rows first", None),
    "y words": (WORDS, "y has dtype <U1: " + ENCODE.format("y"), ""),
    "y dates": (DATES, r"y has dtype datetime64\[D\]: " + DAYS, ""),
    "y durations": (DATES - DATES[0], r"y has dtype timedelta64\[D\]: " + DAYS, ""),
    "y of one label": (np.ones(N), "", "y has only one class, 1.0: a classifier needs two or more"),
    "y continuous": (Y, "", "y is .* labels are words or whole numbers; numbers like these are for a regressor"),
    "y one-hot": (np.eye(3)[np.arange(N) % 3], "", r"y has shape \(30, 3\): .* of one-hot columns, take y.argmax"),
}


def targets_of_each_model():
    for model in MODELS:
        for fault, (y, numbers, labels) in OF_Y.items():
            words = labels if labels is not None and isinstance(model, LogisticRegression) else numbers
            if words:
                yield pytest.param(model, fault, y, words, id=f"{name_of(model)}-{fault}")


BAD_TARGETS = list(targets_of_each_model())


@pytest.mark.parametrize(("model", "fault", "y", "words"), BAD_TARGETS)
def test_y_here(model, fault, y, words):
    words += f"|{OF_SCIKIT_LEARN[fault]}" if fault in OF_SCIKIT_LEARN else ""
    words += "|Unknown label type|could not convert string|bad input shape|y should be a 1d array"
    with pytest.raises((ValueError, TypeError), match=words):
        clone(model).fit(X, y)


@pytest.mark.parametrize(("model", "fault", "y", "words"), BAD_TARGETS)
def test_y_on_a_cluster(model, fault, y, words, cluster):
    with nothing_left(cluster):
        refused(model, (chunked(X), y if y is None else chunked(y)), words)


DOMAINS = [
    ("PoissonRegressor", -0.5, "y is -0.5 in row 17: the poisson loss takes 0 <= y"),
    ("GammaRegressor", 0.0, "y is 0.0 in row 17: the gamma loss takes 0 < y"),
    ("GammaRegressor", -2.0, "y is -2.0 in row 17: the gamma loss takes 0 < y"),
    ("GammaRegressor", 1e-39, r"y is 1e-39 in row 17: .* float32 none below 1.2e-38: multiply y by a power of ten"),
    ("PoissonRegressor", 1e200, r"y is about 3e\+198, and its squares overflow float64: divide it by a power of ten"),
    ("Ridge", 1e200, r"y is about \de\+198, and its squares overflow float64: divide it by a power of ten"),
]


@pytest.mark.parametrize(("kind", "value", "words"), DOMAINS)
@pytest.mark.parametrize("wrap", [np.asarray, array_api_strict.asarray, chunked], ids=["numpy", "strict", "dask"])
def test_y_that_a_loss_does_not_take(kind, value, words, wrap, cluster):
    model = next(model for model in MODELS if name_of(model) == kind)
    with nothing_left(cluster) if wrap is chunked else nullcontext():
        refused(model, (wrap(X), wrap(at_row_17(target_of(model), value))), words)


OF_WEIGHTS = {
    "29": (np.ones(29), r"sample_weight has shape \(29,\): expected \(30,\), one number for each row"),
    "a column": (np.ones((N, 1)), r"sample_weight has shape \(30, 1\): expected \(30,\)"),
    "a list of one": ([2.0], r"sample_weight has shape \(1,\): expected \(30,\)"),
    "a word": ("heavy", "sample_weight has dtype <U5: expected numbers"),
    "words": (WORDS, "sample_weight has dtype <U1: " + ENCODE.format("sample_weight")),
    "complex": (np.ones(N) * 1j, "sample_weight has dtype complex128: expected numbers; take sample_weight.real"),
    "dates": (DATES, r"sample_weight has dtype datetime64\[D\]: " + DAYS),
    "objects": (np.full(N, None), r"sample_weight has dtype object: .* use sample_weight.astype\(float\)"),
    "records": (RECORDS, "sample_weight has dtype .*: expected numbers; take its fields"),
    "NaN": (at_row_17(np.ones(N), np.nan), "sample_weight is nan, row 17: fill or drop such rows"),
    "infinity": (at_row_17(np.ones(N), np.inf), "sample_weight is inf, row 17"),
    "negative": (at_row_17(np.ones(N), -1.0), "sample_weight is -1.0 in row 17: weights are >= 0"),
    "masked": (masked(np.ones(N)), "sample_weight is masked in row 17"),
    "zeros": (np.zeros(N), "the sample weights are all zero: no row counts|the weight is zero of all rows"),
}


@pytest.mark.parametrize("model", MODELS, ids=name_of)
@pytest.mark.parametrize("fault", OF_WEIGHTS)
@pytest.mark.parametrize("place", ["here", "cluster"])
def test_weights(model, fault, place, cluster):
    weights, words = OF_WEIGHTS[fault]
    if place == "here":
        return refused(model, (X, target_of(model), weights), words)
    weights = chunked(weights) if isinstance(weights, np.ndarray) else weights
    with nothing_left(cluster):
        refused(model, (chunked(X), chunked(target_of(model)), weights), words)


SOLVERS = [(model, solver) for model in MODELS if hasattr(model, "solver") for solver in ("lbfgs", "gradient_descent")]


@pytest.mark.parametrize(
    ("model", "solver"), SOLVERS, ids=lambda part: part if isinstance(part, str) else name_of(part)
)
def test_what_each_solver_cannot_sum_up(model, solver):
    model, y = clone(model).set_params(solver=solver), target_of(model)
    refused(model, (X, y, np.zeros(N)), "the sample weights are all zero: no row counts")
    refused(model, (X, y, np.full(N, 1e307)), "the sample weights overflow float64 in sum: divide them by a power of")
    refused(model, (X * 1e200, y), r"column 0 of X is about -?\de\+\d+, and its squares overflow float64")


SCORES = [(each, score) for each in MODELS for score in ("score", "log_loss", "auc") if hasattr(each, score)]


@pytest.mark.parametrize(("model", "score"), SCORES, ids=str)
@pytest.mark.parametrize("wrap", [np.asarray, chunked], ids=["here", "cluster"])
def test_scores_of_rows_that_cannot_be_scored(model, wrap, score, cluster):
    y = target_of(model)
    model = clone(model)
    with pytest.raises(ValueError, match="not fitted yet"):
        getattr(model, score)(wrap(X), wrap(y))
    model.fit(X, y)
    with nothing_left(cluster) if wrap is chunked else nullcontext():
        for rows, words in (
            ((wrap(X), wrap(y), np.zeros(N)), "the sample weights are all zero|area under the curve needs rows"),
            ((wrap(X), wrap(y), np.ones(29)), r"sample_weight has shape \(29,\)"),
            ((wrap(X), wrap(y[:20])), "X has 30 rows and y has 20"),
            ((wrap(X)[:, :2], wrap(y)), "X has 2 features|X has shape .*: the model was fitted to 3 columns"),
            ((wrap(at_row_17(X, np.nan)), wrap(y)), "X is nan in column 1, row 17|Input X contains NaN"),
            ((wrap(X), None), "y is None: give an array of it"),
        ):
            with pytest.raises(ValueError, match=words):
                getattr(model, score)(*rows)


OF_LAYOUT = [
    ({"offset": np.ones(29)}, r"offset has shape \(29,\): expected \(30,\)"),
    ({"offset": 2.0}, r"offset has shape \(\): expected \(30,\)"),
    ({"offset": WORDS}, "offset has dtype <U1: " + ENCODE.format("offset")),
    ({"offset": at_row_17(np.ones(N), np.nan)}, "offset is nan, row 17"),
    ({"fold": at_row_17(np.ones(N), 0.5)}, "fold is 0.5 in row 17: folds are whole numbers from 0"),
    ({"fold": at_row_17(np.ones(N), -1)}, "fold is -1.0 in row 17"),
    ({"fold": DATES}, r"fold has dtype datetime64\[D\]: " + DAYS),
    ({"sample_weight": masked(np.ones(N))}, "sample_weight is masked in row 17"),
    ({"block_rows": 2.5}, "block_rows is 2.5: give a positive number of rows, or 'auto'"),
    ({"device": "tpu"}, "device is 'tpu': give 'cpu', 'cuda', or 'auto'"),
]


@pytest.mark.parametrize(("options", "words"), OF_LAYOUT)
@pytest.mark.parametrize("wrap", [np.asanyarray, chunked], ids=["here", "cluster"])
def test_columns_of_rows(options, words, wrap, cluster):
    options = {name: wrap(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    with nothing_left(cluster) if wrap is chunked else nullcontext(), pytest.raises(DistDotError, match=words):
        lay_out(wrap(X), wrap(Y), **options)


OF_MINIMISE = [
    ({"tol": "x"}, "tol is 'x': give a number >= 0"),
    ({"max_iter": 1.5}, "max_iter is 1.5: give a whole number >= 0"),
    ({"callbacks": print}, r"callbacks is .*: give a list of functions, such as \[print\]"),
    ({"start": np.zeros(7)}, r"parameters have shape \(7,\), expected \(4,\)"),
    ({"solver": "newtom"}, "unknown solver 'newtom': did you mean 'newton'"),
]


@pytest.mark.parametrize(("options", "words"), OF_MINIMISE)
@pytest.mark.parametrize("wrap", [np.asarray, chunked], ids=["here", "cluster"])
def test_what_a_run_is_asked_for(options, words, wrap, cluster):
    with nothing_left(cluster) if wrap is chunked else nullcontext(), pytest.raises(DistDotError, match=words):
        minimise(Objective(lay_out(wrap(X), wrap(Y)), losses.Squared()), **options)


def never(chunk):
    raise AssertionError("the chunk was computed")


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_nothing_is_computed_of_arrays_whose_dtype_or_shape_is_wrong(model, cluster):
    """Where Dask does not know how many rows there are, it would compute them all to find out."""
    y, model = target_of(model), clone(model)
    rows, target = (unknown(array).map_blocks(never, dtype=array.dtype, meta=array[:0]) for array in (X, y))
    objects = rows.map_blocks(never, dtype=object, meta=np.empty((0, 3), object))
    with nothing_left(cluster):
        refused(model, (objects, target), "X has dtype object: expected numbers")
        refused(model, (rows[:, 0], target), "X has shape .*: expected .*n_samples, n_features")
        refused(model, (rows, target, WORDS), "sample_weight has dtype <U1")
        refused(model, (rows, target, np.ones((N, 1))), r"sample_weight has shape \(30, 1\)")
        if not isinstance(model, LogisticRegression):
            refused(model, (rows, target.astype(complex)), "y has dtype complex128")
