"""Solvers x problems with known optima and round counts, line search, what is chosen and what is noticed."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
from problems import categories, columns, optimum, problems

from dist_dot import Checkpoints, Objective, SolverError, Status, lay_out, losses, minimise
from dist_dot.errors import InputError
from dist_dot.rows.block import cut
from dist_dot.solvers import LBFGS, Exact, GradientDescent, Newton, choose
from dist_dot.solvers.conjugate import conjugate_gradients
from dist_dot.solvers.lbfgs import inverse_product
from dist_dot.solvers.linesearch import Line, search
from dist_dot.solvers.newton import factorise

SOLVERS = {
    "gradient": GradientDescent(),
    "lbfgs10": LBFGS(10),
    "lbfgs30": LBFGS(30),
    "newton": Newton("cholesky"),
    "cg": Newton("cg"),
}
# Rounds to tol = 1e-9, all of them counted; measured, and 10 % more.
ROUNDS = {
    "squared": (185, 40, 28, 4, 26),
    "logistic": (154, 31, 26, 8, 43),
    "logistic, rare categories": (181, 30, 25, 8, 48),
    "logistic, almost separable": (3200, 41, 44, 17, 112),
    "softmax": (321, 90, 62, 8, 80),
    "poisson": (459, 44, 36, 10, 47),
    "poisson, large means": (450, 55, 46, 18, 61),
    "gamma": (291, 38, 29, 10, 46),
    "huber": (224, 42, 26, 8, 23),
    "huber, two targets": (226, 87, 42, 8, 70),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ROUNDS)
def test_the_optimum_in_so_many_rounds(name, solver):
    limit = ROUNDS[name][list(SOLVERS).index(solver)]
    fit = minimise(problems()[name].objective(), SOLVERS[solver], tol=1e-9, max_iter=4000)
    assert fit.status is Status.CONVERGED
    assert abs(fit.value - optimum(name)) <= 1e-10 * abs(optimum(name))
    assert fit.rounds <= limit


def test_the_table_is_whole():
    assert list(ROUNDS) == list(problems())


@pytest.mark.parametrize("solver", SOLVERS)
def test_float32_ends_at_its_rounding(solver):
    X, y = columns(600, 7).astype("float32"), np.arange(600) % 2
    fit = minimise(Objective(lay_out(X, y, block_rows=100), losses.Logistic(), 1.0), SOLVERS[solver], tol=1e-12)
    best = minimise(Objective(lay_out(X.astype(float), y), losses.Logistic(), 1.0), Newton(), tol=1e-12)
    assert fit.status in (Status.CONVERGED, Status.AT_ROUNDING) and fit.n_iter < 400
    np.testing.assert_allclose(fit.value, best.value, rtol=1e-6)


@pytest.mark.parametrize("solver", [LBFGS(), Newton(), Newton("cg"), GradientDescent()])
@pytest.mark.parametrize("start", [-50.0, 30.0])
def test_a_start_far_away_is_no_end(solver, start):
    X = columns(300, 2, 0.3)
    y = np.random.default_rng(0).poisson(3.0, 300)
    objective = Objective(lay_out(X, y), losses.Poisson(), 0.1)
    fit = minimise(objective, solver, tol=1e-8, max_iter=3000, start=np.array([0.0, 0.0, start]))
    best = minimise(objective, Newton(), tol=1e-10)
    assert fit.value <= best.value + 1e-9 * abs(best.value)


@pytest.mark.parametrize("solver", [LBFGS(), Newton(), Newton("cg")])
def test_tol_zero_goes_to_the_last_digits(solver):
    fit = minimise(problems()["logistic"].objective(), solver, tol=0.0, max_iter=100)
    assert fit.status in (Status.AT_ROUNDING, Status.MAX_ITER) and fit.history[-1].relative < 1e-12


def test_columns_that_are_combinations_of_others_are_no_end():
    X = np.hstack([categories(300, 6), categories(300, 5, 1)])
    y = np.random.default_rng(0).integers(0, 2, 300)
    objective = Objective(lay_out(X, y), losses.Logistic(), 0.0)
    values = [
        minimise(objective, solver, tol=1e-10, max_iter=2000).value for solver in (Newton(), LBFGS(), Newton("cg"))
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-10)


def test_newton_keeps_a_factor_that_serves():
    """Near the minimum a round is a pass: the Hessian is asked for until a step has shrunk the gradient well."""
    objective = problems()["gamma"].objective()
    asked, reduce = [], objective.blocks.reduce
    objective.blocks.reduce = lambda kernel, at: asked.append(type(kernel).__name__) or reduce(kernel, at)
    minimise(objective, Newton(), tol=1e-9)
    assert asked.count("Expansion") < len(asked) - 3 and "Expansion" not in asked[-3:]


def test_divergence_is_noticed_early():
    wild = GradientDescent(learning_rate=1.0, momentum=None, preconditioner=None)
    fit = minimise(problems()["squared"].objective(), wild, max_iter=500)
    assert fit.status is Status.DIVERGED and fit.n_iter < 10 and np.isfinite(fit.value)


class Line1D:
    """F(t) as an objective of one number: the line search sees nothing else."""

    def __init__(self, value, first):
        self.functions, self.rounds = (value, first), 0
        self.blocks = self
        self.cuts = self
        self.dtype = "float64"
        self.convex = True

    def value_and_gradient(self, at):
        self.rounds += 1
        value, first = (float(function(at[0])) for function in self.functions)
        return value, np.array([first])

    def values_and_gradients(self, points):
        self.rounds += 1
        value, first = (np.array([function(point[0]) for point in points]) for function in self.functions)
        return value, first[:, None]


@pytest.mark.parametrize(
    ("value", "first", "length", "rounds"),
    [
        (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1), 1.0, 1),  # the first step is good
        (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1), 12.0, 2),  # too long
        (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1), 0.04, 2),  # too short: 2, 4, 8, 16 times it
        (lambda t: np.exp(min(t, 300)) - 5 * t, lambda t: np.exp(min(t, 300)) - 5, 200.0, 3),
        (lambda t: 1e12 + (t - 1) ** 2 / 1e9, lambda t: 2 * (t - 1) / 1e9, 1.5, 1),  # the values are all rounding
    ],
)
def test_line_search(value, first, length, rounds):
    objective = Line1D(value, first)
    line = Line(objective, np.zeros(1), np.full(1, length), float(value(0.0)), float(first(0.0)) * length)
    trial = line.one(1.0)
    trial = trial if line.accepts(trial) else search(line, trial)
    assert trial is not None and abs(trial.slope) <= 0.9 * abs(line.slope)
    assert objective.rounds == rounds


def test_a_line_that_only_climbs_ends():
    objective = Line1D(abs, lambda t: 1.0)
    line = Line(objective, np.zeros(1), np.ones(1), 0.0, -1.0)
    assert search(line, line.one(1.0)) is None and objective.rounds == 8


def test_the_two_loop_recursion_is_the_bfgs_formula():
    random = np.random.default_rng(0)
    A = random.standard_normal((6, 6))
    A = A @ A.T + np.eye(6)
    steps = random.standard_normal((3, 6))
    changes = steps @ A
    H = np.eye(6) * (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y in zip(steps, changes, strict=True):
        left = np.eye(6) - np.outer(s, y) / (s @ y)
        H = left @ H @ left.T + np.outer(s, s) / (s @ y)
    g = random.standard_normal(6)
    np.testing.assert_allclose(inverse_product(steps, changes, g), H @ g, rtol=1e-10)


def test_pairs_that_mislead_are_forgotten():
    objective, solver = problems()["logistic"].objective(), LBFGS(2)
    state = solver.init(objective, np.zeros(objective.n_parameters))
    lies = np.random.default_rng(0).standard_normal((2, objective.n_parameters))
    lied = replace(state, steps=lies, changes=-lies, count=2)  # curvature < 0: an uphill direction
    forgotten = solver.step(objective, lied)
    assert forgotten.count == 0 and forgotten.value == state.value
    assert solver.step(objective, forgotten).value < state.value


@pytest.mark.parametrize("solver", SOLVERS)
def test_resume_gives_the_bits_of_no_interruption(solver, tmp_path):
    objective = problems()["softmax"].objective()
    straight = minimise(objective, SOLVERS[solver], tol=1e-9)
    first = Checkpoints(str(tmp_path), every=1)
    minimise(objective, SOLVERS[solver], tol=1e-9, max_iter=3, checkpoint=first)
    resumed = minimise(objective, SOLVERS[solver], tol=1e-9, checkpoint=replace(first, resume=True))
    assert resumed.parameters.tobytes() == straight.parameters.tobytes()
    assert [p.value for p in resumed.history] == [p.value for p in straight.history]
    with pytest.raises(InputError, match="its scale differ"):
        minimise(objective.standardized(), SOLVERS[solver], checkpoint=replace(first, resume=True))


@pytest.mark.filterwarnings("ignore:Sending large graph")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["softmax", "poisson, large means", "huber, two targets"])
def test_the_bits_do_not_depend_on_the_cluster(name, solver, clients):
    problem = problems()[name]
    here = minimise(problem.objective(), SOLVERS[solver], tol=1e-6, max_iter=60)
    lazy = (da.from_array(array, chunks=(123, *array.shape[1:])) for array in (problem.X, problem.y))
    with clients(2).as_current():
        there = minimise(
            Objective(lay_out(*lazy, problem.weight, block_rows=100), problem.loss, problem.alpha),
            SOLVERS[solver],
            tol=1e-6,
            max_iter=60,
        )
    assert there.where == "a Dask cluster of 2 workers" and there.rounds == here.rounds
    assert there.parameters.tobytes() == here.parameters.tobytes()


def test_a_search_without_end_returns_the_lowest_of_all_its_trials(monkeypatch):
    """The minimum of one row's Huber loss is far away, and too narrow for any trial to be accepted."""
    tried = []
    several = Line.several
    monkeypatch.setattr(Line, "several", lambda line, steps: tried.append(several(line, steps)) or tried[-1])
    objective = Objective(lay_out(np.ones((1, 1)), np.array([1e12 / 3])), losses.Huber(1e-9), fit_intercept=False)
    start = np.zeros(1)
    value, gradient = objective.value_and_gradient(start)
    line = Line(objective, start, -1e9 * gradient, value, -1e9 * float(gradient @ gradient))
    found = search(line, line.one(1.0))
    before = [trial for trials in tried for trial in trials if trial.slope < 0]
    assert len(tried) == 7 and found.value == min(trial.value for trial in before) < value
    assert found.value in [trial.value for trial in tried[-1]]


