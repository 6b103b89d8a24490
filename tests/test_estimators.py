"""Classifiers and generalised linear models against scikit-learn, and by scikit-learn's own checks."""

import pickle

import array_api_strict
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import refusing
import sklearn.linear_model as reference
from sklearn import metrics
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import dist_dot
from dist_dot import DataError, GammaRegressor, LogisticRegression, PoissonRegressor, Ridge, SolverError, losses
from dist_dot.errors import InputError
from dist_dot.rows.arrays import to_host

# The arrays of these tests travel inside their graph, which is what Dask warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Sending large graph")


@parametrize_with_checks(
    [
        LogisticRegression(),
        PoissonRegressor(),
        GammaRegressor(),
        LogisticRegression(solver="lbfgs", standardize=True, tol=1e-8),
        PoissonRegressor(solver="lbfgs", standardize=True, tol=1e-8),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def rows_for(kind, n=300):
    """Return X (n, 6) of different scales, y for this estimator, and weights."""
    random = np.random.default_rng(11)
    X = (random.standard_normal((n, 6)) @ random.standard_normal((6, 6)) + 1.0) * 10.0 ** np.linspace(-1, 1, 6)
    z = (X / X.std(0)) @ random.standard_normal(6) / 2
    y = {
        "binary": np.where(z + random.logistic(size=n) > 0, "late", "early"),
        "multinomial": np.digitize(z + random.logistic(size=n), [-1, 1]) * 10 - 3,
        "poisson": random.poisson(np.exp(z / 2 + 1)).astype(float),
        "gamma": np.exp(z / 2) * random.gamma(2.0, size=n) + 1e-3,
    }[kind]
    return X, y, random.uniform(0, 3, n)


OURS = {
    "binary": LogisticRegression(0.5, tol=1e-12),
    "multinomial": LogisticRegression(0.5, tol=1e-12),
    "poisson": PoissonRegressor(alpha=0.01, tol=1e-12),
    "gamma": GammaRegressor(alpha=0.01, tol=1e-12),
}
# Whose tol is that of the gradient of the mean loss: 1e-12 is below its rounding, and warned of.
TIGHT = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 1000}
THEIRS = {
    "binary": reference.LogisticRegression(C=0.5, **TIGHT),
    "multinomial": reference.LogisticRegression(C=0.5, **TIGHT),
    "poisson": reference.PoissonRegressor(alpha=0.01, **TIGHT),
    "gamma": reference.GammaRegressor(alpha=0.01, **TIGHT),
}


def expected_fit(kind, X, y, weight, fit_intercept, standardize):
    """Return coefficients and intercept of scikit-learn, on the scale of X."""
    scaler = StandardScaler(with_mean=fit_intercept, with_std=standardize)
    scaler.fit(X, sample_weight=weight)
    model = clone(THEIRS[kind]).set_params(fit_intercept=fit_intercept)
    with np.errstate(all="ignore"):
        model.fit(scaler.transform(X), y, sample_weight=weight)
    coef = model.coef_ / (scaler.scale_ if standardize else 1.0)
    mean = scaler.mean_ if fit_intercept else np.zeros(6)
    intercept = model.intercept_ - coef @ mean
    return coef, intercept - intercept.mean() if kind == "multinomial" else intercept


def close(found, expected):
    coef, intercept = expected
    np.testing.assert_allclose(found.coef_, coef, rtol=0, atol=1e-8 * np.abs(coef).max())
    size = max(np.abs(coef).max(), np.abs(intercept).max())
    np.testing.assert_allclose(found.intercept_, intercept, rtol=0, atol=1e-8 * size)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::scipy.linalg.LinAlgWarning")
@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_minimiser_as_scikit_learn(kind, weighted, fit_intercept, standardize):
    X, y, weight = rows_for(kind)
    weight = weight if weighted else None
    expected = expected_fit(kind, X, y, weight, fit_intercept, standardize)
    for solver in ("newton", "lbfgs"):
        model = clone(OURS[kind]).set_params(fit_intercept=fit_intercept, standardize=standardize, solver=solver)
        close(model.fit(X, y, weight), expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::scipy.linalg.LinAlgWarning")
@pytest.mark.parametrize("blocks", [1, 5, 37])
@pytest.mark.parametrize("kind", OURS)
def test_the_same_on_a_cluster(kind, blocks, clients, monkeypatch):
    X, y, weight = rows_for(kind)
    monkeypatch.setattr("dist_dot.rows.block.SMALLEST", -(-300 // blocks) * 6 * 8)
    monkeypatch.setattr("dist_dot.rows.block.ROW_MULTIPLE", 1)
    here = clone(OURS[kind]).fit(X, y, weight)
    with clients(2).as_current():
        lazy = [da.from_array(array, chunks=(77, *array.shape[1:])) for array in (X, y, weight)]
        there = clone(OURS[kind]).fit(*lazy)
        assert there.fit_.where == "a Dask cluster of 2 workers"
        assert there.coef_.tobytes() == here.coef_.tobytes()
        score = there.score(*lazy)
        predicted = there.predict(lazy[0])
        assert isinstance(predicted, da.Array)
        np.testing.assert_array_equal(predicted.compute(), there.predict(X))
    close(there, expected_fit(kind, X, y, weight, True, False))
    assert np.isclose(score, here.score(X, y, weight), rtol=1e-10)


@pytest.mark.parametrize("load", [load_breast_cancer, load_digits, load_wine])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::scipy.linalg.LinAlgWarning")
def test_the_same_predictions_on_real_classes(load):
    X, y = load(return_X_y=True)
    ours = LogisticRegression().fit(X, y)
    theirs = reference.LogisticRegression(**TIGHT).fit(X, y)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["poisson", "gamma"])
def test_the_same_predictions_of_real_amounts(kind):
    X, y = load_diabetes(return_X_y=True)
    ours = clone(OURS[kind]).fit(X, y)
    theirs = clone(THEIRS[kind]).fit(X, y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-8)
    assert np.isclose(ours.score(X, y), theirs.score(X, y))


@pytest.mark.parametrize("class_weight", ["balanced", {"late": 3.0}])
@pytest.mark.parametrize("lazy", [False, True])
def test_class_weight(class_weight, lazy):
    X, y, weight = rows_for("binary")
    theirs = reference.LogisticRegression(C=0.5, class_weight=class_weight, solver="newton-cholesky", tol=1e-10)
    theirs.fit(X, y, weight)
    wrap = (lambda array: da.from_array(array, chunks=(90, *array.shape[1:]))) if lazy else (lambda array: array)
    ours = clone(OURS["binary"]).set_params(class_weight=class_weight).fit(*map(wrap, (X, y, weight)))
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6)


@pytest.mark.parametrize("kind", OURS)
def test_to_sklearn_predicts_the_same(kind):
    X, y, _ = rows_for(kind)
    frame = pd.DataFrame(X, columns=list("abcdef"))
    ours = clone(OURS[kind]).fit(frame, y)
    theirs = ours.to_sklearn()
    assert type(theirs) is type(THEIRS[kind]) and list(theirs.feature_names_in_) == list("abcdef")
    np.testing.assert_array_equal(theirs.predict(frame), ours.predict(frame))
    assert theirs.score(frame, y) == pytest.approx(ours.score(frame, y), rel=1e-12)
    if kind in ("binary", "multinomial"):
        assert theirs.C == 0.5
        np.testing.assert_allclose(theirs.predict_proba(frame), ours.predict_proba(frame), rtol=1e-10)
        np.testing.assert_allclose(theirs.predict_log_proba(frame), ours.predict_log_proba(frame), rtol=1e-7)


@pytest.mark.parametrize("kind", OURS)
def test_cloned_pickled_piped_and_searched(kind):
    X, y, _ = rows_for(kind)
    model = clone(OURS[kind]).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.fit_.note == model.fit_.note and again.fit_.value == model.fit_.value
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), clone(OURS[kind]))
    name = "C" if kind in ("binary", "multinomial") else "alpha"
    search = GridSearchCV(pipe, {f"{pipe.steps[-1][0]}__{name}": [0.01, 1.0]}, cv=3).fit(pd.DataFrame(X), y)
    assert np.isfinite(search.best_score_)
    assert hasattr(search.best_estimator_[-1], "feature_names_in_")


