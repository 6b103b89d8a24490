"""How a fit ends where no step lowers F: at what rounding explains, or stalled above it; and what happens before."""

import array_api_strict
import numpy as np
import pytest
from problems import dense_block
from sklearn.exceptions import ConvergenceWarning

from dist_dot import LogisticRegression, Objective, Status, lay_out, losses, minimise
from dist_dot.jobs.cli import EXIT
from dist_dot.kernels.passes import Roundings
from dist_dot.rows.arrays import Parameters, to_host
from dist_dot.solvers import LBFGS, GradientDescent, Newton

LOSSES = [
    losses.Squared(),
    losses.Logistic(),
    losses.Poisson(),
    losses.Gamma(),
    losses.Huber(1.0),
    losses.Softmax(3),
]


def rows(loss, n=300, p=4, dtype="float64"):
    random = np.random.default_rng(0)
    X = random.standard_normal((n, p))
    z = X @ random.standard_normal(p) / 2
    y = {
        "logistic": lambda: (z > random.logistic(size=n)).astype(float),
        "poisson": lambda: random.poisson(np.exp(z)).astype(float),
        "gamma": lambda: np.exp(z) * random.gamma(2.0, size=n) + 1e-3,
        "softmax": lambda: np.argmax(X[:, :3] + random.gumbel(size=(n, 3)), axis=1).astype(float),
    }.get(loss.name, lambda: z + random.standard_normal(n))()
    return X.astype(dtype), y.astype(dtype)


class Stuck(LBFGS):
    """L-BFGS that finds no step."""

    def step(self, objective, state):
        return state


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("alpha", [0.5, 100.0])
def test_a_gradient_is_rounding_at_the_minimum_and_not_beside_it(loss, dtype, fit_intercept, alpha):
    X, y = rows(loss, dtype=dtype)
    for columns, units in ((X, 1.0), (X * 10.0 ** np.arange(-4, 4, 2.0), 10.0 ** np.arange(-4, 4, 2.0))):
        blocks = lay_out(columns.astype(dtype), y, block_rows=64)
        objective = Objective(blocks, loss, alpha, fit_intercept, scale=np.ones(4) * units)
        best = minimise(objective, Newton(), tol=1e-15, max_iter=50)
        assert best.status in (Status.CONVERGED, Status.AT_ROUNDING, Status.MAX_ITER)
        at = best.state.parameters
        assert objective.is_rounding(at, best.state.gradient)
        off = at * (1.0 + (1e-6 if dtype == "float64" else 3e-2))
        gradient = objective.value_and_gradient(off)[1]
        assert not objective.is_rounding(off, gradient)
        assert minimise(objective, Stuck(), tol=1e-15, start=off).status is Status.STALLED
        at_end = minimise(objective, Stuck(), tol=1e-15, start=at)
        assert at_end.status in (Status.CONVERGED, Status.AT_ROUNDING)


def test_far_columns_may_be_rounded_more():
    """The gradient of columns at 1e6 deviations is rounding where that of columns near 0 would not be."""
    X, y = rows(losses.Logistic())
    near, far = (Objective(lay_out(X + by, y), losses.Logistic(), 1.0) for by in (0.0, 1e6))
    at = minimise(near, Newton(), tol=1e-14).parameters
    moved = at + np.append(np.full(4, 1e-9), 0.0)
    assert not near.is_rounding(moved, near.value_and_gradient(moved)[1])
    there = np.append(moved[:4], moved[4] - 1e6 * moved[:4].sum())
    assert far.is_rounding(there, far.value_and_gradient(there)[1])