def test_conjugate_gradients():
    random = np.random.default_rng(0)
    A = random.standard_normal((20, 20))
    A, b = A @ A.T + 0.1 * np.eye(20), random.standard_normal(20)
    d = conjugate_gradients(lambda v: A @ v, b, 1e-8)
    assert np.linalg.norm(A @ d - b) <= 1e-8 * np.linalg.norm(b)
    np.testing.assert_array_equal(conjugate_gradients(lambda v: 0 * v, b, 0.1), b)


def test_the_factor_is_that_of_the_hessian():
    objective = problems()["logistic"].objective()
    hessian = objective.hessian(np.zeros(objective.n_parameters))
    L, dependent = factorise(hessian, objective)
    np.testing.assert_allclose(L @ L.T, hessian, rtol=1e-9, atol=1e-9)
    assert not np.triu(L, 1).any() and not dependent.size
    with pytest.raises(SolverError, match="not finite"):
        factorise(np.full((2, 2), np.nan), objective)


def test_the_factor_has_curvature_where_the_hessian_has_none():
    objective = problems()["logistic"].objective()
    hessian = objective.hessian(np.zeros(objective.n_parameters))
    twice = np.vstack([hessian, hessian[:1]])[:, [*range(len(hessian)), 0]]  # a column and its copy
    L, dependent = factorise(twice, objective)
    flat = np.zeros(len(twice))
    flat[[0, -1]] = np.sqrt([0.5, 0.5]) * [1, -1]
    np.testing.assert_allclose(flat @ L @ L.T @ flat, hessian[0, 0], rtol=1e-9)
    other = np.eye(len(twice)) - np.outer(flat, flat)
    np.testing.assert_allclose(other @ L @ L.T @ other, other @ twice @ other, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(dependent, [len(twice) - 1])


@pytest.mark.parametrize(
    ("n", "p", "loss", "kind"),
    [
        (300, 5, losses.Squared(), Exact),
        (300, 5, losses.Logistic(), Newton),
        (300, 30, losses.Softmax(3), Newton),
        (300, 400, losses.Softmax(3), LBFGS),
        (300, 700, losses.Softmax(3), LBFGS),
        (72, 5, losses.Softmax(90), LBFGS),
        (1797, 64, losses.Softmax(10), Newton),
        (30, 2500, losses.Poisson(), LBFGS),
        (30, 1500, losses.Squared(), Exact),
        (1600, 1500, losses.Squared(), Exact),
        (30, 2500, losses.Squared(), Exact),
        (2200, 2100, losses.Squared(), LBFGS),
    ],
)
def test_what_is_chosen_and_why(n, p, loss, kind):
    choice = choose("auto", Objective(lay_out(np.ones((n, p)), np.ones(n)), loss))
    assert isinstance(choice.solver, kind)
    assert f"n = {n:,}, p = {p:,}" in choice.why and choice.why in str(choice)


def test_large_hessians_are_not_chosen():
    objective = Objective(lay_out(np.ones((1, 1500)), np.ones(1)), losses.Logistic())
    object.__setattr__(objective.blocks.cuts, "n_samples", 10**7)
    assert choose("auto", objective).solver == LBFGS(30)


@pytest.mark.parametrize(
    ("n", "p", "loss", "kind"),
    [
        (10_500_000, 128, losses.Squared(), Exact),
        (10_500_000, 128, losses.Logistic(), LBFGS),
        (84_000_000, 16, losses.Poisson(), LBFGS),
        (84_000_000, 16, losses.Softmax(3), LBFGS),
        (1_000_000, 4, losses.Logistic(), LBFGS),
        (10_000, 4, losses.Logistic(), Newton),
    ],
)
def test_what_is_chosen_on_a_gpu(n, p, loss, kind):
    """There reading is cheap, and Hessians are bound by what each block costs."""
    objective = Objective(lay_out(np.ones((1, p), "float32"), np.ones(1)), loss)
    object.__setattr__(objective.blocks, "on_device", True)
    object.__setattr__(objective.blocks, "cuts", cut(n, p, "float32"))
    choice = choose("auto", objective)
    assert isinstance(choice.solver, kind) and ("on a GPU" in choice.why) == (kind is not Exact)


def test_the_fit_says_which_solver():
    objective = problems()["logistic"].objective()
    assert "Newton" in minimise(objective).solver and "10 Hessians" in minimise(objective).solver
    assert minimise(objective, "lbfgs").solver.startswith("LBFGS(memory=10")
    with pytest.raises(SolverError, match="unknown solver 'newtown': did you mean 'newton'"):
        minimise(objective, "newtown")


@pytest.mark.parametrize("make", [lambda: LBFGS(0), lambda: LBFGS(preconditioner="full"), lambda: Newton("qr")])
def test_options_are_checked(make):
    with pytest.raises(SolverError, match="give"):
        make()


def test_newton_names_columns_that_are_combinations_of_others():
    random = np.random.default_rng(0)
    X = random.standard_normal((400, 4))
    X[:, 3] = X[:, 0] - 2 * X[:, 1]
    y = (random.random(400) < 0.4).astype(float)
    loss = losses.Logistic()
    for rows, alpha, named in (
        (X, 0.0, "column 3;"),
        (X * [1, 1e8, 1e-8, 1], 0.0, "column 3;"),
        (np.hstack([X[:, :2], categories(400, 4)]), 0.0, "the intercept;"),
        (X, 1e-3, ""),
        (X[:, :3], 0.0, ""),
        (X[:, :3] + 1e4, 0.0, ""),
    ):
        for dtype in ("float64", "float32"):
            note = minimise(Objective(lay_out(rows.astype(dtype), y), loss, alpha), Newton(), tol=1e-4).note
            assert named in note and bool(named) == bool(note)
    softmax = Objective(lay_out(X, random.integers(0, 3, 400)), losses.Softmax(3))
    assert minimise(softmax, Newton(), tol=1e-4).note.startswith(
        "combinations of other columns, to rounding: column 3;"
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_the_classes_of_softmax_have_in_common_is_zero(solver, alpha, fit_intercept, dtype):
    """The same number added to all z of a row changes no probability: of all such W the penalty's is the smallest."""
    random = np.random.default_rng(0)
    X = random.standard_normal((400, 5)).astype(dtype) + 1
    y = np.argmax(X[:, :4] + random.gumbel(size=(400, 4)), axis=1)
    objective = Objective(lay_out(X, y), losses.Softmax(4), alpha, fit_intercept)
    fit = minimise(objective, SOLVERS[solver], tol=1e-6, max_iter=3000)
    assert fit.status is Status.CONVERGED
    size = (1e-12 if dtype == "float64" else 1e-5) * np.abs(fit.w).max()
    np.testing.assert_allclose(fit.w.sum(axis=1), 0.0, atol=size)
    np.testing.assert_allclose(np.sum(fit.intercept), 0.0, atol=size)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_newton_goes_to_the_last_digits_of_softmax(alpha):
    """Quadratic convergence, and steps that keep the factor: not a thousand of them along what F does not see."""
    random = np.random.default_rng(0)
    X = random.standard_normal((500, 6))
    y = np.argmax(X[:, :4] + random.gumbel(size=(500, 4)), axis=1)
    objective = Objective(lay_out(X, y), losses.Softmax(4), alpha)
    fit = minimise(objective, Newton(), tol=1e-12)
    assert fit.status is Status.CONVERGED and fit.n_iter <= 10
    ahead = minimise(objective, Newton(), tol=1e-10, start=np.arange(28.0) / 10)
    assert ahead.n_iter <= 10
    np.testing.assert_allclose(ahead.w, fit.w, rtol=0, atol=1e-8)
    np.testing.assert_allclose(ahead.intercept, fit.intercept, rtol=0, atol=1e-8)