@pytest.mark.parametrize(
    "model", [Ridge(solver="lbfgs"), Ridge(), LogisticRegression(solver="lbfgs"), PoissonRegressor()]
)
def test_a_pickle_is_as_slim_as_the_coefficients(model):
    random = np.random.default_rng(0)
    X, y = random.standard_normal((900, 600)), random.integers(0, 2, 900)
    model.set_params(tol=1e-3).fit(X, y)
    history = len(pickle.dumps(model.fit_.history))
    assert len(pickle.dumps(model)) < 6 * model.coef_.nbytes + history
    with pytest.raises(SolverError, match="standard errors"):
        model.fit_.inference()


@pytest.mark.parametrize("kind", OURS)
def test_a_warm_start_starts_there(kind):
    X, y, _ = rows_for(kind)
    model = clone(OURS[kind]).set_params(warm_start=True, tol=1e-8).fit(X, y)
    first = model.n_iter_
    coef = model.coef_
    assert model.fit(X, y).n_iter_ <= 1 < first
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-6)
    model.fit(X[:, :3], y)  # another shape: a cold start
    assert model.n_iter_ > 1


def test_probabilities_and_scores_of_a_classifier():
    X, y, weight = rows_for("binary")
    model = clone(OURS["binary"]).fit(X, y)
    p = model.predict_proba(X)
    z = model.decision_function(X)
    np.testing.assert_allclose(p.sum(1), 1.0)
    np.testing.assert_array_equal(model.predict(X), np.where(z > 0, "late", "early"))
    assert model.score(X, y, weight) == pytest.approx(metrics.accuracy_score(y, model.predict(X), sample_weight=weight))
    assert model.log_loss(X, y, weight) == pytest.approx(metrics.log_loss(y, p, sample_weight=weight))
    assert model.auc(X, y, weight) == pytest.approx(metrics.roc_auc_score(y, z, sample_weight=weight), abs=1e-12)
    coarse = np.round(X / X.std(0))  # many ties
    model = clone(OURS["binary"]).fit(coarse[:, :2], y)
    expected = metrics.roc_auc_score(y, model.decision_function(coarse[:, :2]))
    assert model.auc(coarse[:, :2], y) == pytest.approx(expected, abs=1e-12)