def test_what_is_no_rounding_in_some_units():
    """A small column beside a large one; an intercept beside a small column far from 0; and z that is lost."""
    X, y = rows(losses.Logistic())
    mixed = Objective(lay_out(X * [1.0, 1.0, 1.0, 1e6], y), losses.Logistic(), 0.0)
    at = minimise(mixed, Newton(), tol=1e-14).state
    assert mixed.is_rounding(at.parameters, at.gradient)
    assert not mixed.is_rounding(at.parameters, at.gradient + [1e-9, 0.0, 0.0, 0.0, 0.0])

    tiny = 1e-9 * (X[:, :1] + 1e6)
    far = Objective(lay_out(tiny, y), losses.Logistic(), 1e-30)
    at = np.append(0.0, far.null_model()[1][-1])
    gradient = 3e-10 * np.append(tiny.mean(), 1.0)  # all of it is the intercept's
    assert not far.is_rounding(at, gradient) and far.is_rounding(at, 1e-3 * gradient)

    twice = np.column_stack([X, X[:, 0]])
    lost = Objective(lay_out(twice, y), losses.Logistic(), 0.0)
    at = np.array([1e20, 0.0, 0.0, 0.0, -1e20, 0.0])
    assert not lost.is_rounding(at, lost.value_and_gradient(at)[1])


