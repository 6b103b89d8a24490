"""Least squares with more columns than rows, and with many columns: the smallest w, from the rows themselves."""

import tracemalloc
from fractions import Fraction

import array_api_strict
import dask.array as da
import numpy as np
import pytest
import refusing
from problems import dense_block
from sklearn.linear_model import Ridge as Reference
from sklearn.linear_model import RidgeCV as ReferenceCV
from sklearn.model_selection import cross_val_score

from dist_dot import Checkpoints, LinearRegression, Objective, Ridge, RidgeCV, SolverError, lay_out, losses, minimise
from dist_dot.kernels.gathered import Rows
from dist_dot.rows.arrays import Parameters, to_host
from dist_dot.solvers import LBFGS, Exact, row_space


def wide(n=50, p=1200, k=None, seed=0):
    """Rows far from 0 of columns in units between 1e-2 and 1e2, targets, and weights of which one is 0."""
    random = np.random.default_rng(seed)
    X = (random.standard_normal((n, p)) + 3.0) * 10.0 ** np.linspace(-2, 2, p)
    weight = random.uniform(0.5, 2, n)
    weight[n // 2] = 0.0
    return X, random.standard_normal(n if k is None else (n, k)), weight


def closed_form(X, y, s, alpha, fit_intercept):
    """W and b by the singular values of the centred, weighted rows: those of 0 give the smallest W."""
    s = np.ones(len(X)) if s is None else s
    mean, y_mean = (np.average(a, axis=0, weights=s) if fit_intercept else np.zeros(a.shape[1:]) for a in (X, y))
    root = np.sqrt(s)[:, None]
    U, d, V = np.linalg.svd(root * (X - mean), full_matrices=False)
    kept = d > 1e-12 * d.max()
    U, d, V = U[:, kept], d[kept], V[kept]
    W = V.T @ ((d / (d * d + alpha))[:, None] * (U.T @ (root * (y - y_mean).reshape(len(X), -1))))
    return W, y_mean - mean @ W


def close(found, expected, share):
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * np.abs(expected).max())


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("alpha", [0.0, 1e-9, 1e-3, 1e5])
def test_the_minimum_with_fewer_rows_than_columns(alpha, k, weighted, fit_intercept):
    X, y, s = wide(k=k)
    s = s if weighted else None
    fit = minimise(Objective(lay_out(X, y, s, block_rows=16), losses.Squared(), alpha, fit_intercept))
    W, b = closed_form(X, y, s, alpha, fit_intercept)
    close(fit.w.reshape(W.shape), W, 1e-10)
    np.testing.assert_allclose(fit.intercept, b if fit_intercept else np.zeros(k), rtol=1e-9)
    assert fit.rounds == 1 and fit.n_iter == 1 and fit.solver.startswith("Exact")
    rank = 50 - weighted - fit_intercept
    assert fit.note.startswith(f"rank {rank} of 1,200: there are fewer rows") if alpha == 0 else fit.note == ""


def test_default_tolerances_have_the_digits_of_scikit_learn():
    random = np.random.default_rng(0)
    X, y = random.standard_normal((60, 4000)), random.standard_normal(60)
    for alpha in (1e-3, 1.0):
        ours, theirs = Ridge(alpha).fit(X, y), Reference(alpha, solver="svd").fit(X, y)
        close(ours.coef_, theirs.coef_, 1e-12)
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-10)


def test_the_penalty_of_standardised_columns():
    X, y, _ = wide()
    deviation = X.std(axis=0)
    W, _ = closed_form(X / deviation, y, None, 10.0, True)
    close(Ridge(10.0, standardize=True).fit(X, y).coef_ * deviation, W[:, 0], 1e-10)


@pytest.mark.parametrize("small", [1e-9, 1e-6])
def test_small_columns_keep_their_digits_beside_large_ones(small):
    """Five columns in units of 1e3 and 1,195 in tiny ones, which together can meet every y."""
    random = np.random.default_rng(2)
    X, y = random.standard_normal((50, 1200)) * small, random.standard_normal(50)
    X[:, :5] *= 1e3 / small
    model = LinearRegression().fit(X, y)
    np.testing.assert_allclose(model.predict(X), y, atol=1e-10)
    # The smallest w is a combination of the rows: nothing is left of it beside the span of the centred ones.
    centred = (X - X.mean(0)) / np.abs(X).max(0)
    image = model.coef_ / np.abs(X).max(0)  # X.T u, each column in its own unit
    u, *_ = np.linalg.lstsq(centred.T, image / np.abs(image).max(), rcond=None)
    np.testing.assert_allclose(centred.T @ u, image / np.abs(image).max(), atol=1e-8)


def test_rows_that_repeat_others():
    X, y, _ = wide()
    twice = LinearRegression().fit(np.vstack([X, X]), np.append(y, y + 2.0))
    once = LinearRegression().fit(X, y + 1.0)
    close(twice.coef_, once.coef_, 1e-10)
    assert twice.fit_.note.startswith("rank 49 of 1,200")
    alone = LinearRegression().fit(X[:1], y[:1])
    assert not alone.coef_.any() and alone.intercept_ == y[0]