def test_the_area_under_the_curve_of_many_rows():
    random = np.random.default_rng(0)
    X = random.standard_normal((200_000, 2))
    y = (X[:, 0] + random.logistic(size=200_000) > 0).astype(int)
    model = LogisticRegression().fit(X, y)
    assert model.auc(X, y) == pytest.approx(metrics.roc_auc_score(y, model.decision_function(X)), abs=1e-8)


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_of_float32_models_on_a_cluster_are_those_of_this_process(classes, clients):
    # The parameters were float32 too, and were read as half as many float64.
    random = np.random.default_rng(0)
    X = random.standard_normal((2000, 5)).astype(np.float32)
    y = np.argmax(X[:, :classes] + random.gumbel(size=(2000, classes)), axis=1)
    model = LogisticRegression().fit(X, y)
    with clients(2).as_current():
        lazy = [da.from_array(array, chunks=(500, *array.shape[1:])) for array in (X, y)]
        assert model.score(*lazy) == np.mean(model.predict(X) == y)
        assert model.log_loss(*lazy) == pytest.approx(metrics.log_loss(y, model.predict_proba(X)), rel=1e-6)


def test_scores_of_dask_arrays_gather_nothing(clients):
    X, y, weight = rows_for("multinomial")
    model = clone(OURS["multinomial"]).fit(X, y, weight)
    with clients(2).as_current():
        lazy = [da.from_array(array, chunks=(77, *array.shape[1:])) for array in (X, y, weight)]
        assert model.score(*lazy) == pytest.approx(model.score(X, y, weight))
        loss = model.log_loss(*lazy)
        p = model.predict_proba(lazy[0])
        assert p.shape == (300, 3) and p.compute().shape == (300, 3)
        np.testing.assert_allclose(p.compute(), model.predict_proba(X))
        np.testing.assert_allclose(model.predict_log_proba(lazy[0]).compute(), np.log(model.predict_proba(X)))
        two = clone(OURS["binary"]).fit(X, y > 0)
        assert two.auc(lazy[0], lazy[1] > 0) == pytest.approx(two.auc(X, y > 0), abs=1e-12)
        np.testing.assert_allclose(two.predict_proba(lazy[0]).compute(), two.predict_proba(X))
    assert loss == pytest.approx(metrics.log_loss(y, model.predict_proba(X), sample_weight=weight))