def test_a_fit_that_ends_at_max_iter_may_be_as_exact_as_rounding_allows():
    """A gradient that shrinks fivefold with each step, until there are no more steps."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((200, 4)))[0]
    y = Q @ np.ones(4) + np.random.default_rng(1).standard_normal(200)
    objective = Objective(lay_out(Q, y), losses.Squared(), 0.0, fit_intercept=False)
    by = GradientDescent(0.8, momentum=None, preconditioner=None)
    ends = [minimise(objective, by, tol=1e-30, max_iter=steps).status for steps in range(10, 40)]
    first = ends.index(Status.AT_ROUNDING)
    assert first >= 10 and set(ends[:first]) == {Status.MAX_ITER}
    assert set(ends[first:]) <= {Status.AT_ROUNDING, Status.CONVERGED}
    assert minimise(objective, by, tol=0.0, max_iter=30).status is Status.MAX_ITER


def test_constant_columns_and_a_constant_y_take_few_steps():
    y = rows(losses.Logistic())[1]
    constant = np.full((300, 8), 50.0) * np.arange(1.0, 9.0)
    for wrap in (np.asarray, array_api_strict.asarray):
        objective = Objective(lay_out(wrap(constant), wrap(y), block_rows=64), losses.Logistic(), 1e4)
        fit = minimise(objective, Newton(), tol=1e-12, start=np.append(np.zeros(8), 3.0))
        assert fit.status is Status.CONVERGED and fit.n_iter < 15
    X = rows(losses.Squared())[0] + 10.0
    for value in (0.1, 0.3, 0.7, 1e-6, 3.3):
        objective = Objective(lay_out(X, np.full(300, value)), losses.Squared(), 1.0)
        fit = minimise(objective, GradientDescent(), start=np.ones(5))
        assert fit.status is Status.CONVERGED and fit.n_iter < 35


def test_a_stalled_fit_says_so():
    X, y = rows(losses.Logistic())
    with pytest.warns(ConvergenceWarning, match="no step lowers F any more, though the gradient is larger"):
        model = LogisticRegression(solver=Stuck()).fit(X, y)
    assert model.fit_.status is Status.STALLED and model.n_iter_ == 0
    assert set(EXIT) == set(Status) and EXIT[Status.STALLED] == EXIT[Status.MAX_ITER] == 3


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [0, 1, 101])
def test_what_rounding_may_do_to_a_gradient(loss, weighted, n):
    """To first order, with every sign against it: against the formula, and in other libraries."""
    X, y = rows(loss, max(n, 1))
    X, y = X[:n], y[:n]
    s = np.linspace(0.0, 2.0, n) if weighted else None
    k, centre = loss.outputs, np.array([0.5, -0.25, 0.0, 2.0])
    at = np.random.default_rng(1).standard_normal((k, 5))
    found = Roundings(loss, tuple(centre), 0.0)(dense_block(X, y, s), Parameters(at.ravel()))

    Z = X @ at[:, :4].T + at[:, 4]
    size = abs(X) @ abs(at[:, :4].T) + abs(at[:, 4])
    target = y[:, None]
    if k > 1:
        q = loss.predict(Z)
        r = abs(loss.first(y, Z))
        moved = np.array([abs(loss.second(y[i], Z[i])) @ size[i] + q[i] for i in range(n)]).reshape(n, k)
    else:
        r = abs(loss.first(target, Z))
        moved = loss.second(target, Z) * size + abs(loss.first(target, Z) - loss.first(0 * target, Z))
    if weighted:
        r, moved = s[:, None] * r, s[:, None] * moved
    last = (r + moved).sum(axis=0)[:, None]
    about = np.hstack([moved.T @ abs(X - centre) + r.T @ abs(X), last])
    plain = np.hstack([(r + moved).T @ abs(X), last])
    np.testing.assert_allclose(found, np.concatenate([about.ravel(), plain.ravel()]), rtol=1e-11, atol=1e-12)

    arrays = (None if array is None else array_api_strict.asarray(array) for array in (X, y, s))
    other = Roundings(loss, tuple(centre), 0.0)(dense_block(*arrays, 0), Parameters(at.ravel()))
    np.testing.assert_allclose(to_host(other), found, rtol=1e-11, atol=1e-12)


def test_a_curvature_that_jumps_counts_where_rounding_may_take_a_row():
    """A row at a kink of the Huber loss: on the side without curvature its slope changes all the same."""
    X, y = np.array([[1.0]]), np.array([3.0])
    for gap, curved in ((1e-4, True), (1e-2, False)):
        at = np.array([3.0 + 1.0 + gap, 0.0])  # z is beyond the kink at y + 1 by the gap, and 4 unit changes it by 4e-3
        block, parameters = dense_block(X, y), Parameters(at)
        plain, near = (Roundings(losses.Huber(1.0), (0.0,), unit)(block, parameters) for unit in (0.0, 1e-3))
        z, slope, at_y = at[0], 1.0, 0.0  # the slope at y = 0 is 1 as well
        np.testing.assert_allclose(plain[0], at_y + slope)
        np.testing.assert_allclose(near[0], plain[0] + curved * z)


@pytest.mark.parametrize("wrap", [np.asarray, array_api_strict.asarray], ids=["numpy", "strict"])
@pytest.mark.parametrize("loss", [losses.Gamma(), losses.Poisson(), losses.Huber(1.0)], ids=lambda loss: loss.name)
def test_sums_that_overflow_are_no_warning(wrap, loss):
    """Line searches try such points, and see that F is not finite there: warnings are errors in these tests."""
    X, y = rows(loss)
    objective = Objective(lay_out(wrap(X), wrap(y), wrap(np.ones(300)), block_rows=7), loss)
    value, _ = objective.value_and_gradient(np.full(5, -1e306))
    assert not np.isfinite(value)
    objective.expansion(np.full(5, -1e306))


@pytest.mark.parametrize("spread", [0.0, 6.0])
def test_one_row_is_no_work_for_conjugate_gradients(spread):
    """Without an intercept all columns are constant there, and held by the penalty: two eigenvalues."""
    random = np.random.default_rng(0)
    X = random.standard_normal((1, 200)) * 10.0 ** np.linspace(0.0, spread, 200)
    for alpha in (1e-4, 1.0, 1e4):
        objective = Objective(lay_out(X, [2.0]), losses.Squared(), alpha, fit_intercept=False)
        fit = minimise(objective, Newton("cg"), tol=1e-9)
        expected = X[0] * 2.0 / (X[0] @ X[0] + alpha)
        np.testing.assert_allclose(fit.w, expected, rtol=1e-6, atol=1e-9 * abs(expected).max())
        assert fit.status is Status.CONVERGED and fit.rounds <= 20


def test_steps_without_curvature_where_f_is_rounding():
    """Classes far apart, of weights that differ by 1e7: F says nothing at 1e-4 of the reference, and slopes do."""
    random = np.random.default_rng(0)
    y = np.repeat([0.0, 1.0, 2.0], 17)[:50]
    X = random.standard_normal((50, 2)) + 8.0 * np.column_stack([y, y * y])
    s = np.where(y == 0, 1000.0, 1e-4)
    for alpha in (1e-4, 1e-2, 1.0):
        objective = Objective(lay_out(X, y, s), losses.Softmax(3), alpha)
        best = minimise(objective, Newton(), tol=1e-10)
        fit = minimise(objective, LBFGS(), tol=1e-6)
        assert best.status in (Status.CONVERGED, Status.AT_ROUNDING) and fit.status is Status.CONVERGED
        np.testing.assert_allclose(fit.value, best.value, rtol=1e-6)
