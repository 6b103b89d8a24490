"""Another problem than a linear model through the same loop: the network of examples/layers.py, and smaller ones."""

import hashlib
import importlib.util
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import dask.array as da
import numpy as np
import pytest
from sklearn.datasets import load_digits

from dist_dot import Checkpoints, EarlyStopping, Objective, SolverError, Status, lay_out, losses, minimise
from dist_dot.errors import InputError
from dist_dot.kernels.kernel import Kernel
from dist_dot.objective import Linear
from dist_dot.problem import Smooth
from dist_dot.rounds.held_out import HeldOut
from dist_dot.solvers import LBFGS, Exact, GradientDescent, Newton, choose
from dist_dot.solvers.linesearch import CURVATURE, DECREASE, Line, search
from dist_dot.training.loop import Loop
from dist_dot.training.together import Together, minimise_path

EXAMPLE = Path(__file__).parent.parent / "examples" / "layers.py"
PLAIN = LBFGS(30, preconditioner=None)
ANY = "use LBFGS\\(preconditioner=None\\)"


@pytest.fixture(scope="module")
def layers():
    """The example as a module, whose classes travel with what is sent: workers cannot import it."""
    spec = importlib.util.spec_from_file_location("layers", EXAMPLE)
    module = sys.modules["layers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    yield module
    cloudpickle.unregister_pickle_by_value(module)
    del sys.modules["layers"]


def digits():
    X, y = load_digits(return_X_y=True)
    held = np.arange(len(y)) % 5 == 0
    return X[~held] / 16.0, y[~held], X[held] / 16.0, y[held]


def blocks(wrap=lambda array: array):
    X, y, _, _ = digits()
    return lay_out(wrap(X), wrap(y), block_rows=128)


@pytest.fixture(scope="module")
def straight(layers):
    """The fit of the example in this process."""
    return minimise(layers.Layers().bind(blocks()), PLAIN, tol=1e-2)


def test_the_gradient_of_the_network(layers):
    X, y, _, _ = digits()
    random = np.random.default_rng(0)
    rows = lay_out(X[:60], y[:60], random.uniform(0, 2, 60), block_rows=25)
    network = layers.Layers(hidden=3).bind(rows)
    at = network.start()
    gradient = network.value_and_gradient(at)[1]
    for direction in random.standard_normal((6, network.n_parameters)):
        up, down = (network.value_and_gradient(at + h * direction)[0] for h in (1e-6, -1e-6))
        np.testing.assert_allclose((up - down) / 2e-6, gradient @ direction, rtol=1e-6)
    penalised = minimise(replace(network.problem, alpha=1e9).bind(rows), PLAIN, max_iter=50).result
    assert np.abs(penalised.W).max() < 1e-6 and np.abs(penalised.c).max() > 0.1  # constants have no penalty


def test_the_network_recognises_digits(straight):
    _, _, X, y = digits()
    assert straight.status is Status.CONVERGED and straight.rounds < 120
    assert np.mean(straight.result.predict(X) == y) >= 0.95


@pytest.mark.filterwarnings("ignore:Sending large graph")
def test_the_bits_do_not_depend_on_the_cluster(layers, straight, clients):
    with clients(2).as_current():
        there = minimise(layers.Layers().bind(blocks(da.from_array)), PLAIN, tol=1e-2)
    assert "2 workers" in there.where and there.rounds == straight.rounds
    assert there.parameters.tobytes() == straight.parameters.tobytes()
    assert isinstance(there.result, layers.Network)
    assert there.result.V.tobytes() == straight.result.V.tobytes()


def test_the_example_loses_a_worker_and_no_bit(straight):
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=True, timeout=200)
    bits = hashlib.sha256(straight.parameters.tobytes()).hexdigest()[:16]
    assert done.stdout.count(f"coefficients {bits}") == 2, done.stdout
    assert "is killed" in done.stdout and "workers lost: 1; the coefficients have the bits" in done.stdout
    assert float(done.stdout.split()[-1]) >= 0.95
    assert len(EXAMPLE.read_text().splitlines()) < 150


