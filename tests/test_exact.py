"""Exact least squares: summaries that merge, extra precision, the solver, and what is known about its coefficients."""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import array_api_strict
import dask.array as da
import numpy as np
import pytest
import refusing
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import dense_block
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression as Reference

from benchmarks import nist
from dist_dot import Checkpoints, LinearRegression, Objective, Ridge, SolverError, Status, lay_out, losses, minimise
from dist_dot.errors import InputError
from dist_dot.kernels import extended
from dist_dot.kernels.extended import ResidualProducts
from dist_dot.kernels.moments import CentredMoments, CentredTriangle, FoldMoments
from dist_dot.rows.arrays import Parameters, to_host
from dist_dot.solvers import Exact, GradientDescent

LIBRARIES = [np, array_api_strict, refusing.library]
METHODS = ["gram", "qr", "auto"]


def rows_of(n, p, k=1, weighted=False, dtype="float64"):
    random = np.random.default_rng(10 * n + p + k)
    X, Y = random.standard_normal((n, p)) + 3.0, random.standard_normal((n, k))
    s = random.uniform(0, 2, n) if weighted else None
    return X.astype(dtype), (Y if k > 1 else Y[:, 0]).astype(dtype), s


def summary_of(X, Y, s):
    """Weight, means and second moments by their definition."""
    D, s = np.column_stack([X, Y]).astype(float), np.ones(len(X)) if s is None else s
    mean = s @ D / s.sum() if s.sum() else np.zeros(D.shape[1])
    return s.sum(), mean, (D - mean).T @ (s[:, None] * (D - mean))


def parts(flat, triangular):
    d = int(np.sqrt(flat.size - 0.75) - 0.5)
    matrix = flat[1 + d :].reshape(d, d)
    return flat[0], flat[1 : 1 + d], matrix.T @ matrix if triangular else matrix


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kernel", [CentredMoments(), CentredTriangle()])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("n", "k"), [(0, 1), (1, 1), (3, 2), (300, 2), (3000, 1)])
def test_summaries_of_a_block(library, kernel, n, k, weighted, dtype):
    X, Y, s = rows_of(n, 4, k, weighted, dtype)
    block = dense_block(*(None if array is None else library.asarray(array) for array in (X, Y, s)), 0)
    found = kernel(block, Parameters(np.zeros(0)))
    assert type(found) is type(block.y)
    for ours, expected in zip(
        parts(to_host(found), isinstance(kernel, CentredTriangle)), summary_of(X, Y, s), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("kernel", [CentredMoments(), CentredTriangle()])
@given(cuts=st.lists(st.integers(0, 60), max_size=4))
@settings(deadline=None)
def test_summaries_merge_into_that_of_all_rows(kernel, cuts):
    X, Y, s = rows_of(60, 3, 1, True)
    s[20:30] = 0.0
    X[40:] += 1e6
    edges = [0, *sorted(cuts), 60]
    merged = None
    for start, stop in zip(edges, edges[1:], strict=False):
        block = dense_block(X[start:stop], Y[start:stop], s[start:stop], start)
        part = kernel(block, Parameters(np.zeros(0)))
        merged = part if merged is None else kernel.merge(merged, part)
    for ours, expected in zip(parts(merged, isinstance(kernel, CentredTriangle)), summary_of(X, Y, s), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-6)


def test_weights_of_float32_lose_nothing():
    """Roots that are rounded to float32 are wrong by 3e-8 once they are squared."""
    X, Y, s = rows_of(500, 4, 1, True, "float32")
    s = np.random.default_rng(1).uniform(0.1, 5.0, len(s)).astype("float32")
    for kernel in (CentredMoments(), CentredTriangle()):
        found = kernel(dense_block(X, Y, s, 0), Parameters(np.zeros(0)))
        for ours, expected in zip(
            parts(found, isinstance(kernel, CentredTriangle)), summary_of(X, Y, s.astype(float)), strict=True
        ):
            np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-11)


