"""Many fits that share each read of X are the fits one by one."""

import threading
import weakref
from dataclasses import replace

import array_api_strict
import dask.array as da
import numpy as np
import pytest
import refusing
import sklearn.linear_model as reference
from problems import dense_block
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dist_dot import DataError, LogisticRegression, LogisticRegressionCV, Objective, Status, lay_out, losses, minimise
from dist_dot.errors import InputError
from dist_dot.kernels.folds import ALL, FEW, FoldScores, ValuesAndGradients
from dist_dot.kernels.passes import ValueAndGradient
from dist_dot.objective import Linear
from dist_dot.rows.arrays import Parameters, to_host
from dist_dot.solvers import LBFGS, GradientDescent, Newton
from dist_dot.training import together
from dist_dot.training.loop import Loop
from dist_dot.training.together import CrossValidated, Together, minimise_path

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
@pytest.mark.parametrize("fits", [2, FEW + 2, 19])
def test_the_sums_are_those_of_each_fit(library, loss, weighted, fits):
    X, y, s, fold = data(loss, 1_203)  # tiles of the passes, and rows that are left over
    folds = tuple(number % 3 if number else ALL for number in range(fits))
    at = np.random.default_rng(0).standard_normal((fits, loss.outputs * 6)) / 10
    of_rows = (library.asarray(array) for array in (X, y, s))
    block = dense_block(*of_rows, fold=library.asarray(fold.astype(y.dtype)))
    block = block if weighted else replace(block, weight=None)
    found = to_host(ValuesAndGradients(loss, folds)(block, Parameters(at.ravel()))).reshape(fits, -1)
    scores = to_host(FoldScores(loss, folds)(block, Parameters(at.ravel()))).reshape(fits, 3)
    s = s if weighted else np.ones(len(y))
    for number, left_out in enumerate(folds):
        kept = fold != left_out
        expected = ValueAndGradient(loss)(dense_block(X[kept], y[kept], s[kept], 0), Parameters(at[number]))
        np.testing.assert_allclose(found[number], expected, rtol=1e-10, atol=1e-10)
        held = dense_block(X[~kept], y[~kept], s[~kept], 0)
        value = ValueAndGradient(loss)(held, Parameters(at[number]))[0]
        np.testing.assert_allclose(scores[number, :2], [s[~kept].sum(), value], rtol=1e-10)


@pytest.mark.parametrize("solver", [LBFGS(), GradientDescent(), Newton()], ids=lambda solver: solver.name)
@pytest.mark.parametrize("loss", LOSSES[:3], ids=lambda loss: loss.name)
def test_each_fit_is_the_one_that_it_would_be_alone(solver, loss):
    X, y, s, fold = data(loss)
    alphas = np.logspace(-2, 2, 4)
    blocks = lay_out(X, y, s, fold=fold, block_rows=64)
    start = np.zeros(6 * loss.outputs)
    members = tuple(Loop(Linear(loss, alpha), solver, 1e-9, 3000, start=start) for alpha in alphas for _ in range(3))
    fits, scores = blocks.run(CrossValidated(Together(members, (0, 1, 2) * 4), loss), lambda progress: False)
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


@pytest.mark.parametrize("solver", ["auto", LBFGS(), GradientDescent(), Newton()], ids=str)
@pytest.mark.parametrize("loss", [losses.Squared(), *LOSSES], ids=lambda loss: loss.name)
def test_a_path_of_alphas_is_the_fits_one_by_one(solver, loss):
    X, y, s, _ = data(loss)
    alphas = np.logspace(-2, 2, 4)
    objective = Objective(lay_out(X, y, s, block_rows=64), loss, fit_intercept=loss.name != "huber")
    seen = []
    path = minimise_path(objective, alphas, solver, tol=1e-9, max_iter=3000, callbacks=(seen.append,))
    rounds = objective.blocks.rounds
    for fit, alpha in zip(path, alphas, strict=True):
        alone = minimise(replace(objective, alpha=alpha), solver, tol=1e-9, max_iter=3000)
        assert fit.status is alone.status
        np.testing.assert_allclose(fit.w, alone.w, rtol=1e-5, atol=1e-6 * np.abs(alone.w).max())
    assert rounds < 0.6 * sum(fit.rounds for fit in path) or path[0].solver.startswith("Newton")
    assert seen[-1].iteration == max(fit.n_iter for fit in path)
    assert seen[-1].value == pytest.approx(sum(fit.value for fit in path))
    assert seen[-1].rounds == rounds


def test_a_callback_stops_all_fits():
    X, y, _, _ = data(losses.Logistic())
    objective = Objective(lay_out(X, y), losses.Logistic())
    path = minimise_path(objective, [0.1, 1.0], tol=0, callbacks=(lambda progress: progress.iteration == 3,))
    assert {fit.status for fit in path} == {Status.STOPPED} and max(fit.n_iter for fit in path) <= 4
    with pytest.raises(InputError, match="alphas is empty"):
        minimise_path(objective, [])
    with pytest.raises(InputError, match="alpha is -1.0"):
        minimise_path(objective, [-1])
    with pytest.raises(InputError, match="tol is -1.0: give a number >= 0"):
        minimise_path(objective, [1], tol=-1.0)
    with pytest.raises(InputError, match="max_iter is -1: give a whole number >= 0"):
        minimise_path(objective, [1], max_iter=-1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["start", "callback", "round"])