def test_resume_gives_the_bits_of_no_interruption(layers, straight, tmp_path):
    network = layers.Layers().bind(blocks())
    first = Checkpoints(str(tmp_path), every=10)
    minimise(network, PLAIN, tol=1e-2, max_iter=23, checkpoint=first)
    again = replace(first, resume=True)
    resumed = minimise(network, PLAIN, tol=1e-2, checkpoint=again)
    assert resumed.parameters.tobytes() == straight.parameters.tobytes() and resumed.rounds == straight.rounds
    assert [p.value for p in resumed.history] == [p.value for p in straight.history]
    with pytest.raises(InputError, match="its network differ"):
        minimise(layers.Layers(alpha=2.0).bind(blocks()), PLAIN, checkpoint=again)
    with pytest.raises(InputError, match="its alpha, fit_intercept, loss, network differ"):
        minimise(Objective(blocks(), losses.Softmax(10)), PLAIN, checkpoint=again)


@pytest.mark.parametrize(
    ("solver", "needs"),
    [
        (LBFGS(), f"preconditioner='diagonal' needs the means and the spread of the columns .*: {ANY}"),
        (LBFGS(preconditioner="row_space"), f"preconditioner='row_space' needs the means .*: {ANY}"),
        ("lbfgs", f"preconditioner='diagonal' needs .*: {ANY}"),
        (Newton(), f"newton needs the Hessian of F, .* which network of two layers does not have: {ANY}"),
        (Newton("cg"), f"newton needs the Hessian of F.*: {ANY}"),
        (Exact(), f"exact needs the squared loss of a linear model, which network of two layers does not have: {ANY}"),
        (GradientDescent(), f"preconditioner='diagonal' needs .*: {ANY}"),
        (GradientDescent(preconditioner=None), "learning_rate='auto' needs a bound .* use a number, such as"),
        (GradientDescent(0.1, preconditioner=None, reuse="gram"), "reuse='gram' needs the squared loss of a linear"),
    ],
    ids=str,
)
def test_a_solver_refuses_before_the_first_round(layers, solver, needs):
    rows = blocks()
    with pytest.raises(SolverError, match=needs):
        minimise(layers.Layers().bind(rows), solver)
    assert rows.rounds == 0


def test_early_stopping_needs_a_loss_of_the_rows_held_out(layers):
    rows = blocks()
    with pytest.raises(SolverError, match="early stopping needs the loss of the rows held out, which network of two"):
        minimise(layers.Layers().bind(rows), PLAIN, early_stopping=EarlyStopping())
    assert rows.rounds == 0
    with pytest.raises(InputError, match="no rows are held out of these blocks"):
        Objective(rows, losses.Softmax(10)).held_out_loss(np.zeros(650))


def test_blocks_that_only_answer_rounds_are_named(layers):
    rows = HeldOut(blocks(), 10)
    with pytest.raises(InputError, match="HeldOut cannot run a loop: give an objective of the blocks of `lay_out`"):
        minimise(layers.Layers().bind(rows), PLAIN)
    with pytest.raises(InputError, match="HeldOut cannot run a loop"):
        minimise_path(Objective(HeldOut(blocks(), 10), losses.Squared()), [1.0])
    assert rows.rounds == 0


def test_a_start_of_another_length_is_named(layers):
    with pytest.raises(InputError, match=r"parameters have shape \(3,\), expected \(2410,\)"):
        minimise(layers.Layers().bind(blocks()), PLAIN, start=np.zeros(3))


def test_auto_is_the_solver_that_needs_nothing_more(layers):
    choice = choose("auto", layers.Layers().bind(blocks()))
    assert choice.solver == PLAIN and "2,410 parameters of network of two layers" in choice.why


