"""An offset is a column of X whose coefficient is 1: in F, its derivatives and its minimum, however it is found."""

from dataclasses import replace

import array_api_strict
import dask.array as da
import numpy as np
import pytest
import refusing
import statsmodels.api as sm
from problems import Problem, dense_block, minimum
from scipy.optimize import approx_fprime

from dist_dot import Checkpoints, DataError, EarlyStopping, Objective, Status, lay_out, losses, minimise
from dist_dot.kernels.scores import Correct, RankCounts, SquaredErrors
from dist_dot.objective import Linear
from dist_dot.rounds.held_out import held_out
from dist_dot.rows.arrays import to_host
from dist_dot.solvers import LBFGS, Exact, GradientDescent, Newton
from dist_dot.training.cross_validation import CrossValidation
from dist_dot.training.loop import Loop
from dist_dot.training.together import CrossValidated, Together, minimise_path

pytestmark = pytest.mark.filterwarnings("ignore:Sending large graph")
LIBRARIES = [np, array_api_strict, refusing.library]
KINDS = [(np, "float32"), (array_api_strict, "float64"), (refusing.library, "float32")]
SOLVERS = {"gradient": GradientDescent(), "lbfgs": LBFGS(), "newton": Newton("cholesky"), "cg": Newton("cg")}
LEAST_SQUARES = {"gram": Exact("gram"), "qr": Exact("qr"), "exact": Exact(), "reuse": GradientDescent(reuse="gram")}
ALL = {**SOLVERS, "auto": "auto", **LEAST_SQUARES}
N, P = 301, 4


def table():
    random = np.random.default_rng(0)
    X, o = random.standard_normal((N, P)) + 0.5, random.standard_normal(N)
    z = X @ random.standard_normal(P) / 2 + o
    noise = 2 * random.standard_normal(N)
    mean = np.exp(z / 2)
    both = np.column_stack([z + noise, noise - z])
    of = {
        "squared": (losses.Squared(), z + noise),
        "squared, two targets": (losses.Squared(), both),
        "logistic": (losses.Logistic(), z + noise > 0),
        "logistic, two targets": (losses.Logistic(), both > 1),
        "poisson": (losses.Poisson(), random.poisson(mean)),
        "poisson, two targets": (losses.Poisson(), random.poisson(np.column_stack([mean, 1 / mean]))),
        "gamma": (losses.Gamma(), mean * random.gamma(2.0, size=N)),
        "huber": (losses.Huber(1.0), z + noise),
        "huber, two targets": (losses.Huber(1.0), both),
        "softmax": (losses.Softmax(3), random.integers(0, 3, N)),
    }
    weight = random.uniform(0.1, 2, N)
    return {name: Problem(name, loss, X, np.asarray(y, float), 0.3, weight, True, o) for name, (loss, y) in of.items()}


PROBLEMS = table()
EACH = [
    (name, solver) for name in PROBLEMS for solver in ALL if name.startswith("squared") or solver not in LEAST_SQUARES
]