def test_no_thread_is_left_behind(error, place, monkeypatch):
    X, y, _, _ = data(losses.Logistic())
    objective = Objective(lay_out(X, y), losses.Logistic())

    def interrupted(*arguments):
        raise error("enough")

    if place == "round":
        monkeypatch.setattr(objective.blocks, "reduce", interrupted)
    if place == "start":
        started = iter([threading.Thread.start, threading.Thread.start, interrupted])
        monkeypatch.setattr(together.Thread, "start", lambda thread: next(started)(thread))
    before = set(threading.enumerate())
    with pytest.raises(error, match="enough"):
        minimise_path(objective, [1.0, 2.0, 3.0], callbacks=(interrupted,) if place == "callback" else ())
    assert set(threading.enumerate()) == before


def test_what_loops_ask_is_not_kept(monkeypatch):
    """The Hessians of all fits and steps would be much more than the rows."""
    X, y, _, _ = data(losses.Logistic())
    objective = Objective(lay_out(X, y), losses.Logistic())
    answers = []
    reduce = objective.blocks.reduce

    def watched(kernel, parameters):
        answers.append(weakref.ref(sums := reduce(kernel, parameters)))
        return sums

    monkeypatch.setattr(objective.blocks, "reduce", watched)
    kept = []
    alphas = np.logspace(-3, 0, 4)
    minimise_path(
        objective,
        alphas,
        Newton(),
        callbacks=(lambda progress: kept.append(sum(sums() is not None for sums in answers)),),
    )
    assert len(answers) >= 8 and kept[-1] <= 2


def test_many_targets_of_many_alphas_share_the_rounds_too(rows):
    X, y = rows
    Y = np.column_stack([y, -y, X[:, 0]])
    objective = Objective(lay_out(X, Y), losses.Squared(), 1.0)
    for fit, alpha in zip(minimise_path(objective, [1.0, 9.0], "lbfgs", tol=1e-12), (1.0, 9.0), strict=True):
        np.testing.assert_allclose(fit.w, minimise(replace(objective, alpha=alpha)).w, rtol=1e-6, atol=1e-8)


def test_what_goes_wrong_in_one_reaches_the_caller():
    X, y, _, fold = data(losses.Logistic())
    blocks = lay_out(X, y - 1.0, fold=fold)
    loop = Loop(Linear(losses.Logistic(), 1.0), LBFGS(), 1e-6, 10, start=np.zeros(6))
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


@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss"])
@pytest.mark.parametrize("classes", [2, 3])
def test_class_weights_count_in_the_fit_and_not_in_the_scores(scoring, classes):
    random = np.random.default_rng(6)
    X, s = random.standard_normal((300, 4)), random.uniform(0.5, 2, 300)
    y = np.digitize(X[:, 0] + random.logistic(size=300), [-2, 1][: classes - 1])
    ours = LogisticRegressionCV(Cs=4, cv=KFold(3), tol=1e-9, scoring=scoring, class_weight="balanced").fit(X, y, s)
    of_class = np.array([s.sum() / (classes * s[y == label].sum()) for label in range(classes)])
    for place, C in enumerate(ours.Cs_):
        for fold, (train, test) in enumerate(KFold(3).split(X)):
            alone = reference.LogisticRegression(C=C, solver="newton-cholesky", tol=1e-9)
            alone.fit(X[train], y[train], (s * of_class[y])[train])
            if scoring == "accuracy":
                expected = accuracy_score(y[test], alone.predict(X[test]), sample_weight=s[test])
            else:
                expected = -log_loss(y[test], alone.predict_proba(X[test]), sample_weight=s[test])
            assert ours.scores_[place, fold] == pytest.approx(expected, rel=1e-6)
    assert ours.C_ == ours.Cs_[np.argmax(ours.scores_.mean(axis=1))]


def test_columns_are_standardised_by_the_rows_of_each_fit():
    random = np.random.default_rng(7)
    X = random.standard_normal((240, 3)) * [1e-3, 1.0, 1e3] + 5.0
    y = (X[:, 1] + X[:, 2] / 1e3 > 5).astype(int)
    ours = LogisticRegressionCV(Cs=3, cv=KFold(4), tol=1e-9, scoring="neg_log_loss", standardize=True).fit(X, y)
    for place, C in enumerate(ours.Cs_):
        for fold, (train, test) in enumerate(KFold(4).split(X)):
            alone = make_pipeline(StandardScaler(), reference.LogisticRegression(C=C, tol=1e-9)).fit(X[train], y[train])
            expected = -log_loss(y[test], alone.predict_proba(X[test]))
            assert ours.scores_[place, fold] == pytest.approx(expected, rel=1e-5)
    alone = LogisticRegression(ours.C_, standardize=True, tol=1e-10).fit(X, y)
    np.testing.assert_allclose(ours.coef_, alone.coef_, rtol=1e-5)


def test_callbacks_follow_all_fits():
    X, y, _, fold = data(losses.Logistic())
    seen = []
    model = LogisticRegressionCV(Cs=3, cv=fold, callbacks=(seen.append,)).fit(X, y)
    assert len(seen) > model.n_iter_ and all(np.isfinite(progress.value) for progress in seen)
    with pytest.raises(InputError, match="scoring is 'r2': give 'accuracy' or 'neg_log_loss'"):
        LogisticRegressionCV(scoring="r2").fit(X, y)


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
    with pytest.raises(InputError, match="Cs is -1: give positive numbers"):
        LogisticRegressionCV(Cs=-1).fit(X, y)
    folds = np.arange(len(y)) // 100
    with pytest.raises(InputError, match="no row of fold 2 has a weight"):
        LogisticRegressionCV(Cs=2, cv=folds).fit(X, y, folds != 2)
    with pytest.warns(ConvergenceWarning, match="11 of 11 fits stopped"):
        LogisticRegressionCV(Cs=2, max_iter=1).fit(X, y)