def test_problems_pickle(layers):
    scale = np.arange(1.0, 4.0)
    linear = pickle.loads(pickle.dumps(Linear(losses.Huber(2.0), 1.5, False, scale)))
    assert (linear.loss, linear.alpha, linear.fit_intercept) == (losses.Huber(2.0), 1.5, False)
    assert linear.scale.tobytes() == scale.tobytes() and linear.name == "huber loss"
    problem = layers.Layers(hidden=3)
    assert pickle.loads(cloudpickle.dumps(problem)) == problem
    assert str(Loop(problem, PLAIN, 0.0, 1)) == "network of two layers by lbfgs"


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_the_parameters_of_a_linear_fit_are_the_flat_vector(rows, k, fit_intercept):
    X, y = rows
    Y = y if k == 1 else np.column_stack([y, -y, X[:, 0]])
    objective = Objective(lay_out(X, Y), losses.Squared(), 1.0, fit_intercept)
    fit = minimise(objective)
    assert fit.parameters.shape == (objective.n_parameters,) and fit.value == pytest.approx(
        objective.value_and_gradient(fit.parameters)[0]
    )
    np.testing.assert_array_equal(fit.parameters, objective.join(fit.w.reshape(7, -1), np.atleast_1d(fit.intercept)))
    assert fit.w.shape == ((7,) if k == 1 else (7, 3)) and np.shape(fit.intercept) == (() if k == 1 else (3,))
    assert np.any(fit.intercept) == fit_intercept
    assert (fit.result.w is fit.w, fit.result.intercept is fit.intercept) == (True, True)


@dataclass(frozen=True)
class Squares(Kernel):
    """(a, b) -> the sum over rows of ((y - a b)^2 - 1)^2, and its derivatives: several minima and saddles."""

    def __call__(self, block, parameters):
        a, b = parameters.host
        e = block.y - a * b
        slope = -4.0 * np.sum((e * e - 1.0) * e)
        return np.array([np.sum((e * e - 1.0) ** 2), slope * b, slope * a])


@dataclass(frozen=True)
class Products:
    begin: tuple[float, float]

    name = "products"

    @property
    def words(self):
        return {"products": self.begin}

    def bind(self, blocks):
        return ProductsOfRows(self, blocks)


class ProductsOfRows(Smooth[Products]):
    """What a user writes at least."""

    n_parameters = 2
    convex = False

    def start(self):
        return np.array(self.problem.begin)

    def value_and_gradient(self, parameters):
        sums = self.blocks.reduce(Squares(), parameters)
        return float(sums[0]), sums[1:]


def products(begin, y=3.0):
    return Products(begin).bind(lay_out(np.zeros((40, 1)), np.full(40, y), block_rows=7))


@pytest.mark.parametrize("solver", ["auto", LBFGS(preconditioner=None), GradientDescent(1e-4, preconditioner=None)])
def test_the_least_that_a_user_writes(solver):
    function = products((0.5, 0.4))
    fit = minimise(function, solver, tol=1e-8)
    assert fit.status is Status.CONVERGED and fit.value < 1e-8
    assert fit.result is fit.parameters and abs(3.0 - np.prod(fit.parameters)) == pytest.approx(1.0, abs=1e-5)
    assert fit.rounds == function.blocks.rounds


def test_the_start_does_not_decide_when_a_run_ends():
    """Most of the way is done: the gradient is small beside the one at the problem's own start."""
    far, near = products((0.5, 0.4)), np.array([1.41421, 1.41421])
    assert minimise(far, PLAIN, tol=1e-3, start=near).n_iter == 0


class Bounded(ProductsOfRows):
    """The same with a >= 0: a gradient that points out there violates nothing."""

    def violation(self, parameters, gradient):
        return np.where((parameters <= 0) & (gradient > 0), 0.0, gradient)


