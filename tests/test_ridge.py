"""Ridge against scikit-learn, and by scikit-learn's own checks."""

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge as Reference
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dist_dot import DataError, LinearRegression, Ridge, RidgeCV, SolverError, Status
from dist_dot.kernels import compiled
from dist_dot.solvers import Exact


@parametrize_with_checks([Ridge(), Ridge(standardize=True), LinearRegression(), RidgeCV(), RidgeCV(cv=3)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("alpha", [1e-2, 10.0])
@pytest.mark.parametrize("solver", ["auto", "gradient_descent"])
def test_the_same_minimiser_as_scikit_learn(solver, alpha, weighted, fit_intercept):
    X, y = load_diabetes(return_X_y=True)
    weight = np.random.default_rng(0).uniform(0, 2, len(y)) if weighted else None
    ours = Ridge(alpha, fit_intercept=fit_intercept, solver=solver, tol=1e-12).fit(X, y, weight)
    theirs = Reference(alpha, fit_intercept=fit_intercept, solver="cholesky").fit(X, y, weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=0, atol=1e-8 * np.abs(theirs.coef_).max())
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-9)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=0, atol=1e-8 * np.abs(y).max())
    assert np.isclose(ours.score(X, y), theirs.score(X, y))


@pytest.mark.parametrize("solver", ["exact", "newton", "lbfgs"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_standardize_penalises_standardised_columns(solver, fit_intercept):
    X, y = load_diabetes(return_X_y=True)
    X, Y = X * 10.0 ** np.linspace(-2, 2, 10) + 1.0, np.column_stack([y, y**2 / 100])
    weight = np.random.default_rng(0).uniform(0, 2, len(y))
    ours = Ridge(10.0, standardize=True, fit_intercept=fit_intercept, solver=solver, tol=1e-11).fit(X, Y, weight)
    scaler = StandardScaler(with_mean=fit_intercept).fit(X, sample_weight=weight)
    scale = scaler.scale_ if fit_intercept else np.sqrt(scaler.var_)
    theirs = Reference(10.0, fit_intercept=fit_intercept, solver="svd").fit(scaler.transform(X), Y, weight)
    np.testing.assert_allclose(ours.coef_ * scale, theirs.coef_, rtol=0, atol=1e-7 * np.abs(theirs.coef_).max())
    expected = theirs.predict(scaler.transform(X))
    np.testing.assert_allclose(ours.predict(X), expected, rtol=0, atol=1e-6 * np.abs(Y).max())


@pytest.mark.parametrize("solver", ["exact", "lbfgs", "newton", "gradient_descent"])
@pytest.mark.parametrize("alpha", [(0.1, 1.0, 100.0), [0.0, 2.0, 2.0]], ids=str)
@pytest.mark.parametrize("standardize", [False, True])
def test_a_penalty_for_each_target(solver, alpha, standardize):
    random = np.random.default_rng(5)
    X, weight = random.standard_normal((80, 6)) + 2.0, random.uniform(0.5, 2.0, 80)
    Y = X[:, :3] + random.standard_normal((80, 3))
    model = Ridge(alpha, solver=solver, tol=1e-12, standardize=standardize).fit(X, Y, weight)
    each = [Ridge(a, tol=1e-12, standardize=standardize).fit(X, y, weight) for a, y in zip(alpha, Y.T, strict=True)]
    assert np.allclose(model.coef_, [one.coef_ for one in each], rtol=1e-10, atol=1e-11)
    assert np.allclose(model.intercept_, [one.intercept_ for one in each], rtol=1e-10)
    if not standardize:
        reference = Reference(np.array(alpha), solver="svd").fit(X, Y, weight)
        assert np.allclose(model.coef_, reference.coef_, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("alpha", [(0.1, 1.0), (0.0, 3.0)], ids=str)
@pytest.mark.parametrize("method", ["gram", "qr", "auto"])
@pytest.mark.parametrize("shape", [(90, 4), (12, 30), (20, 1100)], ids=str)
def test_a_penalty_for_each_target_by_every_exact_method(alpha, method, shape):
    random = np.random.default_rng(6)
    X = random.standard_normal(shape) + 1.0
    Y = X[:, :2] + random.standard_normal((shape[0], 2))
    model = Ridge(alpha, solver=Exact(method)).fit(X, Y)
    each = [Ridge(a, solver=Exact(method)).fit(X, y) for a, y in zip(alpha, Y.T, strict=True)]
    assert np.allclose(model.coef_, [one.coef_ for one in each], rtol=1e-9, atol=1e-9 * np.abs(model.coef_).max())
    assert model.fit_.status == Status.CONVERGED and model.n_iter_ == 1


def test_the_same_penalty_for_each_target_is_one_penalty():
    random = np.random.default_rng(7)
    X = random.standard_normal((50, 4))
    Y = random.standard_normal((50, 3))
    for solver in ("exact", "lbfgs"):
        one, each = (Ridge(alpha, solver=solver).fit(X, Y) for alpha in (0.3, [0.3] * 3))
        assert np.array_equal(one.coef_, each.coef_) and np.array_equal(one.intercept_, each.intercept_)


def test_float32_stays_float32():
    X, y = load_diabetes(return_X_y=True)
    small = Ridge().fit(X.astype(np.float32), y.astype(np.float32))
    assert small.coef_.dtype == np.float32
    np.testing.assert_allclose(small.coef_, Ridge().fit(X, y).coef_, rtol=1e-3)


@pytest.mark.parametrize("flush", [8, 24, 96])
def test_float32_ends_at_its_rounding_however_it_is_summed(flush, monkeypatch):
    X, y = (array.astype(np.float32) for array in load_diabetes(return_X_y=True))
    whole = compiled.value_and_gradient

    def in_parts(loss, X, y, weight, parameters, offset):
        parts = [whole(loss, X[i : i + flush], y[i : i + flush], None, parameters) for i in range(0, len(X), flush)]
        return np.sum(parts, axis=0)

    monkeypatch.setattr(compiled, "value_and_gradient", in_parts)
    model = Ridge(solver="gradient_descent", tol=1e-12, max_iter=3000).fit(X, y)
    assert model.fit_.status.name == "CONVERGED"
    np.testing.assert_allclose(model.coef_, Ridge().fit(X.astype(float), y).coef_, rtol=1e-3)


def test_dask_arrays_without_a_client_and_lazy_predictions():
    X, y = load_diabetes(return_X_y=True)
    lazy = da.from_array(X, chunks=(100, 3))
    model = Ridge().fit(lazy, da.from_array(y, chunks=77))
    assert model.coef_.tobytes() == Ridge().fit(X, y).coef_.tobytes()
    predicted = model.predict(lazy)
    assert isinstance(predicted, da.Array)
    np.testing.assert_allclose(predicted.compute(), model.predict(X), rtol=1e-12)


def test_unknown_lengths_are_found_out():
    X, y = load_diabetes(return_X_y=True)
    lazy = da.from_array(X, chunks=(100, 10))
    some = lazy[lazy[:, 0] > 0]
    model = Ridge().fit(some, da.from_array(y[X[:, 0] > 0], chunks=50))
    np.testing.assert_allclose(model.coef_, Ridge().fit(X[X[:, 0] > 0], y[X[:, 0] > 0]).coef_)


def test_feature_names_are_kept():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    assert list(Ridge().fit(X, y).feature_names_in_) == list(X.columns)


def test_mistakes_are_named():
    X, y = load_diabetes(return_X_y=True)
    with pytest.raises(SolverError, match="did you mean 'gradient_descent'"):
        Ridge(solver="gradient_decent").fit(X, y)
    with pytest.raises(DataError, match="to_dask_array"):
        import dask.dataframe as dd

        Ridge().fit(dd.from_pandas(pd.DataFrame(X), npartitions=2), da.from_array(y))
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        Ridge(solver="gradient_descent", max_iter=2).fit(X, y)
