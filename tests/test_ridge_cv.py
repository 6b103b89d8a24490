"""RidgeCV against scikit-learn: the same alphas and scores, from one round."""

import array_api_strict
import dask.array as da
import numpy as np
import pytest
import refusing
from problems import dense_block
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge as Reference
from sklearn.linear_model import RidgeCV as ReferenceCV
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, PredefinedSplit, ShuffleSplit, TimeSeriesSplit, cross_val_score

from dist_dot import Ridge, RidgeCV
from dist_dot.errors import InputError
from dist_dot.kernels.leave_one_out import LeaveOneOut
from dist_dot.rows.arrays import Parameters, to_host

ALPHAS = np.logspace(-4, 3, 15)
LABELS = np.random.default_rng(3).integers(0, 4, 442)


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X + 1.0, y


def targets(y, k):
    return y if k is None else np.column_stack([y, np.sqrt(y), y[::-1] + y])[:, :k]


@pytest.mark.parametrize("k", [None, 1, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_leave_one_out_is_that_of_scikit_learn(diabetes, k, weighted, fit_intercept):
    X, Y = diabetes[0], targets(diabetes[1], k)
    s = np.random.default_rng(0).integers(0, 3, len(Y)).astype(float) if weighted else None
    ours = RidgeCV(ALPHAS, fit_intercept=fit_intercept).fit(X, Y, s)
    theirs = ReferenceCV(ALPHAS, fit_intercept=fit_intercept, gcv_mode="svd").fit(X, Y, s)
    assert ours.alpha_ == theirs.alpha_ and ours.fit_.rounds == 2
    assert np.isclose(ours.best_score_, theirs.best_score_, rtol=1e-10)
    np.testing.assert_allclose(ours.coef_.ravel(), theirs.coef_.ravel(), rtol=1e-8)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-8)


def test_leave_one_out_by_leaving_each_out(diabetes):
    X, y = diabetes[0][:40], diabetes[1][:40]
    s = np.random.default_rng(0).uniform(0.5, 2, 40)
    path = RidgeCV((0.01, 1.0)).fit(X, y, s).fit_.path
    for alpha, score in zip(path.alphas, path.scores[:, 0], strict=True):
        errors = []
        for row in range(40):
            rest = np.arange(40) != row
            model = Reference(alpha, solver="cholesky").fit(X[rest], y[rest], s[rest])
            errors.append(s[row] * (y[row] - model.predict(X[row : row + 1])[0]) ** 2)
        assert np.isclose(score, -np.mean(errors), rtol=1e-9)


SPLITS = {
    "5": 5,
    "shuffled": KFold(4, shuffle=True, random_state=1),
    "labels": LABELS,
    "pairs": list(KFold(3).split(LABELS)),
}


@pytest.mark.parametrize("cv", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_folds_are_those_of_scikit_learn_from_one_round(diabetes, cv, k, fit_intercept):
    X, Y = diabetes[0], targets(diabetes[1], k)
    ours = RidgeCV(ALPHAS, fit_intercept=fit_intercept, cv=cv).fit(X, Y)
    split = PredefinedSplit(cv) if cv is LABELS else cv
    scores = [cross_val_score(Reference(alpha, fit_intercept=fit_intercept), X, Y, cv=split) for alpha in ALPHAS]
    np.testing.assert_allclose(ours.fit_.path.scores, scores, atol=1e-10)
    theirs = ReferenceCV(ALPHAS, fit_intercept=fit_intercept, cv=split).fit(X, Y)
    assert ours.alpha_ == theirs.alpha_ and np.isclose(ours.best_score_, theirs.best_score_, atol=1e-10)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-8)
    assert ours.fit_.rounds == 1


def test_scores_of_weighted_folds_are_weighted(diabetes):
    X, y = diabetes
    s = np.random.default_rng(0).uniform(0, 2, len(y))
    path = RidgeCV((0.1, 10.0), cv=LABELS).fit(X, y, s).fit_.path
    for alpha, scores in zip(path.alphas, path.scores, strict=True):
        for fold, score in enumerate(scores):
            test = fold == LABELS
            model = Reference(alpha).fit(X[~test], y[~test], s[~test])
            assert np.isclose(score, r2_score(y[test], model.predict(X[test]), sample_weight=s[test]), rtol=1e-9)


def test_a_fold_whose_rows_all_weigh_nothing_is_named(diabetes):
    X, y = diabetes
    fold = np.arange(len(y)) % 4
    with pytest.raises(InputError, match="rows of fold 2 all have the weight 0"):
        RidgeCV(ALPHAS, cv=PredefinedSplit(fold)).fit(X, y, (fold != 2).astype(float))
    with pytest.raises(
        InputError, match="the weight is zero of all rows but those of fold 0: there is nothing to train on"
    ):
        RidgeCV(ALPHAS, cv=PredefinedSplit(fold)).fit(X, y, (fold == 0).astype(float))


def test_a_constant_fold_scores_as_in_scikit_learn():
    X, y = np.arange(12.0).reshape(-1, 1), np.repeat([0.0, 1.0, 5.0], 4)
    path = RidgeCV((1.0,), cv=3).fit(X, y).fit_.path
    np.testing.assert_allclose(path.scores[0], cross_val_score(Reference(1.0), X, y, cv=3))


def test_folds_far_from_zero_do_not_cancel(diabetes):
    X, y = diabetes
    near, far = (RidgeCV(ALPHAS, cv=5).fit(X + shift, y).fit_.path.scores for shift in (0.0, 1e7))
    np.testing.assert_allclose(far, near, atol=1e-6)


def test_the_path_holds_the_fit_of_each_alpha(diabetes):
    X, y = diabetes
    model = RidgeCV(ALPHAS, cv=5).fit(X, y)
    path = model.fit_.path
    for alpha, coef, intercept in zip(ALPHAS, path.coef, path.intercept, strict=True):
        alone = Ridge(alpha).fit(X, y)
        np.testing.assert_allclose(coef[:, 0], alone.coef_, rtol=1e-9)
        np.testing.assert_allclose(intercept[0], alone.intercept_, rtol=1e-9)
    best = int(np.argmax(path.mean_scores))
    assert model.alpha_ == path.best == ALPHAS[best]
    np.testing.assert_allclose(model.coef_, path.coef[best][:, 0], rtol=1e-9)
    assert model.fit_.where.startswith("this process")


@pytest.mark.filterwarnings("ignore:Sending large graph")
@pytest.mark.parametrize("cv", [None, 5])
def test_the_bits_do_not_depend_on_the_cluster(clients, cv):
    random = np.random.default_rng(5)
    X, s = random.standard_normal((60_000, 40)), random.uniform(0, 2, 60_000)
    Y = X[:, :2] + random.standard_normal((60_000, 2))
    here = RidgeCV(ALPHAS, cv=cv).fit(X, Y, s)
    for workers in (1, 2, 3):
        with clients(workers).as_current():
            lazy = [da.from_array(array, chunks=(7_000, *array.shape[1:])) for array in (X, Y, s)]
            there = RidgeCV(ALPHAS, cv=cv).fit(*lazy)
        assert there.fit_.path.scores.tobytes() == here.fit_.path.scores.tobytes()
        assert there.coef_.tobytes() == here.coef_.tobytes()
        assert there.fit_.rounds == here.fit_.rounds and "cluster" in there.fit_.where


@pytest.mark.parametrize("library", [array_api_strict, refusing.library])
@pytest.mark.parametrize("cv", [None, 3])
def test_arrays_of_other_libraries(diabetes, library, cv):
    X, y = diabetes
    expected = RidgeCV(ALPHAS, cv=cv).fit(X, y)
    found = RidgeCV(ALPHAS, cv=cv).fit(library.asarray(X), library.asarray(y))
    np.testing.assert_allclose(found.fit_.path.scores, expected.fit_.path.scores, rtol=1e-9)
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-9)