def share(found, expected):
    """The largest difference, as a share of the largest number."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def put(library, dtype, *arrays):
    cast = (None if array is None else array.astype(dtype) for array in arrays)
    return [array if library is np or array is None else library.asarray(array) for array in cast]


def laid_out(problem, offset, **options):
    return lay_out(problem.X, problem.y, problem.weight, offset=offset, block_rows=64, **options)


def fitted(problem, offset, solver, tol=1e-9, max_iter=3000, **options):
    objective = Objective(laid_out(problem, offset), problem.loss, problem.alpha, problem.fit_intercept)
    return minimise(objective, solver, tol=tol, max_iter=max_iter, **options)


@pytest.mark.parametrize(("library", "dtype"), [(np, "float64"), *KINDS])
@pytest.mark.parametrize(("weighted", "fit_intercept"), [(True, True), (False, False)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_f_and_its_derivatives_are_those_of_a_column_whose_coefficient_is_1(
    name, weighted, fit_intercept, dtype, library
):
    problem, random = PROBLEMS[name], np.random.default_rng(1)
    X, y, s, o, X_and_o = put(
        library,
        dtype,
        problem.X,
        problem.y,
        problem.weight if weighted else None,
        problem.offset,
        np.column_stack([problem.X, problem.offset]),
    )
    one = Objective(lay_out(X, y, s, offset=o, block_rows=160), problem.loss, 0.3, fit_intercept)
    free = np.append(np.ones(P), 0.0)  # the column has no penalty
    other = Objective(lay_out(X_and_o, y, s, block_rows=160), problem.loss, 0.3, fit_intercept, free)
    k, total = one.n_outputs, one.n_parameters
    kept = np.append(np.arange(P * k), np.arange((P + 1) * k, (P + 1) * k + total - P * k))
    square = np.ix_(kept, kept)
    limit = 1e-11 if dtype == "float64" else 3e-5

    def beside(parameters, coefficient=1.0):
        W, b = one.split(parameters)
        return other.join(np.vstack([W, np.full((1, k), coefficient)]), b)

    def agree(found, expected):
        for mine, its in zip(found, expected, strict=True):
            assert share(mine, its) <= limit

    def at_once(parameters):
        value, gradient = other.value_and_gradient(beside(parameters))
        return value, gradient[kept]

    points, direction = random.standard_normal((3, total)) / 2, random.standard_normal(total)
    agree(one.value_and_gradient(points[0]), at_once(points[0]))
    values, gradients = other.values_and_gradients(np.array([beside(point) for point in points]))
    agree(one.values_and_gradients(points), (values, gradients[:, kept]))
    for at in (points[0], np.zeros(total)):
        value, gradient, hessian = other.expansion(beside(at))
        agree(one.expansion(at), (value, gradient[kept], hessian[square]))
    agree([one.hessian(points[0])], [other.hessian(beside(points[0]))[square]])
    if fit_intercept:
        centre = problem.X.mean(axis=0)
        agree([one.hessian(points[0], centre)], [other.hessian(beside(points[0]), np.append(centre, 0.0))[square]])
    agree(
        [one.hessian_product(points[0], direction)],
        [other.hessian_product(beside(points[0]), beside(direction, 0.0))[kept]],
    )
    one.reference()  # with it a first evaluation might read y alone
    for at in (one.start(), np.zeros(total), one.null_model()[1], points[1]):
        agree(one.first_value_and_gradient(at), at_once(at))
    assert abs(one.explained(points[0]) - other.explained(beside(points[0]))) <= 20 * limit


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_gradient_by_finite_differences(name, fit_intercept):
    problem = PROBLEMS[name]
    objective = Objective(laid_out(problem, problem.offset), problem.loss, 0.3, fit_intercept)
    at = np.random.default_rng(2).standard_normal(objective.n_parameters) / 3
    slopes = approx_fprime(at, lambda v: objective.value_and_gradient(v)[0], 1e-6)
    assert share(objective.value_and_gradient(at)[1], slopes) < 1e-5


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_said_of_the_columns_does_not_hang_on_the_offset(weighted):
    problem = PROBLEMS["gamma"] if weighted else replace(PROBLEMS["gamma"], weight=None)
    one, other = (Objective(laid_out(problem, o), problem.loss, 0.3) for o in (problem.offset, None))
    for name, expected in vars(other.moments()).items():
        np.testing.assert_allclose(getattr(one.moments(), name), expected, rtol=1e-12)
    np.testing.assert_allclose(one.standardized().scale, other.standardized().scale, rtol=1e-12)


@pytest.mark.parametrize(("name", "solver"), EACH)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_minimum_is_the_one_of_scipy(name, fit_intercept, solver):
    problem = replace(PROBLEMS[name], fit_intercept=fit_intercept)
    fit = fitted(problem, problem.offset, ALL[solver])
    value, W, b = minimum(problem)
    assert fit.status is Status.CONVERGED and abs(fit.value - value) <= 1e-10 * abs(value)
    b = b - b.mean() if problem.loss.name == "softmax" else b
    np.testing.assert_allclose(fit.w.reshape(W.shape), W, rtol=0, atol=1e-6 * np.abs(W).max())
    np.testing.assert_allclose(np.atleast_1d(fit.intercept), b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("library", "dtype"), KINDS)
@pytest.mark.parametrize("solver", ["lbfgs", "newton", "cg"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_minimum_of_rows_of_other_kinds(name, solver, dtype, library):
    problem = PROBLEMS[name]
    rows = put(library, dtype, problem.X, problem.y, problem.weight, problem.offset)
    blocks = lay_out(*rows[:3], offset=rows[3], block_rows=64)
    fit = minimise(Objective(blocks, problem.loss, problem.alpha), SOLVERS[solver], tol=1e-8)
    value, W, b = minimum(problem)
    b = b - b.mean() if problem.loss.name == "softmax" else b
    close = 1e-6 if dtype == "float64" else 2e-4
    np.testing.assert_allclose(fit.value, value, rtol=close)
    np.testing.assert_allclose(fit.w.reshape(W.shape), W, rtol=0, atol=close * np.abs(W).max())
    np.testing.assert_allclose(np.atleast_1d(fit.intercept), b, rtol=0, atol=close)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("solver", LEAST_SQUARES)
@pytest.mark.parametrize("name", ["squared", "squared, two targets"])
def test_least_squares_is_that_of_y_without_the_offset(name, solver, library):
    problem = PROBLEMS[name]
    X, y, s, o = put(library, "float64", problem.X, problem.y, problem.weight, problem.offset)
    less = problem.y - problem.offset.reshape(-1, *[1] * (problem.y.ndim - 1))
    one, other = (
        minimise(Objective(blocks, losses.Squared(), 0.5), LEAST_SQUARES[solver], tol=1e-10)
        for blocks in (
            lay_out(X, y, s, offset=o, block_rows=64),
            lay_out(problem.X, less, problem.weight, block_rows=64),
        )
    )
    for found, expected in ((one.w, other.w), (one.intercept, other.intercept), (one.value, other.value)):
        assert share(found, expected) < 1e-12
    assert one.rounds == other.rounds


@pytest.mark.parametrize("alpha", [0.0, 1e-2])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("solver", [Exact("rows"), Exact(), LBFGS(30, "row_space")], ids=str)
def test_least_squares_of_wide_rows_too(solver, k, alpha):
    random = np.random.default_rng(3)
    X, y, o = random.standard_normal((40, 1100)), random.standard_normal((40, k)), 3 * random.standard_normal(40)
    s = random.uniform(0.5, 2, 40)
    one, other = (
        minimise(Objective(blocks, losses.Squared(), alpha), solver, tol=1e-9)
        for blocks in (lay_out(X, y, s, offset=o, block_rows=16), lay_out(X, y - o[:, None], s, block_rows=16))
    )
    assert share(one.w, other.w) < 1e-6 and share(one.intercept, other.intercept) < 1e-6


@pytest.mark.parametrize("solver", [LBFGS(), Newton("cg")], ids=str)
def test_other_losses_of_wide_rows_too(solver):
    random = np.random.default_rng(3)
    X, o = random.standard_normal((40, 1100)), random.standard_normal(40)
    y = random.poisson(np.exp(o)).astype(float)
    fit = minimise(Objective(lay_out(X, y, offset=o, block_rows=16), losses.Poisson(), 5.0), solver, tol=1e-9)
    beside, free = np.column_stack([X, o]), np.append(np.ones(1100), 0.0)
    other = Objective(lay_out(beside, y, block_rows=16), losses.Poisson(), 5.0, scale=free)
    value, gradient = other.value_and_gradient(np.concatenate([fit.w, [1.0], [fit.intercept]]))
    assert share(value, fit.value) < 1e-12
    assert np.abs(np.delete(gradient, 1100)).max() <= 1e-8 * np.abs(X.T @ (y - y.mean())).max()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("name", "constant"), [(name, 2.5 * (-1) ** place) for place, name in enumerate(PROBLEMS)])
def test_a_constant_more_is_an_intercept_less(name, constant, solver):
    problem = PROBLEMS[name]
    one, other = (fitted(problem, problem.offset + more, SOLVERS[solver]) for more in (0.0, constant))
    moved = 0.0 if problem.loss.name == "softmax" else constant
    np.testing.assert_allclose(other.w, one.w, rtol=0, atol=1e-7 * np.abs(one.w).max())
    np.testing.assert_allclose(np.add(other.intercept, moved), one.intercept, rtol=0, atol=1e-7)
    np.testing.assert_allclose(other.value, one.value, rtol=1e-9, atol=1e-9 * abs(constant * N))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_an_offset_of_zeros_is_none(name, solver):
    problem = PROBLEMS[name]
    one, other = (fitted(problem, o, SOLVERS[solver], 1e-11) for o in (np.zeros(N), None))
    assert share(one.w, other.w) < 1e-9
    np.testing.assert_allclose(one.intercept, other.intercept, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_classes_of_softmax_do_not_see_an_offset(fit_intercept, solver):
    problem = replace(PROBLEMS["softmax"], fit_intercept=fit_intercept)
    one, other = (fitted(problem, o, SOLVERS[solver], 1e-11) for o in (10 * problem.offset, None))
    assert share(one.w, other.w) < 1e-9 and abs(one.value - other.value) < 1e-9 * other.value


@pytest.mark.parametrize(
    ("name", "solver"), [case for case in EACH if case[0] in ("squared, two targets", "logistic", "poisson", "softmax")]
)
def test_the_bits_are_those_of_dask_chunks(name, solver):
    problem = PROBLEMS[name]
    solver = ALL[solver]
    here = fitted(problem, problem.offset, solver)
    X, y, s, o = (
        da.from_array(a, chunks=(rows, *a.shape[1:]))
        for a, rows in zip((problem.X, problem.y, problem.weight, problem.offset), (77, 64, 301, 10), strict=True)
    )
    for offset in (o, problem.offset):
        objective = Objective(lay_out(X, y, s, offset=offset, block_rows=64), problem.loss, problem.alpha)
        there = minimise(objective, solver, tol=1e-9, max_iter=3000)
        assert there.parameters.tobytes() == here.parameters.tobytes() and there.rounds == here.rounds


@pytest.mark.parametrize("name", ["squared", "poisson", "huber, two targets"])
def test_the_bits_do_not_depend_on_the_cluster(name, clients):
    problem = PROBLEMS[name]
    here = fitted(problem, problem.offset, "auto")
    X, *columns = (
        da.from_array(a, chunks=(77, *a.shape[1:])) for a in (problem.X, problem.y, problem.weight, problem.offset)
    )
    with clients(2).as_current():
        blocks = lay_out(X, *columns[:2], offset=columns[2], block_rows=64)
        there = minimise(Objective(blocks, problem.loss, problem.alpha), "auto", tol=1e-9, max_iter=3000)
    assert there.where == "a Dask cluster of 2 workers"
    assert there.parameters.tobytes() == here.parameters.tobytes()


@pytest.mark.parametrize("solver", SOLVERS)
def test_counts_by_exposure_are_those_of_statsmodels(solver):
    random = np.random.default_rng(4)
    X, exposure = random.standard_normal((500, 3)), random.uniform(0.1, 50, 500)
    y = random.poisson(exposure * np.exp(X @ [0.3, -0.2, 0.1] - 1)).astype(float)
    design = sm.add_constant(X)
    theirs = sm.GLM(y, design, family=sm.families.Poisson(), offset=np.log(exposure)).fit(tol=1e-14)
    loss = losses.Poisson()
    ours = minimise(Objective(lay_out(X, y, offset=np.log(exposure)), loss), SOLVERS[solver], tol=1e-11)
    np.testing.assert_allclose(np.append(ours.intercept, ours.w), theirs.params, rtol=1e-8)
    rates = minimise(Objective(lay_out(X, *loss.exposed(y, exposure)), loss), SOLVERS[solver], tol=1e-11)
    np.testing.assert_allclose(ours.parameters, rates.parameters, rtol=1e-8)


def test_gamma_with_an_offset_is_that_of_statsmodels():
    random = np.random.default_rng(5)
    X, o = random.standard_normal((500, 3)), random.standard_normal(500)
    y = np.exp(X @ [0.3, -0.2, 0.1] + o) * random.gamma(3.0, size=500)
    family = sm.families.Gamma(sm.families.links.Log())
    theirs = sm.GLM(y, sm.add_constant(X), family=family, offset=o).fit(tol=1e-14)
    ours = minimise(Objective(lay_out(X, y, offset=o), losses.Gamma()), tol=1e-11)
    np.testing.assert_allclose(np.append(ours.intercept, ours.w), theirs.params, rtol=1e-8)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (np.where(np.arange(N) == 207, np.nan, 0.0), "offset is nan.*row 207"),
        (np.where(np.arange(N) == 5, -np.inf, 0.0), "offset is -inf.*row 5"),
        (np.zeros(N - 1), r"offset has shape \(300,\)"),
        (np.zeros((N, 2)), r"offset has shape \(301, 2\)"),
        (np.zeros((N, 1)), r"offset has shape \(301, 1\)"),
        (np.array(1.0), "offset"),
        (np.full(N, "high"), "offset"),
        (np.full(N, 1j), "offset"),
    ],
)
def test_a_bad_offset_is_named(offset, words, lazy):
    problem = PROBLEMS["squared"]
    if lazy:
        offset = da.from_array(offset, chunks=50)
    with pytest.raises(DataError, match=words):
        lay_out(problem.X, problem.y, offset=offset, block_rows=64)


def test_offsets_of_other_dtypes_are_taken_as_numbers():
    problem = PROBLEMS["gamma"]
    whole = np.round(problem.offset)
    expected = fitted(problem, whole, "lbfgs").parameters
    for offset in (whole.astype(int), whole.astype("float32"), whole.tolist()):
        np.testing.assert_array_equal(fitted(problem, offset, "lbfgs").parameters, expected)
    with np.errstate(all="raise"):
        few = Objective(laid_out(replace(problem, X=problem.X.astype("float32")), whole), problem.loss, 0.3)
    assert few.blocks.cuts.dtype == "float32" and few.blocks.cuts.offset


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["logistic", "poisson", "huber, two targets", "softmax"])
def test_early_stopping_scores_rows_with_their_offset(name, solver):
    problem = PROBLEMS[name]
    held = np.asarray(held_out(dense_block(np.zeros((N, 1)), np.zeros(N)), 10))
    X, y, s, o = (a[~held] for a in (problem.X, problem.y, problem.weight, problem.offset))
    stopping = EarlyStopping(patience=1000)
    fit = fitted(problem, problem.offset, SOLVERS[solver], early_stopping=stopping)
    kept = minimise(Objective(lay_out(X, y, s, offset=o), problem.loss, 0.3), SOLVERS[solver], tol=1e-9, max_iter=3000)
    np.testing.assert_allclose(fit.w, kept.w, rtol=0, atol=1e-6 * np.abs(kept.w).max())
    X, y, s, o = (a[held] for a in (problem.X, problem.y, problem.weight, problem.offset))
    rows = Objective(lay_out(X, y, s, offset=o), problem.loss)
    at = rows.join(fit.w.reshape(P, -1), np.atleast_1d(fit.intercept))
    assert fit.history[-1].validation == pytest.approx(rows.value_and_gradient(at)[0] / s.sum(), rel=1e-10)


@pytest.mark.parametrize("solver", ["auto", LBFGS(), Newton()], ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_path_of_alphas_is_the_fits_one_by_one(name, solver):
    problem = PROBLEMS[name]
    objective = Objective(laid_out(problem, problem.offset), problem.loss)
    alphas = (0.1, 10.0)
    for fit, alpha in zip(minimise_path(objective, alphas, solver, tol=1e-9), alphas, strict=True):
        value, W, _ = minimum(replace(problem, alpha=alpha))
        np.testing.assert_allclose(fit.value, value, rtol=1e-10)
        np.testing.assert_allclose(fit.w.reshape(W.shape), W, rtol=0, atol=1e-6 * np.abs(W).max())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["logistic", "poisson", "huber", "softmax"])
def test_folds_are_fitted_and_scored_with_their_offset(name, library):
    problem, fold = PROBLEMS[name], np.arange(N) % 3
    X, y, s, o, f = put(library, "float64", problem.X, problem.y, problem.weight, problem.offset, fold)
    blocks = lay_out(X, y, s, offset=o, fold=f, block_rows=64)
    start = np.zeros((P + 1) * problem.loss.outputs)
    loops = tuple(Loop(Linear(problem.loss, 0.3), LBFGS(), 1e-9, 300, start=start) for _ in range(3))
    fits, scores = blocks.run(CrossValidated(Together(loops, (0, 1, 2)), problem.loss), lambda progress: False)
    for number, fit in enumerate(fits):
        kept = fold != number
        part = {key: getattr(problem, key)[kept] for key in ("X", "y", "weight", "offset")}
        _, W, _ = minimum(replace(problem, **part))
        np.testing.assert_allclose(fit.w.reshape(W.shape), W, rtol=0, atol=1e-6 * np.abs(W).max())
        X, y, s, o = (a[~kept] for a in (problem.X, problem.y, problem.weight, problem.offset))
        held = Objective(lay_out(X, y, s, offset=o), problem.loss)
        value = held.value_and_gradient(held.join(fit.w.reshape(P, -1), np.atleast_1d(fit.intercept)))[0]
        np.testing.assert_allclose(scores[number, 1], value, rtol=1e-9)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["squared", "squared, two targets"])
def test_rows_left_out_one_by_one_keep_their_offset(name, library):
    problem = PROBLEMS[name]
    X, y, s, o = put(library, "float64", problem.X, problem.y, problem.weight, problem.offset)
    less = problem.y - problem.offset.reshape(-1, *[1] * (problem.y.ndim - 1))
    one, other = (
        blocks.run(CrossValidation((1e-2, 1.0, 10.0), 0, True), lambda progress: False).path
        for blocks in (
            lay_out(X, y, s, offset=o, block_rows=64),
            lay_out(problem.X, less, problem.weight, block_rows=64),
        )
    )
    assert share(one.scores, other.scores) < 1e-12 and share(one.coef, other.coef) < 1e-12


@pytest.mark.parametrize("library", LIBRARIES)
def test_scores_are_those_of_z_with_the_offset(library):
    problem, random = PROBLEMS["logistic"], np.random.default_rng(6)
    y, Y = problem.y, PROBLEMS["squared, two targets"].y
    X, codes, targets, s, o = put(library, "float64", problem.X, y, Y, problem.weight, problem.offset)
    w, b = random.standard_normal(P), 0.1
    z, weight = problem.X @ w + b + problem.offset, problem.weight
    blocks = lay_out(X, codes, s, offset=o, block_rows=64)
    right = to_host(blocks.reduce(Correct(), np.append(w, b)))
    np.testing.assert_allclose(right, [weight.sum(), weight[(z > 0) == y].sum()], rtol=1e-12)
    edges = np.array([-1.0, 0.0, 0.7])
    counts = to_host(blocks.reduce(RankCounts(), np.concatenate([w, [b], edges])))
    places = np.searchsorted(edges, z)
    expected = [np.bincount(places[y == c], weight[y == c], 4) for c in (0, 1)]
    np.testing.assert_allclose(counts, np.concatenate(expected), rtol=1e-12)
    errors = to_host(
        lay_out(X, targets, s, offset=o, block_rows=64).reduce(SquaredErrors(), np.tile(np.append(w, b), 2))
    )
    expected = [weight.sum(), *(weight @ Y), *(weight @ (Y - z[:, None]) ** 2)]
    np.testing.assert_allclose(errors, expected, rtol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_resumed_run_has_the_bits_of_no_interruption(solver, tmp_path):
    problem = PROBLEMS["gamma"]
    straight = fitted(problem, problem.offset, SOLVERS[solver])
    checkpoints = Checkpoints(str(tmp_path))
    fitted(problem, problem.offset, SOLVERS[solver], max_iter=3, checkpoint=checkpoints)
    again = replace(checkpoints, resume=True)
    resumed = fitted(problem, problem.offset, SOLVERS[solver], checkpoint=again)
    assert resumed.parameters.tobytes() == straight.parameters.tobytes()


@pytest.mark.parametrize("size", [1e3, 1e6])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_large_offset_costs_its_rounding_and_no_more(solver, size):
    """z is then the sum of a large number and a small one: the gradient ends at the rounding of that."""
    problem = PROBLEMS["squared"]
    offset = problem.offset + size
    near = replace(problem, y=problem.y + offset)
    exact = fitted(replace(problem, y=near.y - offset), None, Exact())
    fit = fitted(near, offset, SOLVERS[solver])
    assert fit.status in (Status.CONVERGED, Status.AT_ROUNDING)
    np.testing.assert_allclose(fit.w, exact.w, rtol=0, atol=1e-7)


def test_the_gradient_at_the_minimum_of_a_large_offset_is_rounding():
    problem = PROBLEMS["squared"]
    offset = problem.offset + 1e8
    near = replace(problem, y=problem.y + offset)
    objective = Objective(laid_out(near, offset), losses.Squared(), 0.3)
    best = fitted(near, offset, Exact()).parameters
    assert objective.is_rounding(best, objective.value_and_gradient(best)[1])
    off = best + 1e-3
    assert not objective.is_rounding(off, objective.value_and_gradient(off)[1])