def test_the_stop_asks_the_problem_what_optimal_is():
    function = products((0.0, -0.5))
    gradient = function.value_and_gradient(function.start())[1]
    assert gradient[0] > 0 and gradient[1] == 0

    class Held(Products):
        def bind(self, blocks):
            return Bounded(self, blocks)

    fit = minimise(Held((0.0, -0.5)).bind(function.blocks), PLAIN)
    assert fit.status is Status.CONVERGED and fit.n_iter == 0 and fit.history[0].gradient == 0.0


def test_problems_share_a_host_with_linear_ones(layers):
    """Loops together need not be of one problem: each asks its own questions."""
    rows = blocks()
    loops = (Loop(layers.Layers(), PLAIN, 1e-2, 5), Loop(Linear(losses.Softmax(10), 1.0), LBFGS(), 1e-2, 5))
    both = rows.run(Together(loops), lambda progress: False)
    alone = [rows.run(loop, lambda progress: False) for loop in loops]
    for one, other in zip(both, alone, strict=True):
        assert one.parameters.tobytes() == other.parameters.tobytes()


class Wave:
    """F(t) = t^2 / 40 + sum_j a_j sin(c_j t + d_j), downhill at 0: a line with several minima."""

    def __init__(self, seed, convex=False):
        random = np.random.default_rng(seed)
        self.a, self.c, self.d = random.uniform(-1, 1, 4), random.uniform(0.5, 3, 4), random.uniform(0, 6, 4)
        self.sign = -1.0 if self.slope(0.0) > 0 else 1.0  # F(-t) where F climbs
        self.convex, self.rounds = convex, 0
        self.blocks = SimpleNamespace(cuts=SimpleNamespace(dtype="float64"))

    def value(self, t):
        return t * t / 40 + np.sum(self.a * np.sin(self.c * t + self.d))

    def slope(self, t):
        return t / 20 + np.sum(self.a * self.c * np.cos(self.c * t + self.d))

    def rounding(self, at):
        return 0.0

    def value_and_gradient(self, at):
        t = self.sign * at[0]
        return self.value(t), np.array([self.sign * self.slope(t)])

    def values_and_gradients(self, points):
        self.rounds += 1
        values, gradients = zip(*map(self.value_and_gradient, points), strict=True)
        return np.array(values), np.array(gradients)


def searched(seed, length, convex):
    """Return the line of a wave, and what a search finds there from a first step of this length."""
    wave = Wave(seed, convex)
    value, slope = wave.value_and_gradient(np.zeros(1))
    line = Line(wave, np.zeros(1), np.full(1, length), value, length * float(slope[0]))
    trial = line.one(1.0)
    return line, trial if line.accepts(trial) else search(line, trial)


@pytest.mark.parametrize("length", [0.01, 0.3, 1.0, 5.0, 40.0, 1000.0])
def test_a_line_with_several_minima(length):
    for seed in range(200):
        line, trial = searched(seed, length, convex=False)
        assert trial is not None, seed
        assert trial.value <= line.value + DECREASE * trial.step * line.slope, seed
        assert abs(trial.slope) <= CURVATURE * abs(line.slope), seed
        assert line.function.rounds <= 6


def test_what_is_taken_for_convex_may_lose_its_bracket():
    lost = 0
    for seed in range(200):
        for length in (0.3, 1.0):
            line, trial = searched(seed, length, convex=True)
            lost += trial is None or not line.accepts(trial)
    assert lost > 0


def test_only_what_rounding_hides_may_be_short_of_the_decrease():
    wave = Wave(0)
    line = Line(wave, np.zeros(1), np.ones(1), 1e12, -1.0)
    assert line.goes_on(line.trial(1.0, 1e12 + 0.5, np.array([-1.0])))
    plain = replace(line, value=1.0)
    assert plain.goes_on(plain.trial(1.0, 0.5, np.array([-1.0])))
    assert not plain.goes_on(plain.trial(1.0, 1.0, np.array([-1.0])))
    assert not plain.goes_on(plain.trial(1.0, 0.5, np.array([1.0])))
    assert not plain.goes_on(plain.trial(1.0, -np.inf, np.array([-1.0])))
