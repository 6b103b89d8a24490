"""Many fits that share each read of X are the fits one by one."""

import array_api_strict
import dask.array as da
import numpy as np
import pytest
import refusing
import sklearn.linear_model as reference
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.model_selection import KFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from dist_dot import DataError, LogisticRegression, LogisticRegressionCV, Objective, lay_out, losses, minimise
from dist_dot.blocks.arrays import Parameters, to_host
from dist_dot.blocks.block import Block
from dist_dot.blocks.kernels import ValueAndGradient
from dist_dot.blocks.layout import beside
from dist_dot.blocks.together import ALL, FEW, FoldScores, ValuesAndGradients
from dist_dot.errors import InputError
from dist_dot.solvers import LBFGS, GradientDescent, Newton
from dist_dot.training.loop import Loop
from dist_dot.training.together import Together

LOSSES = [losses.Logistic(), losses.Softmax(3), losses.Poisson(), losses.Huber(1.0)]
pytestmark = pytest.mark.filterwarnings("ignore:Sending large graph")


def data(loss, n=400):
    random = np.random.default_rng(3)
    X = random.standard_normal((n, 5)) * 10.0 ** np.linspace(-1, 1, 5)
    y = np.arange(n) % (2 if loss.name == "logistic" else 3)
    return X, y.astype(float), random.uniform(0.1, 2, n), random.integers(0, 3, n)


@parametrize_with_checks([LogisticRegressionCV(Cs=3, cv=3)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("library", [np, array_api_strict, refusing.library])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fits", [2, FEW + 2])
def test_the_sums_are_those_of_each_fit(library, loss, weighted, fits):
    X, y, s, fold = data(loss)
    folds = tuple(number % 3 if number else ALL for number in range(fits))
    at = np.random.default_rng(0).standard_normal((fits, loss.outputs * 6)) / 10
    wrapped = (library.asarray(array) for array in (X, np.column_stack([y, fold])))
    block = Block(*wrapped, library.asarray(s) if weighted else None, 0)
    found = to_host(ValuesAndGradients(loss, folds)(block, Parameters(at.ravel()))).reshape(fits, -1)
    scores = to_host(FoldScores(loss, folds)(block, Parameters(at.ravel()))).reshape(fits, 3)
    s = s if weighted else np.ones(len(y))
    for number, left_out in enumerate(folds):
        kept = fold != left_out
        expected = ValueAndGradient(loss)(Block(X[kept], y[kept], s[kept], 0), Parameters(at[number]))
        np.testing.assert_allclose(found[number], expected, rtol=1e-10, atol=1e-10)
        held = Block(X[~kept], y[~kept], s[~kept], 0)
        value = ValueAndGradient(loss)(held, Parameters(at[number]))[0]
        np.testing.assert_allclose(scores[number, :2], [s[~kept].sum(), value], rtol=1e-10)


@pytest.mark.parametrize("solver", [LBFGS(), GradientDescent(), Newton()], ids=lambda solver: solver.name)
@pytest.mark.parametrize("loss", LOSSES[:3], ids=lambda loss: loss.name)
def test_each_fit_is_the_one_that_it_would_be_alone(solver, loss):
    X, y, s, fold = data(loss)
    alphas = np.logspace(-2, 2, 4)
    blocks = lay_out(X, beside(y, fold), s, block_rows=64)
    start = np.zeros(6 * loss.outputs)
    members = tuple(Loop(loss, alpha, True, solver, 1e-9, 3000, None, start) for alpha in alphas for _ in range(3))
    fits, scores = blocks.run(Together(members, (0, 1, 2) * 4), lambda progress: False)
    assert blocks.rounds < 0.5 * sum(fit.rounds for fit in fits) or solver.name == "newton"
    for number, fit in enumerate(fits):
        kept = fold != number % 3
        alone = minimise(
            Objective(lay_out(X[kept], y[kept], s[kept]), loss, alphas[number // 3]), solver, tol=1e-9, max_iter=3000
        )
        assert fit.status is alone.status and abs(fit.n_iter - alone.n_iter) <= 0.1 * alone.n_iter + 2
        np.testing.assert_allclose(fit.w, alone.w, rtol=1e-5, atol=1e-6 * np.abs(alone.w).max())
        held = Objective(lay_out(X[~kept], y[~kept], s[~kept]), loss)
        value = held.value_and_gradient(held.join(alone.w.reshape(5, -1), alone.intercept))[0]
        np.testing.assert_allclose(scores[number, 1], value, rtol=1e-6)


def test_what_goes_wrong_in_one_reaches_the_caller():
    X, y, _, fold = data(losses.Logistic())
    blocks = lay_out(X, beside(y - 1.0, fold))
    loop = Loop(losses.Logistic(), 1.0, True, LBFGS(), 1e-6, 10, None, np.zeros(6))
    with pytest.raises(DataError, match="y is -1.0 in row 0"):
        blocks.run(Together((loop, loop), (0, 1)), lambda progress: False)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_scores_and_the_choice_of_scikit_learn(classes):
    random = np.random.default_rng(5)
    X = random.standard_normal((300, 4))
    y = np.array(["a", "b", "c"])[np.digitize(X[:, 0] + random.logistic(size=300), [-1, 1][: classes - 1])]
    ours = LogisticRegressionCV(Cs=6, cv=KFold(4), tol=1e-8).fit(X, y)
    for place, C in enumerate(ours.Cs_):
        for fold, (train, test) in enumerate(KFold(4).split(X)):
            alone = reference.LogisticRegression(C=C, solver="newton-cholesky", tol=1e-8).fit(X[train], y[train])
            assert ours.scores_[place, fold] == pytest.approx(accuracy_score(y[test], alone.predict(X[test])))
    assert ours.C_ == ours.Cs_[np.argmax(ours.scores_.mean(1))]
    np.testing.assert_allclose(ours.coef_, LogisticRegression(ours.C_, tol=1e-10).fit(X, y).coef_, rtol=1e-5)
    np.testing.assert_array_equal(ours.to_sklearn().predict(X), ours.predict(X))


def test_the_same_on_a_cluster(clients):
    X, y, s, fold = data(losses.Logistic())
    here = LogisticRegressionCV(Cs=3, cv=fold).fit(X, y, s)
    with clients(2).as_current():
        lazy = (da.from_array(array, chunks=(77, *array.shape[1:])) for array in (X, y, s))
        there = LogisticRegressionCV(Cs=3, cv=fold).fit(*lazy)
    assert there.fit_.where == "a Dask cluster of 2 workers"
    assert there.scores_.tobytes() == here.scores_.tobytes() and there.coef_.tobytes() == here.coef_.tobytes()


def test_mistakes_are_named():
    X, y, _, _ = data(losses.Logistic())
    with pytest.raises(InputError, match="Cs is \\[0.0\\]: give positive numbers"):
        LogisticRegressionCV(Cs=[0.0]).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="11 of 11 fits stopped"):
        LogisticRegressionCV(Cs=2, max_iter=1).fit(X, y)