@pytest.mark.parametrize("library", [array_api_strict, refusing.library])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [0, 1, 50])
def test_the_leave_one_out_kernel_gives_what_it_gives_for_numpy(library, weighted, n):
    random = np.random.default_rng(0)
    X, y = random.standard_normal((n, 3)), random.standard_normal((n, 2))
    s = random.uniform(0, 1, n) if weighted else None
    kernel = LeaveOneOut(4, 2)
    shapes = (3,), (3, 3), (3, 4), (), (3, 4, 2), (4, 2)
    at = kernel.pack(*(0.1 * random.standard_normal(shape) for shape in shapes))
    other = (None if array is None else library.asarray(array) for array in (X, y, s))
    found, expected = (kernel(block, Parameters(at)) for block in (dense_block(*other, 0), dense_block(X, y, s)))
    np.testing.assert_allclose(to_host(found), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alphas": ()}, "alphas is"),
        ({"alphas": (1.0, 0.0)}, "give positive numbers"),
        ({"cv": LABELS[:-1]}, r"cv has shape \(441,\)"),
        ({"cv": np.zeros(442)}, "all rows into one fold"),
        ({"cv": TimeSeriesSplit(3)}, "cv leaves rows out of split 0"),
        ({"cv": ShuffleSplit(3, random_state=0)}, "cv tests row . . times"),
    ],
)
def test_mistakes_are_named(diabetes, options, words):
    with pytest.raises(InputError, match=words):
        RidgeCV(**options).fit(*diabetes)


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("cv", [None, KFold(4)])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_columns_that_nearly_depend_on_each_other_cost_rounds_and_no_digits(condition, cv, fit_intercept):
    random, alpha = np.random.default_rng(0), 1e-10
    U, V = np.linalg.qr(random.standard_normal((400, 5)))[0], np.linalg.qr(random.standard_normal((5, 5)))[0]
    X = 100.0 * (U * np.logspace(0, -np.log10(condition), 5)) @ V.T
    y = X @ np.ones(5) + 0.01 * random.standard_normal(400)
    model = RidgeCV([alpha], cv=cv, fit_intercept=fit_intercept).fit(X, y)
    alone = Ridge(alpha, fit_intercept=fit_intercept).fit(X, y)
    np.testing.assert_allclose(model.coef_, alone.coef_, rtol=1e-10)
    np.testing.assert_allclose(model.fit_.path.coef[0, :, 0], alone.coef_, rtol=1e-5)
    mean = X.mean(axis=0) * fit_intercept
    stacked = np.vstack([X - mean, np.sqrt(alpha) * np.eye(5)])
    expected = np.linalg.lstsq(stacked, np.append(y - y.mean() * fit_intercept, np.zeros(5)), rcond=None)[0]
    np.testing.assert_allclose(model.coef_, expected, atol=1e-14 * condition * np.abs(expected).max())
    assert model.fit_.rounds <= 8