@pytest.mark.parametrize("alpha", [0.0, 1e-3])
def test_rows_too_many_to_gather_keep_to_their_space(alpha, monkeypatch):
    monkeypatch.setattr(row_space, "ROOM", 1000)
    X, y, s = wide(p=2100, k=2)
    objective = Objective(lay_out(X, y, s), losses.Squared(), alpha)
    W, b = closed_form(X, y, s, alpha, True)
    for tol, share in ((1e-6, 1e-4), (1e-12, 1e-8)):
        fit = minimise(objective, tol=tol)
        assert fit.solver.startswith("LBFGS") and fit.status.name == "CONVERGED" and fit.rounds < 200
        close(fit.w, W, share)
        close(fit.intercept, b, share)


def test_the_scale_of_the_penalty_is_part_of_the_space(monkeypatch):
    X, y, _ = wide()
    scale = np.random.default_rng(0).uniform(0.1, 10, 1200)
    expected = closed_form(X / scale, y, None, 1.0, True)[0][:, 0] / scale
    objective = Objective(lay_out(X, y), losses.Squared(), 1.0, scale=scale)
    close(minimise(objective, Exact("rows")).w, expected, 1e-10)
    close(minimise(objective, LBFGS(30, "row_space"), tol=1e-12).w, expected, 1e-8)


def test_dependent_columns_beyond_a_thousand():
    random = np.random.default_rng(0)
    base = random.standard_normal((1100, 300))
    X, y = np.hstack([base, base @ random.standard_normal((300, 710)) / 17]), random.standard_normal(1100)
    W, _ = closed_form(X, y, None, 0.0, True)
    model = LinearRegression().fit(X, y)
    close(model.coef_, W[:, 0], 1e-10)
    assert model.fit_.note.startswith("rank 300 of 1010")


def test_rows_are_refused_where_they_do_not_help():
    X, y, _ = wide(50, 1002)
    with pytest.raises(SolverError, match="'rows' is for fewer rows than columns.*X is 50 x 20: use 'auto'"):
        minimise(Objective(lay_out(X[:, :20], y), losses.Squared()), Exact("rows"))
    half = np.repeat([0.0, 1.0], 501)
    partly = Objective(lay_out(X, y), losses.Squared(), 1.0, scale=half)
    with pytest.raises(SolverError, match="a penalty on all columns or none"):
        minimise(partly, Exact("rows"))
    assert minimise(partly, Exact()).state.method in ("gram", "qr")


@pytest.mark.filterwarnings("ignore:Sending large graph")
@pytest.mark.parametrize("model", [LinearRegression(), Ridge(0.1), RidgeCV(), RidgeCV(cv=3)], ids=str)
def test_the_bits_do_not_depend_on_the_cluster(clients, model):
    X, y, s = wide(400, 1600)  # three blocks
    here = model.fit(X, y, s)
    expected, rounds = (here.coef_.tobytes(), np.float64(here.intercept_).tobytes()), here.fit_.rounds
    for workers in (1, 2, 3):
        with clients(workers).as_current():
            lazy = [da.from_array(array, chunks=(70, *array.shape[1:])) for array in (X, y, s)]
            there = model.fit(*lazy)
        assert (there.coef_.tobytes(), np.float64(there.intercept_).tobytes()) == expected
        assert there.fit_.rounds == rounds == 1


def test_a_checkpoint_holds_the_rows(tmp_path):
    X, y, _ = wide()
    objective = Objective(lay_out(X, y), losses.Squared(), 0.5)
    first = minimise(objective, checkpoint=Checkpoints(str(tmp_path), every=1))
    again = minimise(objective, checkpoint=Checkpoints(str(tmp_path), every=1, resume=True))
    assert again.w.tobytes() == first.w.tobytes() and again.state.flat.tobytes() == first.state.flat.tobytes()


