"""Parameters, folds, collections, products and clients that cannot be used are named, here and on a cluster."""

import asyncio
from contextlib import nullcontext

import array_api_strict
import dask
import dist_dot_cluster
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from distributed import Client, LocalCluster
from given import (
    COUNTS,
    LABELS,
    MODELS,
    WEIGHTS,
    DataArray,
    N,
    X,
    Y,
    chunked,
    dask_frame,
    name_of,
    nothing_left,
    second_device,
    target_of,
    unknown,
)
from remote import remote
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold, RepeatedKFold, ShuffleSplit, TimeSeriesSplit

from dist_dot import (
    EarlyStopping,
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Objective,
    PoissonRegressor,
    Ridge,
    RidgeCV,
    cosine_similarity,
    dot,
    gram,
    inner,
    lay_out,
    losses,
    minimise,
    top_k,
)
from dist_dot.errors import ClusterError, DataError, DistDotError, SolverError
from dist_dot.solvers import LBFGS

pytestmark = pytest.mark.filterwarnings("ignore:Sending large graph")

PLACES = pytest.mark.parametrize("wrap", [np.asarray, chunked], ids=["here", "cluster"])


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes."""
    with dist_dot_cluster.open("local", 2) as client:
        yield client


def on(cluster, wrap):
    return nothing_left(cluster) if wrap is chunked else nullcontext()


KINDS = "give None, a number of folds"
FOLDS = [
    ("x", f"cv is 'x': {KINDS}"),
    (0, f"cv is 0: {KINDS} >= 2"),
    (1, f"cv is 1: {KINDS} >= 2"),
    (-1, f"cv is -1: {KINDS} >= 2"),
    (True, f"cv is True: {KINDS} >= 2"),
    (2.5, f"cv is 2.5: {KINDS}"),
    (31, "cv is .*31.*, which finds no folds: .* you may give a fold for each row"),
    ({}, f"cv is {{}}: {KINDS}"),
    (KFold, f"cv is <class .*KFold'>: {KINDS}"),
    (object(), f"cv is <object .*>: {KINDS}"),
    ([], rf"cv has shape \(0,\), and there are 30 rows: {KINDS}"),
    (np.zeros(N), "cv puts all rows into one fold, 0.0: two are needed at least"),
    (np.arange(N - 1) % 3, rf"cv has shape \(29,\), and there are 30 rows: {KINDS}"),
    (np.arange(N)[:, None] % 3, r"cv has shape \(30, 1\)"),
    (np.where(np.arange(N) == 17, np.nan, 1.0), "cv is nan in row 17: give a fold for each row"),
    (chunked(np.where(np.arange(N) == 17, np.nan, 1.0)), "cv is nan in row 17: give a fold for each row"),
    ([None, *[0, 1] * 14, 0], "cv is None in row 0: give a fold for each row"),
    (np.ma.masked_equal(np.arange(N) % 3, 1), "cv is masked in row 1"),
    ((np.arange(N) % 3).astype(complex), f"cv has dtype complex128: {KINDS}"),
    (
        dask_frame(np.arange(N) % 3),
        r"cv is a Series: use dask arrays; of a data frame, cv.to_dask_array\(lengths=True\)",
    ),
    ([([0], [1])], "cv leaves rows out of split 0: each row must be trained on or tested"),
    ([(np.arange(N), [])], "cv tests .* in split 0: give numbers of the 30 rows"),
    ([(np.arange(N - 1), [30])], "cv tests .* in split 0: give numbers of the 30 rows"),
    ([(np.arange(N - 1), ["a"])], "cv tests .* in split 0: give numbers of the 30 rows"),
    ([(np.arange(10, N), np.arange(10))], "cv tests row 10 0 times: its test parts must hold each row once"),
    (ShuffleSplit(3), "cv tests row .* times|cv leaves rows out"),
    (RepeatedKFold(n_splits=3, n_repeats=2), "cv tests row 0 2 times"),
    (TimeSeriesSplit(3), "cv leaves rows out of split 0"),
    (GroupKFold(3), "cv is GroupKFold.*, which finds no folds: The 'groups' parameter should not be None"),
]


@pytest.mark.parametrize("model", [RidgeCV(), LogisticRegressionCV(2)], ids=name_of)
@pytest.mark.parametrize(("cv", "words"), FOLDS)
@PLACES
def test_folds(model, cv, words, wrap, cluster):
    with on(cluster, wrap), pytest.raises(DistDotError, match=words):
        type(model)(cv=cv).fit(wrap(X), wrap(target_of(model)))


@pytest.mark.parametrize("of_folds", [list, chunked, array_api_strict.asarray, pd.Series, lambda f: f.astype(str)])
@PLACES
def test_folds_of_any_kind_of_array(of_folds, wrap, cluster):
    folds = np.arange(N) % 3
    expected = RidgeCV(cv=folds).fit(X, Y)
    with on(cluster, wrap):
        model = RidgeCV(cv=of_folds(folds)).fit(wrap(X), wrap(Y))
    np.testing.assert_array_equal(model.coef_, expected.coef_)
    assert model.best_score_ == expected.best_score_


SOLVERS = [
    (None, "solver is None: give 'auto', the name of a solver, or a solver such as LBFGS"),
    (3, "solver is 3: give 'auto'"),
    (["lbfgs"], r"solver is \['lbfgs'\]: give 'auto'"),
    (LBFGS, "solver is <class .*LBFGS'>: give 'auto'"),
    ("sag", "unknown solver 'sag': known: auto, exact, gradient_descent, lbfgs, newton"),
]


@pytest.mark.parametrize("model", [each for each in MODELS if hasattr(each, "solver")], ids=name_of)
@pytest.mark.parametrize(("solver", "words"), SOLVERS)
@PLACES
def test_solvers(model, solver, words, wrap, cluster):
    with on(cluster, wrap), pytest.raises(DistDotError, match=words):
        clone(model).set_params(solver=solver).fit(wrap(X), wrap(target_of(model)))


CLASS_WEIGHTS = [
    ("even", "class_weight is 'even': give None, 'balanced', or a dict of weights by label"),
    (3, "class_weight is 3: give None, 'balanced', or a dict"),
    ([1, 2], r"class_weight is \[1, 2\]: give None"),
    ({0: "a"}, r"class_weight\[0\] is 'a': give a finite number >= 0"),
    ({0: -1}, r"class_weight\[0\] is -1: give a finite number >= 0"),
    ({0: np.nan}, r"class_weight\[0\] is nan"),
    ({5: 1.0}, r"class_weight is {5: 1.0}, and the labels of y are \[0, 1\]"),
]


@pytest.mark.parametrize("model", [LogisticRegression(), LogisticRegressionCV(2, cv=3)], ids=name_of)
@pytest.mark.parametrize(("class_weight", "words"), CLASS_WEIGHTS)
@PLACES
def test_weights_of_classes(model, class_weight, words, wrap, cluster):
    with on(cluster, wrap), pytest.raises(DistDotError, match=words):
        clone(model).set_params(class_weight=class_weight).fit(wrap(X), wrap(LABELS))


CALLS = [
    (lambda: EarlyStopping("a"), "patience is 'a': give a whole number >= 1"),
    (lambda: EarlyStopping(1.5), "patience is 1.5: give a whole number >= 1"),
    (lambda: EarlyStopping(one_in=None), "one_in is None: give a whole number >= 2"),
    (
        lambda: LinearRegression().fit(X, Y).fit_.inference().interval("a"),
        "level is 'a': give a number between 0 and 1",
    ),
    (
        lambda: LinearRegression().fit(X, Y).fit_.inference().interval(1.0),
        "level is 1.0: give a number between 0 and 1",
    ),
    (lambda: LogisticRegressionCV(True).fit(X, LABELS), "Cs is True: give numbers"),
    (lambda: top_k(X, X, 1, None), "unknown metric None: "),
    (lambda: top_k(X, X, 1, "cos"), "unknown metric 'cos': did you mean 'cosine'"),
    (lambda: top_k(X * 1e300, X * 1e300, 1), "the inner product of query 0 and row 0 of X overflows float64"),
]


@pytest.mark.parametrize(("call", "words"), CALLS)
def test_calls(call, words):
    with pytest.raises(DistDotError, match=words):
        call()


FRAME = r"is a DataFrame: use dask arrays; of a data frame, X.to_dask_array\(lengths=True\)"
COLLECTIONS = [
    (lambda: dask_frame(X), lambda y: dask_frame(y), f"X {FRAME}"),
    (lambda: dask_frame(X), lambda y: y, f"X {FRAME}"),
    (
        lambda: chunked(X),
        dask_frame,
        r"y is a Series: use dask arrays; of a data frame, y.to_dask_array\(lengths=True\)",
    ),
    (lambda: X, dask_frame, r"y is a Series: use dask arrays"),
    (lambda: DataArray(chunked(X)), chunked, "X is a DataArray: use dask arrays; here X.data"),
    (lambda: dask.delayed(X), chunked, "X is a Delayed.*: use dask arrays; such as those of dask.array.from_delayed"),
    (lambda: chunked(X), dask.delayed, "y is a Delayed.*: use dask arrays"),
]


@pytest.mark.parametrize("model", MODELS, ids=name_of)
@pytest.mark.parametrize(("of_X", "of_y", "words"), COLLECTIONS)
def test_collections_that_are_no_arrays(model, of_X, of_y, words, cluster):
    fitted = clone(model).fit(X, target_of(model))
    with nothing_left(cluster):
        for function in (clone(model).fit, fitted.score):
            with pytest.raises(DataError, match=words):
                function(of_X(), of_y(target_of(model)))
        if words.startswith("X"):
            with pytest.raises(DataError, match=words):
                fitted.predict(of_X())
        with pytest.raises(DataError, match="sample_weight is a Series: use dask arrays"):
            clone(model).fit(chunked(X), chunked(target_of(model)), dask_frame(WEIGHTS))


def sparse_chunks():
    return chunked(X).map_blocks(scipy.sparse.csr_array, dtype=float)


def sparse_chunks_that_say_so():
    return chunked(X).map_blocks(scipy.sparse.csr_matrix, meta=scipy.sparse.csr_matrix((0, 0)))


SPARSE = [
    lambda: scipy.sparse.csr_array(X),
    lambda: scipy.sparse.coo_matrix(X),
    sparse_chunks,
    sparse_chunks_that_say_so,
]


@pytest.mark.parametrize("model", MODELS, ids=name_of)
@pytest.mark.parametrize("rows", SPARSE)
def test_sparse_rows(model, rows, cluster):
    y = target_of(model)
    fitted = clone(model).fit(X, y)
    words = (
        r"X is a sparse cs?[or]?.*: only dense X is supported so far; use X.toarray\(\)|Sparse data was passed for X"
    )
    with nothing_left(cluster):
        for call in (
            lambda: clone(model).fit(rows(), y),
            lambda: dask.compute(fitted.predict(rows())),
            lambda: fitted.score(rows(), y),
        ):
            with pytest.raises((DataError, TypeError), match=words):
                call()


OF_PREDICT = [
    (X[0], r"X has shape \(3,\): the model was fitted to 3 columns; a single row is X.reshape\(1, -1\)"),
    (X[:, :2], r"X has shape \(30, 2\): the model was fitted to 3 columns"),
    (X[:, :, None], r"X has shape \(30, 3, 1\): the model was fitted to 3 columns"),
    (X.astype(object), r"X has dtype object: expected numbers; if all of them are, use X.astype\(float\)"),
    (X * 1j, "X has dtype .*complex128: expected numbers"),
    (np.ones((N, 3)).astype("M8[D]"), r"X has dtype datetime64\[D\]: .* turn dates and durations into numbers"),
    (X.astype(str), r"X has dtype <U32: .* use X.astype\(float\)"),
]


@pytest.mark.parametrize("model", MODELS, ids=name_of)
@pytest.mark.parametrize(("rows", "words"), OF_PREDICT)
def test_rows_that_cannot_be_predicted_from(model, rows, words, cluster):
    fitted = clone(model).fit(X, target_of(model))
    with nothing_left(cluster), pytest.raises(DistDotError, match=words):
        fitted.predict(chunked(rows))
    if rows.dtype.kind == "M":
        with pytest.raises(DistDotError, match=words):
            fitted.predict(rows)
    if rows.dtype.kind in "fc":
        with pytest.raises(DistDotError, match=words):
            fitted.predict(array_api_strict.asarray(rows))


FRAMES = [
    (
        {"a": Y, "t": pd.Timestamp("2026-01-01")},
        r"column 't' of X has dtype datetime64\[.*\]: expected numbers; turn dates",
    ),
    ({"t": pd.date_range("2026-01-01", periods=N)}, "column 't' of X has dtype datetime64"),
    ({"t": pd.date_range("2026-01-01", periods=N, tz="UTC")}, r"column 't' of X has dtype datetime64\[.*, UTC\]"),
    ({"t": pd.to_timedelta(np.arange(N), "D"), "a": Y}, "column 't' of X has dtype timedelta64"),
    ([[np.datetime64("2026-01-01")]] * N, r"X has dtype datetime64\[D\]: expected numbers; turn dates"),
]


@pytest.mark.parametrize("model", MODELS, ids=name_of)
@pytest.mark.parametrize(("columns", "words"), FRAMES)
def test_dates_in_frames(model, columns, words):
    rows = pd.DataFrame(columns) if isinstance(columns, dict) else columns
    with pytest.raises(DataError, match=words):
        clone(model).fit(rows, target_of(model))


STRICT, SECOND_X = array_api_strict.asarray(X), second_device(X)
OF_PRODUCTS = [
    (X, X[:, :2], "X has 3 columns and Y has 2|X has shape .* and Y has shape .*: they have no inner product"),
    (X[0], X, r"X has shape \(3,\): .* a single row is X.reshape\(1, -1\)|they have no inner product"),
    (None, X, "X is None: give an array of it"),
    (X, None, "Y is None: give an array of it"),
    (X.astype(str), X, r"X has dtype <U32: .* use X.astype\(float\)"),
    (X.astype(object), X, r"X has dtype object: .* use X.astype\(float\)"),
    (X * 1j, X, "X has dtype complex128: expected numbers; take X.real"),
    (X.astype("M8[s]"), X, r"X has dtype datetime64\[s\]"),
    (np.ma.masked_equal(X, X[17, 1]), X, "X is masked in column 1, row 17"),
    (scipy.sparse.csr_array(X), X, "X is a sparse csr_array"),
    (STRICT, X, "X is an array of array_api_strict on .*, and Y of NumPy: convert one of them to the other"),
    (SECOND_X, STRICT, "X is an array of array_api_strict on .*device1.*, and Y of array_api_strict on .*CPU_DEVICE"),
    (chunked(X), STRICT, "X is an array of NumPy, and Y of array_api_strict"),
    (dask_frame(X), X, f"X {FRAME}"),
    (DataArray(chunked(X)), X, "X is a DataArray: use dask arrays; here X.data"),
    (chunked(X.astype(object)), X, "X has dtype object"),
]


@pytest.mark.parametrize("product", [dot, cosine_similarity, inner])
@pytest.mark.parametrize(("left", "right", "words"), OF_PRODUCTS)
def test_products(product, left, right, words):
    with pytest.raises(DataError, match=words):
        product(left, right)


@pytest.mark.parametrize(("rows", "words"), [(left, words) for left, _, words in OF_PRODUCTS if "reshape" in words])
def test_products_of_columns(rows, words):
    with pytest.raises(DataError, match=words):
        gram(rows)


OF_SEARCH = [
    (X, X[:, :2], 1, r"X has shape \(30, 3\) and queries have shape \(30, 2\): expected \(n, p\) and \(q, p\)"),
    (X, X[0], 1, r"queries have shape \(3,\): expected"),
    (X, X, 31, "k is 31: give a number from 1 to the 30 rows of X"),
    (X, X, 2.5, "k is 2.5: give a whole number >= 1"),
    (X.astype(object), X, 1, r"X has dtype object: expected numbers; if all of them are, use X.astype\(float\)"),
    (X, X.astype(str), 1, "queries has dtype <U32: expected numbers"),
]


@pytest.mark.parametrize(("rows", "queries", "k", "words"), OF_SEARCH)
@PLACES
def test_searches(rows, queries, k, words, wrap, cluster):
    with on(cluster, wrap), pytest.raises(DistDotError, match=words):
        top_k(wrap(rows), queries, k)


def test_inner_products_of_arrays_of_unknown_sizes():
    np.testing.assert_allclose(inner(unknown(X), unknown(X)).compute(), np.sum(X * X))


def test_results_of_more_memory_than_there_is(monkeypatch):
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 2 << 30)
    long, wide = np.broadcast_to(1.0, (100_000, 1)), np.broadcast_to(1.0, (1, 100_000))
    with pytest.raises(
        DistDotError, match="100,000 x 100,000 numbers, 75 GiB, and .* 2.0 GiB: give Dask arrays, fewer"
    ):
        dot(long, long)
    with pytest.raises(DistDotError, match="100,000 x 100,000 numbers, 75 GiB, and .*: give fewer columns"):
        gram(wide)
    model = LogisticRegression().fit(X, np.arange(N) % 3)
    model.coef_, model.n_features_in_ = np.ones((20_000, 1)), 1
    with pytest.raises(DistDotError, match="100,000 x 20,000 numbers, 15 GiB, and .*: predict some rows at a time"):
        model.decision_function(np.zeros((100_000, 1)))


@pytest.mark.parametrize(
    ("model", "loss"),
    [(LogisticRegression(C=np.inf), losses.Logistic()), (PoissonRegressor(alpha=0.0), losses.Poisson())],
    ids=["logistic", "poisson"],
)
def test_standard_errors_of_other_losses_are_where_the_message_says(model, loss):
    import statsmodels.api as sm

    y = (Y + 3.0 * np.random.default_rng(2).standard_normal(N) > 1).astype(int) if loss.name == "logistic" else COUNTS
    fit = model.set_params(tol=1e-10).fit(X, y).fit_
    with pytest.raises(SolverError, match=r"the roots of the diagonal of np.linalg.inv\(objective.hessian\(fit.param"):
        fit.inference()
    objective = Objective(lay_out(X, y), loss)
    errors = np.sqrt(np.diag(np.linalg.inv(objective.hessian(fit.parameters))))
    family = sm.families.Binomial() if loss.name == "logistic" else sm.families.Poisson()
    expected = sm.GLM(y, np.column_stack([X, np.ones(N)]), family=family).fit(tol=1e-12).bse
    np.testing.assert_allclose(errors, expected, rtol=1e-5)


@pytest.mark.parametrize("model", [Ridge(), LogisticRegression(), GammaRegressor()], ids=name_of)
def test_an_asynchronous_client_is_named(model):
    y, fitted = target_of(model), clone(model).fit(X, target_of(model))

    async def fit():
        options = {"processes": False, "dashboard_address": ":0", "asynchronous": True}
        async with LocalCluster(n_workers=1, **options) as started, Client(started, asynchronous=True):
            for call in (
                lambda: clone(model).fit(chunked(X), chunked(y)),
                lambda: clone(model).fit(unknown(X), unknown(y)),
                lambda: fitted.score(chunked(X), chunked(y)),
                lambda: lay_out(chunked(X), chunked(y)),
            ):
                with pytest.raises(
                    ClusterError, match=r"client in force is asynchronous.*asyncio.to_thread\(model.fit"
                ):
                    call()
            np.testing.assert_array_equal(clone(model).fit(X, y).coef_, fitted.coef_)

    asyncio.run(fit())


def test_blocks_of_a_client_that_is_closed():
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as started:
        with Client(started):
            blocks = lay_out(chunked(X), chunked(Y))
        with pytest.raises(ClusterError, match="the client of these rows is closed.*: lay them out by another one"):
            minimise(Objective(blocks, losses.Squared()))


def test_a_scheduler_that_is_gone_is_named(tmp_path):
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), remote(tmp_path, 1) as started:
        with Client(started.address, timeout=3) as client:
            assert client.submit(sum, (1, 2)).result(30) == 3
            started.scheduler.kill()
            started.scheduler.wait()
            for model in (Ridge(), LogisticRegression(), RidgeCV(cv=3)):
                with pytest.raises(ClusterError, match="the scheduler .*(is gone|does not answer)|client .* is closed"):
                    clone(model).fit(chunked(X), chunked(target_of(model)))