@pytest.mark.parametrize("kind", OURS)
def test_other_libraries_stay_what_they_are(kind):
    X, y, weight = rows_for(kind)
    model = clone(OURS[kind]).fit(X, y, weight)
    own = refusing.library.asarray(X)
    target = y if kind in ("binary", "multinomial") else refusing.library.asarray(y)
    other = clone(OURS[kind]).fit(own, target, weight)
    np.testing.assert_allclose(other.coef_, model.coef_, rtol=1e-6)
    np.testing.assert_allclose(other.score(own, target, weight), model.score(X, y, weight), rtol=1e-9)
    if kind == "binary":
        assert isinstance(other.predict_proba(own), refusing.Array)
        np.testing.assert_array_equal(other.predict(own), model.predict(X))
        np.testing.assert_allclose(to_host(other.predict_log_proba(own)), model.predict_log_proba(X), rtol=1e-6)
        np.testing.assert_allclose(other.auc(own, target, weight), model.auc(X, y, weight), rtol=1e-9)


def test_an_exposure():
    X, y, exposure = rows_for("poisson")
    ours = clone(OURS["poisson"]).fit(X, *losses.Poisson().exposed(y, exposure))
    theirs = clone(THEIRS["poisson"]).set_params(tol=1e-9).fit(X, y / exposure, exposure)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6)


def test_float32_stays_float32():
    X, y, _ = rows_for("multinomial")
    model = LogisticRegression().fit(X.astype(np.float32), y)
    assert model.coef_.dtype == model.intercept_.dtype == model.predict_proba(X.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(model.coef_, LogisticRegression().fit(X, y).coef_, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("name", ["LinearRegression", "Ridge", "RidgeCV", "PoissonRegressor", "GammaRegressor"])
def test_an_intercept_is_a_number_of_numpy_with_the_dtype_of_coef(name, fit_intercept, dtype):
    X, y, _ = rows_for("gamma")
    X, y = X.astype(dtype), y.astype(dtype)
    ours = getattr(dist_dot, name)(fit_intercept=fit_intercept).fit(X, y)
    assert ours.coef_.dtype == ours.intercept_.dtype == ours.predict(X).dtype == dtype
    assert ours.intercept_.shape == () and ours.intercept_ == np.dtype(dtype).type(ours.fit_.intercept)
    elsewhere = ours.predict(array_api_strict.asarray(X))
    assert elsewhere.dtype == getattr(array_api_strict, dtype)
    np.testing.assert_allclose(to_host(elsewhere), ours.predict(X), rtol=1e-5)


def test_no_penalty():
    X, y, _ = rows_for("binary")
    theirs = reference.LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(X, y)
    np.testing.assert_allclose(LogisticRegression(np.inf, tol=1e-10).fit(X, y).coef_, theirs.coef_, rtol=1e-6)


def test_mistakes_are_named():
    X, y, _ = rows_for("binary")
    with pytest.raises(InputError, match="C is 0"):
        LogisticRegression(0).fit(X, y)
    with pytest.raises(InputError, match="only one class, 'a'"):
        LogisticRegression().fit(X, ["a"] * 300)
    with pytest.raises(InputError, match="class_weight is 'even'"):
        LogisticRegression(class_weight="even").fit(X, y)
    model = LogisticRegression().fit(X, y)
    with pytest.raises(DataError, match="y is 2.0 in row 1"):
        model.log_loss(X[:2], ["late", "cancelled"])
    assert model.score(X[:2], ["cancelled"] * 2) == 0.0
    with pytest.raises(InputError, match="rows of both classes"):
        model.auc(X[:2], ["late", "late"])
    with pytest.raises(InputError, match="one of two classes, the model knows 3"):
        LogisticRegression().fit(X, np.arange(300) % 3).auc(X, y)
    with pytest.raises(DataError, match="y is -1.0 in row 1: the poisson loss takes 0 <= y"):
        PoissonRegressor().fit(X[:2], [1.0, -1.0])
    with pytest.raises(InputError, match="weights are all zero"):
        PoissonRegressor().fit(X[:2], [1.0, 1.0], [0.0, 0.0])
    with pytest.warns(ConvergenceWarning, match="after 1 steps: stopped at max_iter"):
        LogisticRegression(max_iter=1).fit(X, y)
