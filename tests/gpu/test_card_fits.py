"""Whole fits of rows on the card: the known optimum by every solver, and the coefficients that the host finds."""

import cupy
import numpy as np
import pytest
from card import DTYPES, laid_out, on_card, rows
from problems import optimum, problems

import dist_dot
from dist_dot import EarlyStopping, Objective, Status, losses, minimise
from dist_dot.solvers import LBFGS, Exact, GradientDescent, Newton

SOLVERS = {"gradient": GradientDescent(), "lbfgs": LBFGS(), "newton": Newton("cholesky"), "cg": Newton("cg")}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", problems())
def test_the_optimum_of_every_loss_by_every_solver(name, solver):
    problem = problems()[name]
    if name == "logistic, almost separable" and solver == "gradient":
        pytest.skip("3,200 rounds say nothing that the others do not")
    blocks = laid_out(problem.X, problem.y, problem.weight, 100)
    objective = Objective(blocks, problem.loss, problem.alpha, problem.fit_intercept)
    fit = minimise(objective, SOLVERS[solver], tol=1e-9, max_iter=1000)
    assert fit.status is Status.CONVERGED
    assert abs(fit.value - optimum(name)) <= 1e-10 * abs(optimum(name))
    assert type(fit.w) is np.ndarray


@pytest.mark.parametrize("method", ["gram", "qr"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_least_squares(method, dtype):
    X, y, s, _ = rows(3001, 28, dtype, targets=2)
    fit = minimise(Objective(laid_out(X, y, s, 500), losses.Squared(), 2.0), Exact(method))
    root = np.sqrt(s.astype("float64"))[:, None]
    penalty = np.sqrt(2.0) * np.eye(28, 29)
    A = np.vstack([root * np.column_stack([X, np.ones(3001)]), penalty])
    expected = np.linalg.lstsq(A, np.vstack([root * y, np.zeros((28, 2))]), rcond=None)[0]
    np.testing.assert_allclose(np.vstack([fit.w, fit.intercept]), expected, rtol=1e-9, atol=1e-10)


ESTIMATORS = {
    "Ridge": (dist_dot.Ridge(), losses.Squared()),
    "Ridge by gradients": (dist_dot.Ridge(solver="lbfgs", tol=1e-9), losses.Squared()),
    "LinearRegression": (dist_dot.LinearRegression(), losses.Squared()),
    "RidgeCV": (dist_dot.RidgeCV(alphas=(0.1, 10.0, 1000.0)), losses.Squared()),
    "RidgeCV by folds": (dist_dot.RidgeCV(alphas=(0.1, 10.0, 1000.0), cv=3), losses.Squared()),
    "LogisticRegression": (dist_dot.LogisticRegression(tol=1e-9), losses.Logistic()),
    "LogisticRegression, standardised": (dist_dot.LogisticRegression(tol=1e-9, standardize=True), losses.Logistic()),
    "LogisticRegression, balanced": (dist_dot.LogisticRegression(tol=1e-9, class_weight="balanced"), losses.Logistic()),
    "LogisticRegression, 4 classes": (dist_dot.LogisticRegression(tol=1e-9), losses.Softmax(4)),
    "LogisticRegressionCV": (dist_dot.LogisticRegressionCV(Cs=[0.01, 1.0], cv=3, tol=1e-9), losses.Logistic()),
    "PoissonRegressor": (dist_dot.PoissonRegressor(tol=1e-9), losses.Poisson()),
    "GammaRegressor": (dist_dot.GammaRegressor(tol=1e-9), losses.Gamma()),
}


def table(loss, dtype, p=28, n=3001):
    """Return X, y and weights of a problem that has something to find, in numbers that float32 holds exactly."""
    random = np.random.default_rng(loss.outputs)
    X = np.round(random.standard_normal((n, p)) * 64) / 64 + np.linspace(-1, 1, p).astype("float32")
    z = X @ random.standard_normal((p, max(loss.outputs, 1))) / 3
    if loss.name in ("logistic", "softmax"):
        noisy = np.column_stack([0 * z, z]) if loss.outputs == 1 else z
        y = np.argmax(noisy + random.gumbel(size=noisy.shape), axis=1)
    elif loss.name == "squared":
        y = np.round(64 * (z[:, 0] + random.standard_normal(n))) / 64
    else:
        y = random.poisson(np.exp(np.clip(z[:, 0], -3, 2))) + 0.5 * (loss.name == "gamma")
    weight = random.integers(0, 3, n) / 2
    return X.astype(dtype), y if loss.name in ("logistic", "softmax") else y.astype(dtype), weight.astype(dtype)


def fresh(name):
    """Return an estimator that nobody has fitted, and its loss."""
    from sklearn.base import clone

    estimator, loss = ESTIMATORS[name]
    return clone(estimator), loss


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_find_and_predict_what_they_do_on_the_host(name, dtype):
    (there, loss), (here, _) = fresh(name), fresh(name)
    X, y, s = table(loss, dtype)
    weights = {} if name.startswith("RidgeCV") else {"sample_weight": s}
    with_card = {key: cupy.asarray(value) for key, value in weights.items()}
    if dtype == "float32" and hasattr(there, "tol") and "Ridge" not in name:
        there.set_params(tol=1e-5)  # what the rounding of float32 rows lets a fit reach
    there.fit(*on_card(X, y), **with_card)
    here.fit(X.astype("float64"), y, **weights)
    close = 1e-6 if dtype == "float64" else 3e-4
    size = np.abs(here.coef_).max()
    assert type(there.coef_) is np.ndarray and there.coef_.dtype == dtype
    np.testing.assert_allclose(there.coef_, here.coef_, atol=close * size)
    np.testing.assert_allclose(there.intercept_, here.intercept_, atol=close * max(1.0, size))
    for method in ("predict", "predict_proba", "decision_function"):
        if hasattr(here, method):
            found, expected = getattr(there, method)(cupy.asarray(X)), getattr(here, method)(X.astype("float64"))
            assert type(found) is cupy.ndarray, method
            found = cupy.asnumpy(found)
            if method == "predict" and hasattr(here, "classes_"):
                assert found.dtype == y.dtype and np.mean(found == expected) > 0.995
            else:
                np.testing.assert_allclose(found, expected, atol=20 * close * np.abs(expected).max())
    found, expected = there.score(*on_card(X, y)), here.score(X.astype("float64"), y)
    assert isinstance(found, float)
    np.testing.assert_allclose(found, expected, atol=2e-3 if dtype == "float32" else 1e-6)
    for attribute in ("alpha_", "C_", "classes_"):
        if hasattr(here, attribute):
            np.testing.assert_array_equal(getattr(there, attribute), getattr(here, attribute))
            assert type(getattr(there, attribute)) in (np.ndarray, float, np.float64)


def test_a_model_of_the_card_predicts_rows_of_the_host_and_the_other_way_round():
    X, y, _ = table(losses.Logistic(), "float64")
    there, here = dist_dot.LogisticRegression().fit(*on_card(X, y)), dist_dot.LogisticRegression().fit(X, y)
    assert type(there.predict(X)) is np.ndarray and type(here.predict(cupy.asarray(X))) is cupy.ndarray
    np.testing.assert_allclose(cupy.asnumpy(here.predict_proba(cupy.asarray(X))), there.predict_proba(X), rtol=1e-4)


def test_labels_of_the_card_get_the_checks_of_those_of_the_host():
    X, y, _ = table(losses.Softmax(4), "float64")
    for wrong, words in ((np.nan, "a label is missing"), (0.5, "labels are words or whole numbers")):
        labels = y.astype("float64")
        model = dist_dot.LogisticRegression().fit(*on_card(X, labels))
        labels[157] = wrong
        with pytest.raises(dist_dot.DataError, match=f"y is {wrong} in row 157: {words}"):
            model.fit(*on_card(X, labels))
    labels[157] = np.nan
    with pytest.raises(dist_dot.DataError, match="y is nan in row 157: a label is missing"):
        model.score(*on_card(X, labels))
    labels[157] = 77.0  # no class of the model: a wrong prediction
    assert 0.3 < model.score(*on_card(X, labels)) < 1
    with pytest.raises(dist_dot.DataError, match=r"y has shape \(3001, 4\): .* one label per row"):
        model.fit(*on_card(X, np.eye(4)[y]))


def test_early_stopping_sees_the_same_rows():
    X, y, _ = table(losses.Logistic(), "float64")
    stops = EarlyStopping()
    there, here = (dist_dot.LogisticRegression(solver="lbfgs", early_stopping=stops) for _ in range(2))
    there.fit(*on_card(X, y))
    here.fit(X, y)
    assert there.n_iter_ == here.n_iter_
    np.testing.assert_allclose(there.coef_, here.coef_, rtol=1e-5, atol=1e-7)


# Fits of these promise it; scores, cross-validation and weights of classes may take their time.
PLAIN = (
    "Ridge",
    "LinearRegression",
    "LogisticRegression",
    "LogisticRegression, standardised",
    "LogisticRegression, 4 classes",
    "PoissonRegressor",
    "GammaRegressor",
)
REDUCTIONS = """all any amax amin argmax argmin count_nonzero max mean median min nanmax nanmin nansum prod ptp std sum
unique unique_values var""".split()


@pytest.mark.parametrize("name", PLAIN)
def test_fits_do_not_call_the_reductions_of_cupy(name, monkeypatch):
    # Most of them compile CUB at their first use, for 8 s, in every thread at once.
    import array_api_compat.cupy as compat

    def refuse(*arguments, **options):
        raise AssertionError("a reduction of CuPy was called")

    estimator, loss = fresh(name)
    X, y, s = on_card(*table(loss, "float32"))
    for library in (cupy, compat):
        for reduction in REDUCTIONS:
            if hasattr(library, reduction):
                monkeypatch.setattr(library, reduction, refuse)
    estimator.set_params(tol=1e-4).fit(X, y, sample_weight=s)


def test_fits_compile_no_reductions(monkeypatch):
    # Methods of arrays, such as y.any(), end here as well.
    from cupy.cuda import compiler

    compiled, function = [], compiler._compile_module_with_cache

    def record(source, *arguments, **options):
        compiled.append(str(source))
        return function(source, *arguments, **options)

    def reductions():
        return [source[-3000:] for source in compiled if "cub::" in source or "define REDUCE(" in source]

    monkeypatch.setattr(compiler, "_compile_module_with_cache", record)
    cupy.clear_memo()  # so that what earlier tests have compiled is asked for again
    assert bool((cupy.arange(3000) > 2998).any())
    assert reductions(), "CuPy compiles reductions in another way now"
    compiled.clear()
    cupy.clear_memo()
    for name in PLAIN:
        estimator, loss = fresh(name)
        X, y, s = on_card(*table(loss, "float32"))
        estimator.set_params(tol=1e-4).fit(X, y, sample_weight=s)
    assert not reductions()