def test_moments_far_from_zero_do_not_cancel():
    X, y, _ = rows_of(5000, 2)
    blocks = lay_out(X + 1e8, y, block_rows=100)
    for kernel in (CentredMoments(), CentredTriangle()):
        _, mean, matrix = parts(blocks.reduce(kernel, np.zeros(0)), isinstance(kernel, CentredTriangle))
        exact = (X + 1e8) - 1e8  # what the doubles there hold
        np.testing.assert_allclose(matrix[:2, :2], np.cov(exact.T) * 4999, atol=1e-9 * 4999)
        np.testing.assert_allclose(mean[:2] - 1e8, exact.mean(0), rtol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("weighted", [False, True])
def test_folds_have_the_summaries_of_their_rows(library, weighted):
    X, y, s = rows_of(90, 3, 1, weighted)
    fold = np.arange(90) % 3
    fold[fold == 1] = 2  # an empty one
    of_rows = (None if a is None else library.asarray(a) for a in (X, y, s))
    block = dense_block(*of_rows, fold=library.asarray(fold.astype(float)))
    kernel = FoldMoments(3)
    found = to_host(kernel.merge(kernel(block, Parameters(np.zeros(0))), kernel(block, Parameters(np.zeros(0)))))
    for number, flat in enumerate(found.reshape(3, -1)):
        chosen = np.tile(np.flatnonzero(fold == number), 2)
        for ours, expected in zip(
            parts(flat, False), summary_of(X[chosen], y[chosen], None if s is None else s[chosen]), strict=True
        ):
            np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


finite = st.floats(-1e100, 1e100).filter(lambda x: x == 0 or abs(x) > 1e-100)


@settings(deadline=None)
@given(finite, finite)
def test_error_free_transformations(a, b):
    for transformation, compiled, exact in (
        (extended.two_sum, extended._exact(extended.two_sum), Fraction(a) + Fraction(b)),
        (extended.two_product, extended._two_product, Fraction(a) * Fraction(b)),
    ):
        for function in (transformation, compiled):
            high, low = function(a, b)
            assert Fraction(high) + Fraction(low) == exact


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("n", [0, 1, 65, 200])
@pytest.mark.parametrize("weighted", [False, True])
def test_residual_products_have_thirty_digits(library, k, n, weighted):
    X, Y, s = rows_of(n, 3, k, weighted)
    X = X * 10.0 ** np.random.default_rng(0).uniform(-8, 8, X.shape)
    at = np.random.default_rng(1).standard_normal((4, k))
    block = dense_block(*(None if array is None else library.asarray(array) for array in (X, Y, s)), 0)
    kernel = ResidualProducts()
    found = kernel(block, Parameters(at.ravel()))
    high, low = to_host(kernel.merge(found, found)).reshape(2, -1)
    design = np.column_stack([X, np.ones(n)])
    exact = np.full(5 * k, Fraction(0))
    for x, y, weight in zip(design, Y.reshape(n, k), np.ones(n) if s is None else s, strict=True):
        for target in range(k):
            r = Fraction(y[target]) - sum(Fraction(a) * Fraction(b) for a, b in zip(x, at[:, target], strict=True))
            exact[target] += 2 * Fraction(weight) * r * r
            for j in range(4):
                exact[(1 + j) * k + target] += 2 * Fraction(weight) * Fraction(x[j]) * r
    largest = np.abs(design).max(axis=0, initial=1.0)
    sizes = np.repeat(np.append(largest.max(), largest), k) * largest.max() * max(n, 1)
    for ours, low_part, expected, size in zip(high, low, exact, sizes, strict=True):
        error = abs(Fraction(ours) + Fraction(low_part) - expected)
        assert error <= Fraction(1e-30) * Fraction(size)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_the_solution_satisfies_the_normal_equations(rows, method, weighted, fit_intercept, alpha):
    X, y = rows
    Y = np.column_stack([y, y**2, np.cos(y)])
    s = np.random.default_rng(0).uniform(0, 2, len(y)) if weighted else np.ones(len(y))
    objective = Objective(lay_out(X, Y, s if weighted else None, block_rows=64), losses.Squared(), alpha, fit_intercept)
    fit = minimise(objective, Exact(method))
    assert fit.status is Status.CONVERGED and fit.n_iter == 1 and fit.note == ""
    assert fit.rounds == 1 if method != "qr" else 3 <= fit.rounds <= 6
    residual = Y - X @ fit.w - fit.intercept
    scale = np.abs(X.T @ (s[:, None] * Y)).max()
    np.testing.assert_allclose(X.T @ (s[:, None] * residual) - alpha * fit.w, 0, atol=1e-11 * scale)
    if fit_intercept:
        np.testing.assert_allclose(s @ residual, 0, atol=1e-10 * np.abs(Y).max())
    value, gradient = objective.value_and_gradient(fit.state.parameters)
    assert np.isclose(fit.value, value, rtol=1e-9)
    assert [p.iteration for p in fit.history] == [0, 1]
    assert np.isclose(fit.history[0].value, 0.5 * (s @ Y**2).sum(), rtol=1e-12)
    alone = minimise(Objective(lay_out(X, y, s if weighted else None, block_rows=64), losses.Squared(), alpha,
                               fit_intercept), Exact(method))  # fmt: skip
    np.testing.assert_allclose(alone.w, fit.w[:, 0], rtol=1e-11)


@pytest.mark.parametrize("method", METHODS)
def test_tol_beyond_rounding_ends_with_that_status(rows, method):
    fit = minimise(Objective(lay_out(*rows), losses.Squared()), Exact(method), tol=0)
    assert fit.status is Status.AT_ROUNDING and fit.n_iter == 1


@pytest.mark.parametrize("method", METHODS)
def test_the_digits_do_not_depend_on_the_cuts(rows, method):
    found = []
    for block_rows in (600, 200, 61):
        fit = minimise(Objective(lay_out(*rows, block_rows=block_rows), losses.Squared(), 0.1), Exact(method))
        found.append(fit.parameters)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-15 if method == "qr" else 1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_columns_that_are_combinations_are_named_and_the_smallest_w_is_taken(rows, method):
    X, y = rows
    X = np.column_stack([X, X[:, 0] - 2 * X[:, 1], np.full(600, 7.0)])
    fit = minimise(Objective(lay_out(X, y, block_rows=64), losses.Squared()), Exact(method))
    reference = Reference().fit(X, y)
    np.testing.assert_allclose(fit.w, reference.coef_, rtol=1e-7, atol=1e-9)
    assert fit.state.rank == 7 and fit.status is Status.CONVERGED
    assert "rank 7 of 9: columns" in fit.note and "8 are combinations" in fit.note
    with pytest.raises(SolverError, match="not determined: rank 7 of 9"):
        fit.inference()


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_column_is_as_good_as_not_there(rows, method):
    X, y = rows
    with_constant = np.column_stack([X[:, :3], np.full(600, 0.1), X[:, 3:]])
    s = np.random.default_rng(0).uniform(0, 1, 600)
    for block_rows in (600, 37):
        fit = minimise(Objective(lay_out(with_constant, y, s, block_rows=block_rows), losses.Squared()), Exact(method))
        without = minimise(Objective(lay_out(X, y, s, block_rows=block_rows), losses.Squared()), Exact(method))
        assert abs(fit.w[3]) < 1e-14 and "columns 3 are" in fit.note
        np.testing.assert_allclose(np.delete(fit.w, 3), without.w, rtol=1e-9)
    flat = minimise(Objective(lay_out(X, np.full(600, 0.1), s, block_rows=37), losses.Squared()), Exact(method))
    np.testing.assert_allclose(flat.intercept, 0.1, rtol=1e-14)
    np.testing.assert_allclose(flat.w, 0.0, atol=1e-15)


def test_more_columns_than_rows(rows):
    X, y = rows[0][:5], rows[1][:5]
    for method in METHODS:
        fit = minimise(Objective(lay_out(X, y, block_rows=2), losses.Squared()), Exact(method))
        np.testing.assert_allclose(X @ fit.w + fit.intercept, y, rtol=1e-8)
        assert fit.state.rank == 4
    ridge = minimise(Objective(lay_out(X, y, block_rows=2), losses.Squared(), 1.0), Exact())
    assert ridge.state.rank == 7


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("method", ["auto", "qr"])
def test_next_to_no_penalty_leaves_w_in_the_space_of_few_rows(method, fit_intercept):
    """Off that space F is flat but for the penalty, 1e-25 of the largest curvature: what rounding puts there stays."""
    random = np.random.default_rng(3)
    X, y = 1e12 * random.standard_normal((3, 20)), random.standard_normal(3)
    fit = minimise(Objective(lay_out(X, y), losses.Squared(), 1.0, fit_intercept), Exact(method))
    centred = (X - X.mean(axis=0), y - y.mean()) if fit_intercept else (X, y)
    w = np.linalg.lstsq(*centred, rcond=1e-10)[0]  # within 1e-24 of it
    rounding = 1e13 * np.finfo(float).eps * np.linalg.norm(w)  # the condition of X with the penalty times that of w
    np.testing.assert_allclose(fit.w, w, rtol=0, atol=rounding)


def test_units_do_not_matter_for_the_rank(rows):
    X, y = rows
    units = 10.0 ** np.array([-12, 0, 9, 3, -5, 0, 7])
    for method in METHODS:
        plain, scaled = (
            minimise(Objective(lay_out(columns, y), losses.Squared()), Exact(method)) for columns in (X, X * units)
        )
        assert scaled.state.rank == 7 and np.isclose(scaled.state.condition, plain.state.condition)
        np.testing.assert_allclose(scaled.w * units, plain.w, rtol=1e-9)


def test_auto_turns_to_qr_where_the_condition_asks_for_it(rows):
    X, y = rows
    close = np.column_stack([X, X[:, 0] + 1e-6 * np.random.default_rng(0).standard_normal(600)])
    fit = minimise(Objective(lay_out(close, y, block_rows=64), losses.Squared()), Exact())
    assert fit.state.method == "qr" and fit.state.condition > 1e4
    assert fit.note.startswith("gram -> qr: the condition is 9.")
    assert fit.rounds >= 4
    held = minimise(Objective(lay_out(close, y, block_rows=64), losses.Squared(), 100.0), Exact())
    assert held.state.method == "gram" and held.note == "" and held.rounds == 1


def test_float32_rows_are_summed_in_float64():
    X, y = (array.astype(np.float32) for array in load_diabetes(return_X_y=True))
    for method in METHODS:
        fit = minimise(Objective(lay_out(X, y, block_rows=64), losses.Squared()), Exact(method))
        np.testing.assert_allclose(fit.w, Reference().fit(X.astype(float), y.astype(float)).coef_, rtol=1e-9)


@pytest.mark.parametrize("library", LIBRARIES[1:])
@pytest.mark.parametrize("method", METHODS)
def test_arrays_of_other_libraries(library, method):
    X, y = load_diabetes(return_X_y=True)
    s = np.linspace(0, 2, len(y))
    expected = minimise(Objective(lay_out(X, y, s, block_rows=64), losses.Squared(), 1e-3), Exact(method))
    blocks = lay_out(library.asarray(X), y, s, block_rows=64)
    found = minimise(Objective(blocks, losses.Squared(), 1e-3), Exact(method))
    np.testing.assert_allclose(found.w, expected.w, rtol=1e-12)
    assert found.rounds == expected.rounds


def test_a_round_crosses_once_each_way():
    X, y = load_diabetes(return_X_y=True)
    blocks = lay_out(refusing.library.asarray(X), y, fold=np.arange(len(y)) % 2, block_rows=64)
    for kernel in (CentredMoments(), CentredTriangle(), FoldMoments(2)):
        refusing.counts.out = 0
        blocks.reduce(kernel, np.zeros(0))
        assert refusing.counts.out == 1
    refusing.counts.into = refusing.counts.out = 0
    blocks.reduce(ResidualProducts(), np.zeros(11))
    assert (refusing.counts.into, refusing.counts.out) == (1, 1)


@dataclass(frozen=True)
class Cube:
    name: ClassVar[str] = "cube"
    domain: ClassVar[tuple[float, float]] = (-np.inf, np.inf)
    outputs: ClassVar[int] = 1


def test_mistakes_are_named(rows):
    objective = Objective(lay_out(*rows), losses.Squared())
    with pytest.raises(SolverError, match="method is 'svd': give 'gram', 'qr', 'rows' or 'auto'"):
        Exact("svd")
    with pytest.raises(SolverError, match="reuse is 'all': give 'none' or 'gram'"):
        GradientDescent(reuse="all")
    for solver in (Exact(), GradientDescent(reuse="gram")):
        with pytest.raises(SolverError, match="needs the squared loss, this is cube"):
            minimise(Objective(lay_out(*rows), Cube()), solver)
        with pytest.raises(InputError, match="weights are all zero"):
            minimise(Objective(lay_out(*rows, np.zeros(600)), losses.Squared()), solver)
    with pytest.raises(SolverError, match="use solver='exact'"):
        minimise(objective, GradientDescent()).inference()
    with pytest.raises(SolverError, match="alpha is 2: use alpha=0"):
        Ridge(2.0).fit(*rows).fit_.inference()
    with pytest.raises(SolverError, match="8 rows leave no error to estimate"):
        minimise(Objective(lay_out(rows[0][:8], rows[1][:8]), losses.Squared()), Exact("qr")).inference()
    with pytest.raises(InputError, match="level is 95"):
        minimise(objective, Exact()).inference().interval(95)


def test_a_checkpoint_holds_the_solution(rows, tmp_path):
    objective = Objective(lay_out(*rows), losses.Squared(), 1.0)
    first = minimise(objective, Exact("qr"), checkpoint=Checkpoints(str(tmp_path), every=1))
    seen = []
    again = minimise(
        objective, Exact("qr"), checkpoint=Checkpoints(str(tmp_path), every=1, resume=True), callbacks=(seen.append,)
    )
    assert again.parameters.tobytes() == first.parameters.tobytes() and seen[0].iteration == 1
    assert again.state.note == first.state.note and again.state.summary.n_samples == 600


@pytest.mark.parametrize("momentum", ["nesterov", None])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("preconditioner", ["diagonal", None])
def test_gradient_descent_on_the_gram_matrix_has_the_same_iterates(rows, momentum, fit_intercept, preconditioner):
    X, y = rows[0] / 10, rows[1]
    objective = Objective(lay_out(X, y, block_rows=64), losses.Squared(), 2.0, fit_intercept)
    plain, reused = (
        minimise(
            objective,
            GradientDescent(momentum=momentum, preconditioner=preconditioner, reuse=reuse),
            tol=0,
            max_iter=40,
        )  # fmt: skip
        for reuse in ("none", "gram")
    )
    assert reused.rounds == 1 and plain.rounds > 40
    for ours, theirs in zip(reused.history, plain.history, strict=True):
        assert np.isclose(ours.value, theirs.value, rtol=1e-9)
        assert np.isclose(ours.gradient, theirs.gradient, rtol=1e-6, atol=1e-9 * theirs.value)
    np.testing.assert_allclose(reused.parameters, plain.parameters, rtol=1e-8)


@pytest.mark.parametrize("solver", [Exact("gram"), Exact("qr")])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_inference_is_that_of_statsmodels(solver, weighted, fit_intercept):
    X, y = load_diabetes(return_X_y=True)
    s = np.random.default_rng(0).uniform(0, 2, len(y)) if weighted else None
    found = LinearRegression(fit_intercept=fit_intercept, solver=solver).fit(X, y, s).fit_.inference()
    design = np.column_stack([X, np.ones(len(y))]) if fit_intercept else X
    theirs = (sm.WLS(y, design, weights=s) if weighted else sm.OLS(y, design)).fit(method="qr")
    np.testing.assert_allclose(found.estimate, theirs.params, rtol=1e-8)
    np.testing.assert_allclose(found.standard_error, theirs.bse, rtol=1e-9)
    np.testing.assert_allclose(found.t_value, theirs.tvalues, rtol=1e-8)
    np.testing.assert_allclose(found.p_value, theirs.pvalues, rtol=1e-7)
    np.testing.assert_allclose(np.column_stack(found.interval(0.9)), theirs.conf_int(0.1), rtol=1e-8)
    assert found.freedom == theirs.df_resid and np.isclose(found.deviation, np.sqrt(theirs.scale))


def test_inference_on_longley_is_that_of_statsmodels():
    longley = next(problem for problem in nist.problems() if problem.name == "longley")
    found = LinearRegression().fit(longley.X, longley.y).fit_.inference()
    theirs = sm.OLS(longley.y, longley.design).fit()  # its "qr" keeps fewer than eight digits of the errors
    for ours, reference in ((found.standard_error, theirs.bse), (found.p_value, theirs.pvalues)):
        np.testing.assert_allclose(np.roll(ours, 1), reference, rtol=1e-8)


def test_inference_of_several_targets_is_that_of_each():
    X, y = load_diabetes(return_X_y=True)
    Y = np.column_stack([y, np.sqrt(y)])
    found = LinearRegression().fit(X, Y).fit_.inference()
    for j in range(2):
        alone = LinearRegression().fit(X, Y[:, j]).fit_.inference()
        np.testing.assert_allclose(found.standard_error[:, j], alone.standard_error, rtol=1e-10)
        np.testing.assert_allclose(found.p_value[:, j], alone.p_value, rtol=1e-8)


@pytest.mark.parametrize("shape", [(442,), (442, 1), (442, 3)])
@pytest.mark.parametrize("wrap", [np.asarray, da.from_array])
def test_shapes_are_those_of_scikit_learn(shape, wrap):
    X, y = load_diabetes(return_X_y=True)
    Y = y if len(shape) == 1 else np.column_stack([y + j for j in range(shape[1])])
    reference = Reference().fit(X, Y)
    model = LinearRegression().fit(wrap(X), wrap(Y))
    assert model.coef_.shape == reference.coef_.shape
    assert np.shape(model.intercept_) == np.shape(reference.intercept_)
    np.testing.assert_allclose(model.coef_, reference.coef_, rtol=1e-8)
    np.testing.assert_allclose(np.asarray(model.predict(wrap(X))), reference.predict(X), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Sending large graph")
def test_the_bits_of_a_refined_solution_do_not_depend_on_the_cluster(clients):
    X, y, s = rows_of(5000, 6, 2, True)
    X[:, 5] = X[:, 4] + 1e-5 * X[:, 5]
    here = minimise(Objective(lay_out(X, y, s, block_rows=500), losses.Squared()), Exact())
    assert here.state.method == "qr"
    for workers in (1, 2, 3):
        with clients(workers).as_current():
            lazy = [da.from_array(array, chunks=(700, *array.shape[1:])) for array in (X, y, s)]
            there = minimise(Objective(lay_out(*lazy, block_rows=500), losses.Squared()), Exact())
        assert there.w.tobytes() == here.w.tobytes() and there.rounds == here.rounds
        assert there.inference().standard_error.tobytes() == here.inference().standard_error.tobytes()


@pytest.mark.parametrize("method", ["auto", "gram", "qr"])
@pytest.mark.parametrize("spread", [4, 8, 12])
def test_the_smallest_w_of_columns_of_any_units(spread, method):
    """Fewer rows than columns meet y; a column twice, or of zeros, changes no prediction."""
    random = np.random.default_rng(0)
    units = 10.0 ** np.linspace(-spread, spread, 8)
    few, y = random.standard_normal((3, 8)) * random.permutation(units), random.standard_normal(3)
    model = LinearRegression(fit_intercept=False, solver=Exact(method)).fit(few, y)
    np.testing.assert_allclose(few @ model.coef_, y, rtol=0, atol=1e-12)
    many, y = random.standard_normal((200, 8)) * units, random.standard_normal(200)
    expected = LinearRegression(solver=Exact(method)).fit(many, y).predict(many)
    for column in (many[:, 0], np.zeros(200)):
        more = np.column_stack([column, many])
        predicted = LinearRegression(solver=Exact(method)).fit(more, y).predict(more)
        np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["auto", "gram", "qr"])
def test_columns_far_from_zero_are_combinations_to_their_own_rounding(method):
    """A number that is added to columns changes the intercept, and not which columns depend on each other."""
    random = np.random.default_rng(0)
    hot = np.column_stack([np.eye(4)[random.integers(0, 4, 200)], random.standard_normal(200)])
    y = hot @ [1.0, 2.0, -1.0, 0.5, 3.0] + random.standard_normal(200)
    near, far = (LinearRegression(solver=Exact(method)).fit(X, y) for X in (hot, hot + [0.1e5, 0.3e5, 0.7e5, 0, 0]))
    np.testing.assert_allclose(far.coef_, near.coef_, rtol=0, atol=1e-8)
    assert far.fit_.state.rank == 4


def test_the_smallest_w_has_nothing_along_a_column_of_zeros():
    random = np.random.default_rng(0)
    units = 10.0 ** random.uniform(-18, -10, 60)
    X, y = random.standard_normal((20, 60)) * units, random.standard_normal(20)
    X[:, [7, 30]] = 0.0
    model = LinearRegression(solver=Exact("qr")).fit(X, y)
    assert np.abs(model.coef_[[7, 30]]).max() < 1e-12 * np.linalg.norm(model.coef_)
    centred = (X - X.mean(axis=0)) / 1e-10
    outside = model.coef_ - np.linalg.pinv(centred, rcond=1e-12) @ (centred @ model.coef_)
    assert np.linalg.norm(outside) < 1e-6 * np.linalg.norm(model.coef_)


def test_gram_says_where_it_loses_digits():
    random = np.random.default_rng(0)
    X = random.standard_normal((100, 3))
    X[:, 2] = X[:, 0] + 1e-5 * X[:, 2]
    fit = minimise(Objective(lay_out(X, X.sum(axis=1)), losses.Squared()), Exact("gram"))
    assert "gram is good up to 1e+03" in fit.note