@pytest.mark.parametrize("library", [np, array_api_strict, refusing.library])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("n", [0, 5])
def test_the_kernel_gives_the_rows(library, weighted, k, n):
    random = np.random.default_rng(0)
    X, y = random.standard_normal((n, 3)).astype("float32"), random.standard_normal((n, k)).astype("float32")
    s = random.uniform(0, 1, n).astype("float32") if weighted else None
    shaped = y if k > 1 else y[:, 0]
    block = dense_block(*(None if a is None else library.asarray(a) for a in (X, shaped, s)), 0)
    kernel = Rows()
    found = to_host(kernel.merge(*(kernel(block, Parameters(np.zeros(0))) for _ in range(2))))
    expected = np.hstack([X, y, (np.ones(n) if s is None else s)[:, None]]).astype(float)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found.reshape(2 * n, 4 + k), np.vstack([expected, expected]))


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("weighted", [True, False])
def test_ridge_cv_without_a_square_of_the_columns(weighted, k, fit_intercept):
    X, Y, s = wide(60, 1500, k)
    X /= X.std(axis=0)
    s = np.floor(2 * s) if weighted else None
    alphas = (0.1, 10.0, 1000.0)
    ours = RidgeCV(alphas, fit_intercept=fit_intercept).fit(X, Y, s)
    theirs = ReferenceCV(alphas, fit_intercept=fit_intercept, gcv_mode="svd").fit(X, Y, s)
    assert ours.alpha_ == theirs.alpha_ and ours.fit_.rounds == 1
    assert np.isclose(ours.best_score_, theirs.best_score_, rtol=1e-9)
    close(ours.coef_, theirs.coef_, 1e-10)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-9)
    for alpha, W, b in zip(alphas, ours.fit_.path.coef, ours.fit_.path.intercept, strict=True):
        W_expected, b_expected = closed_form(X, Y, s, alpha, fit_intercept)
        close(W, W_expected, 1e-9)
        np.testing.assert_allclose(b, b_expected, rtol=1e-7)
    if not weighted:
        folds = RidgeCV(alphas, fit_intercept=fit_intercept, cv=3).fit(X, Y)
        scores = [cross_val_score(Reference(a, fit_intercept=fit_intercept), X, Y, cv=3) for a in alphas]
        np.testing.assert_allclose(folds.fit_.path.scores, scores, atol=1e-8)
        assert folds.fit_.rounds == 1
        for W, b, W_expected, b_expected in zip(
            folds.fit_.path.coef, folds.fit_.path.intercept, ours.fit_.path.coef, ours.fit_.path.intercept, strict=True
        ):
            close(W, W_expected, 1e-8)
            np.testing.assert_allclose(b, b_expected, rtol=1e-6)


@pytest.mark.parametrize("cv", [None, 5])
def test_ridge_cv_holds_no_square_of_the_columns(cv):
    random = np.random.default_rng(0)
    X, y = random.standard_normal((60, 4000)), random.standard_normal(60)
    RidgeCV(cv=cv).fit(X, y)  # what is compiled and imported does not count
    tracemalloc.start()
    RidgeCV(cv=cv).fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * X.nbytes  # 38 MB; a square of the columns is 128 MB


def left_out(X, y, alpha, fit_intercept):
    """Minus the mean squared error of rows left out, in rational numbers."""
    n, p = X.shape
    X, y = [[Fraction(x) for x in row] for row in X.tolist()], [Fraction(v) for v in y.tolist()]
    total = Fraction(0)
    for out in range(n):
        rest = [i for i in range(n) if i != out]
        mean = [sum(X[i][j] for i in rest) / (n - 1) * fit_intercept for j in range(p)]
        y_mean = sum(y[i] for i in rest) / (n - 1) * fit_intercept
        centred = [[X[i][j] - mean[j] for j in range(p)] for i in rest]
        products = [[sum(a * b for a, b in zip(r, q, strict=True)) for q in centred] for r in centred]
        for i in range(n - 1):
            products[i][i] += Fraction(alpha)
        u = rational_solve(products, [y[i] - y_mean for i in rest])
        w = [sum(row[j] * v for row, v in zip(centred, u, strict=True)) for j in range(p)]
        z = y_mean + sum((X[out][j] - mean[j]) * w[j] for j in range(p))
        total += (y[out] - z) ** 2
    return -float(total / n)


def rational_solve(A, b):
    rows = [[*row, value] for row, value in zip(A, b, strict=True)]
    for i in range(len(rows)):
        for j in range(i + 1, len(rows)):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [a - factor * c for a, c in zip(rows[j], rows[i], strict=True)]
    x = [Fraction(0)] * len(rows)
    for i in reversed(range(len(rows))):
        x[i] = (rows[i][-1] - sum(rows[i][j] * x[j] for j in range(i + 1, len(rows)))) / rows[i][i]
    return x


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize(
    ("p", "unit", "alpha", "share"),
    [
        (11, 1.0, 1e-12, 1e-10),  # more columns than rows, and next to no penalty
        (11, 1e6, 0.1, 1e-10),  # the same by the unit of the columns
        (9, 1.0, 1e-13, 1e-10),
        (8, 1e6, 0.1, 1e-8),  # as many as the rows have degrees of freedom
        (4, np.array([1.0, 1e6, 1.0, 1.0]), 0.1, 1e-9),  # one column in other units
    ],
)
def test_rows_left_out_with_next_to_no_penalty(p, unit, alpha, share, fit_intercept):
    random = np.random.default_rng(4)
    X, y = random.standard_normal((9, p)) * unit, random.standard_normal(9)
    path = RidgeCV((alpha, 10 * alpha), fit_intercept=fit_intercept).fit(X, y).fit_.path
    expected = [left_out(X, y, each, fit_intercept) for each in path.alphas]
    np.testing.assert_allclose(path.scores[:, 0], expected, rtol=share)


def test_scores_without_digits_are_noticed_where_rows_cannot_be_gathered(monkeypatch, notices):
    monkeypatch.setattr(row_space, "ROOM", 1000)
    random = np.random.default_rng(0)
    X, y = random.standard_normal((300, 4)), random.standard_normal(300)
    RidgeCV((1e-9,)).fit(X, y)
    assert not notices
    X[:, 0] = np.arange(300) == 0  # a coefficient that row 0 alone determines
    RidgeCV((1e-9,)).fit(X, y)
    assert len(notices) == 1 and "alphas down to 1e-09" in notices[0]
