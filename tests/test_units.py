"""Where a fit stops: neither the unit of y, nor that of the columns, nor the start decides.

The expected values are what scaling y or a column does to a minimiser, in closed form, and what Newton's method in
long double finds.
"""

import numpy as np
import pytest
from problems import dense_block

from dist_dot import (
    DataError,
    GammaRegressor,
    LogisticRegressionCV,
    Objective,
    PoissonRegressor,
    Ridge,
    Status,
    lay_out,
    losses,
    minimise,
)
from dist_dot.kernels.passes import Curvature
from dist_dot.rows.arrays import Parameters
from dist_dot.solvers import LBFGS, Exact, GradientDescent, Newton

ITERATIVE = {"newton": Newton(), "cg": Newton("cg"), "lbfgs": LBFGS(), "gradient": GradientDescent()}
random = np.random.default_rng(0)
X = random.standard_normal((300, 4))
z = X @ [0.3, -0.2, 0.5, 0.1]
AMOUNTS, COUNTS = np.exp(z) * random.gamma(2.0, size=300), random.poisson(3 * np.exp(z)).astype(float)
LABELS = (random.random(300) < 1 / (1 + np.exp(-z))).astype(float)


@pytest.mark.parametrize("loss", [losses.Logistic(), losses.Softmax(3)])
def test_a_gradient_that_is_the_rounding_of_z_ends_a_run_soon(loss):
    """At 1e4 deviations L-BFGS went on for 400 .. 800 steps, each no closer than the one before."""
    y = np.clip(COUNTS, 0, 2) if loss.outputs > 1 else LABELS
    fit = minimise(Objective(lay_out(X + 1e4, y), loss, 1.0), LBFGS(), tol=1e-13, max_iter=2000)
    best = minimise(Objective(lay_out(X, y), loss, 1.0), Newton(), tol=1e-12)
    assert fit.status is Status.AT_ROUNDING and fit.n_iter < 100
    np.testing.assert_allclose(fit.w, best.w, rtol=0, atol=1e-9)


def newton(derivatives, rows, alpha, start, steps=60):
    """Return the minimiser of a penalised sum of losses of these rows, the last column of which is not penalised."""
    A, w = rows.astype(np.longdouble), np.array(start, np.longdouble)
    penalty = np.append(np.full(A.shape[1] - 1, alpha), 0.0).astype(np.longdouble)
    for _ in range(steps):
        first, second = derivatives(A @ w)
        # Float64 solves for the step: its error shrinks from step to step, and the gradient is exact.
        H = (A.T @ (second[:, None] * A) + np.diag(penalty)).astype(float)
        unit = 1 / np.sqrt(np.diag(H))
        step = unit * np.linalg.solve(unit[:, None] * H * unit, unit * (A.T @ first + penalty * w).astype(float))
        w = w - step
    return w.astype(float)


def poisson(y):
    return lambda z: (np.exp(z) - y, np.exp(z))


def logistic(y):
    return lambda z: (1 / (1 + np.exp(-z)) - y, 1 / (2 + np.exp(z) + np.exp(-z)))


@pytest.mark.parametrize("solver", ITERATIVE)
@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1e5, 1e6, 1e12])
def test_amounts_in_another_unit_have_the_same_coefficients(unit, solver):
    """ln(u y) = ln u + ln y: the intercept alone moves."""
    one = GammaRegressor(alpha=0.1, solver=ITERATIVE[solver], tol=1e-8).fit(X, AMOUNTS)
    other = GammaRegressor(alpha=0.1, solver=ITERATIVE[solver], tol=1e-8).fit(X, AMOUNTS * unit)
    assert other.fit_.status is Status.CONVERGED
    np.testing.assert_allclose(other.coef_, one.coef_, rtol=0, atol=1e-7)
    np.testing.assert_allclose(other.intercept_, one.intercept_ + np.log(unit), rtol=0, atol=1e-7)


@pytest.mark.parametrize("solver", ITERATIVE)
@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1e6])
def test_counts_in_another_unit_have_the_same_coefficients(unit, solver):
    """Half the deviance has the unit of y, and so has alpha."""
    one = PoissonRegressor(alpha=0.1, solver=ITERATIVE[solver], tol=1e-8).fit(X, COUNTS)
    other = PoissonRegressor(alpha=0.1 * unit, solver=ITERATIVE[solver], tol=1e-8).fit(X, COUNTS * unit)
    np.testing.assert_allclose(other.coef_, one.coef_, rtol=0, atol=1e-7)
    np.testing.assert_allclose(other.intercept_, one.intercept_ + np.log(unit), rtol=0, atol=1e-7)


@pytest.mark.parametrize("solver", ITERATIVE)
@pytest.mark.parametrize("loss", [losses.Poisson(), losses.Gamma()])
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_a_start_at_zero_and_no_intercept_end_at_the_minimum_too(unit, loss, solver):
    y = AMOUNTS * unit
    for rows, fit_intercept in ((X, True), (np.column_stack([X, np.ones(300)]), False)):
        fit = minimise(
            Objective(lay_out(rows, y), loss, 0.0, fit_intercept), ITERATIVE[solver], tol=1e-8, max_iter=3000
        )
        start = np.append(np.zeros(4), np.log(y.mean()))
        of_gamma = lambda z: (1 - y * np.exp(-z), y * np.exp(-z))  # noqa: E731
        derivatives = poisson(y) if loss == losses.Poisson() else of_gamma
        best = newton(derivatives, np.column_stack([X, np.ones(300)]), 0.0, start)
        found = fit.parameters[:5]
        np.testing.assert_allclose(found, best, rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", ITERATIVE)
@pytest.mark.parametrize("offset", [1e3, 1e6])
@pytest.mark.parametrize("loss", [losses.Squared(), losses.Huber(1.0)])
def test_y_far_from_zero_has_the_same_coefficients(loss, offset, solver):
    y = z + random.standard_normal(300)
    one = minimise(Objective(lay_out(X, y), loss, 1.0), Newton(), tol=1e-10)
    objective = Objective(lay_out(X, y + offset), loss, 1.0)
    other = minimise(objective, ITERATIVE[solver], tol=1e-7, start=objective.null_model()[1])
    np.testing.assert_allclose(other.w, one.w, rtol=0, atol=1e-6)
    np.testing.assert_allclose(other.intercept - offset, one.intercept, rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", ["newton", "cg", "lbfgs"])
@pytest.mark.parametrize(("dtype", "far"), [("float32", 1e3), ("float64", 1e6), ("float64", 1e8)])
@pytest.mark.parametrize("kind", [GammaRegressor, PoissonRegressor])
def test_columns_far_from_zero_have_the_coefficients_of_the_same_ones_centred(kind, dtype, far, solver):
    rows = (X + far * np.array([1.0, 0.0, -1.0, 2.0])).astype(dtype)
    y = AMOUNTS.astype(dtype)
    centred = rows.astype(float) - far * np.array([1.0, 0.0, -1.0, 2.0])
    best = kind(alpha=0.1, solver=Newton(), tol=1e-12).fit(centred, y.astype(float))
    model = kind(alpha=0.1, solver=ITERATIVE[solver], tol=1e-10).fit(rows, y)
    assert model.n_iter_ < (500 if solver == "lbfgs" else 40) and model.fit_.status in (
        Status.CONVERGED,
        Status.AT_ROUNDING,
    )
    # z is the difference of numbers of this size; its error is divided by the root of the number of rows.
    atol = 40 * np.finfo(dtype).eps * far
    np.testing.assert_allclose(model.coef_, best.coef_, rtol=0, atol=atol)


@pytest.mark.parametrize("solver", ITERATIVE)
@pytest.mark.parametrize("alpha", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize("constant", [1e-9, 0.1, 1.0, 1e6, 1e12])
def test_a_constant_column_changes_nothing_beside_an_intercept(constant, alpha, solver):
    """Its coefficient is 0 with a penalty, and without one in the smallest w."""
    rows = np.column_stack([X, np.full(300, constant)])
    for y, loss in ((LABELS, losses.Logistic()), (AMOUNTS, losses.Squared()), (COUNTS, losses.Poisson())):
        with_it, without = (
            minimise(Objective(lay_out(each, y), loss, alpha), ITERATIVE[solver], tol=1e-10) for each in (rows, X)
        )
        assert with_it.status in (Status.CONVERGED, Status.AT_ROUNDING) and with_it.w[4] * constant == 0.0
        np.testing.assert_allclose(with_it.parameters[[0, 1, 2, 3, 5]], without.parameters, rtol=0, atol=1e-8)
        if solver == "newton" and not alpha:
            assert "column 4" in with_it.note


@pytest.mark.parametrize("solver", ITERATIVE)
def test_a_constant_column_that_a_start_is_not_zero_for(solver):
    rows = np.column_stack([X, np.ones(300)])
    start = np.full(6, 0.5)
    fit = minimise(Objective(lay_out(rows, LABELS), losses.Logistic(), 1.0), ITERATIVE[solver], tol=1e-10, start=start)
    best = minimise(Objective(lay_out(X, LABELS), losses.Logistic(), 1.0), Newton(), tol=1e-12)
    np.testing.assert_allclose(fit.w, [*best.w, 0.0], rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", [GammaRegressor, PoissonRegressor])
def test_first_order_steps_are_judged_beyond_the_rounding_of_z(kind):
    """Columns of 1e10 with deviations of 1e6: z is known to 1e-10 at best, and F to what 700 such z make of it."""
    rows, y = 1e6 * (np.tile(X, (2, 1)) + 1e4), np.tile(COUNTS, 2) + 0.5
    model = kind(alpha=1e-3, solver="lbfgs", tol=1e-12).fit(rows, y)
    best = kind(alpha=1e-3 / 1e12, solver=Newton(), tol=1e-12).fit(np.tile(X, (2, 1)), y)
    np.testing.assert_allclose(1e6 * model.coef_, best.coef_, rtol=0, atol=1e-8)


@pytest.mark.parametrize("alpha", [1e-30, 1e-12, 1.0])
def test_steps_are_no_longer_than_a_rounding_of_curvature_allows(alpha):
    """From a start without curvature, in columns whose penalty alone has some: their gradient is rounding."""
    rows = X * [1e-12, 1.0, 1e6, 1e9]
    y = np.random.default_rng(0).standard_normal(300) + 1e3
    objective = Objective(lay_out(rows, y), losses.Huber(1.0), alpha)
    far, near = (minimise(objective, Newton(), tol=1e-9, start=start) for start in (np.zeros(5), None))
    assert far.status is Status.CONVERGED and far.rounds < 70
    np.testing.assert_allclose(far.value, near.value, rtol=1e-12)


def one_hot(n, levels):
    return np.eye(levels)[np.random.default_rng(1).integers(0, levels, n)]


def near(n):
    rows = np.random.default_rng(1).standard_normal((n, 50))
    rows[:, 1] = rows[:, 0] + 0.005 * rows[:, 1]
    return rows


@pytest.mark.parametrize(
    ("rows", "alpha", "fit_intercept"),
    [
        (np.random.default_rng(1).standard_normal((2000, 6)) + 500, 0.0, False),
        (near(2000), 1e-3, True),
        (one_hot(20000, 10), 1e-3, True),
    ],
    ids=["far", "near", "one-hot"],
)
@pytest.mark.parametrize("loss", [losses.Squared(), losses.Logistic()])
def test_newton_on_float32_finds_what_it_finds_on_float64(loss, rows, alpha, fit_intercept):
    """Its Hessian must not take for flat what float32 products cannot tell from it."""
    rows = rows.astype(np.float32)
    slopes = np.linspace(-1, 1, rows.shape[1])
    values = (rows - rows.mean(axis=0)) @ slopes + np.random.default_rng(2).logistic(size=len(rows))
    y = (values > 0).astype(np.float32) if loss == losses.Logistic() else values.astype(np.float32)
    single, double = (
        minimise(
            Objective(lay_out(rows.astype(dtype), y.astype(dtype)), loss, alpha, fit_intercept), Newton(), tol=1e-6
        )
        for dtype in ("float32", "float64")
    )
    assert single.status in (Status.CONVERGED, Status.AT_ROUNDING)
    assert single.rounds < 30
    exact = Objective(lay_out(rows.astype(float), y.astype(float)), loss, alpha, fit_intercept)
    lowest, reached = (exact.value_and_gradient(fit.parameters[: exact.n_parameters])[0] for fit in (double, single))
    assert reached <= lowest * (1 + 1e-6)


@pytest.mark.parametrize("solver", ITERATIVE)
def test_squares_that_overflow_warn_of_nothing(solver):
    """They are named: without them a fit would stand still at 0, and call it converged."""
    objective = Objective(lay_out(1e160 * X, z), losses.Squared(), 1.0)
    with pytest.raises(DataError, match=r"column \d of X is about .*, and its squares overflow float64: divide it by"):
        minimise(objective, ITERATIVE[solver], max_iter=5)


@pytest.mark.parametrize("loss", [losses.Logistic(), losses.Poisson(), losses.Softmax(3)])
def test_newton_converges_where_columns_are_copies(loss):
    """Along what changes no prediction a gradient is rounding, and no step goes there."""
    y = np.clip(COUNTS, 0, 2) if loss == losses.Softmax(3) else LABELS
    for rows in (np.column_stack([X, X[:, 0]]), np.column_stack([X, np.eye(3)[np.arange(300) % 3]])):
        fit = minimise(Objective(lay_out(rows, y), loss), Newton(), tol=1e-12)
        assert fit.status is Status.CONVERGED and np.abs(fit.parameters).max() < 10
        assert "combinations of other columns" in fit.note


@pytest.mark.parametrize("solver", ["newton", "cg", "lbfgs"])
@pytest.mark.parametrize("outlier", [1e8, 1e12, 1e20])
def test_one_row_far_away_costs_huber_nothing(solver, outlier):
    """The mean of y says nothing then."""
    y = z + random.standard_normal(300)
    best = minimise(Objective(lay_out(X, y), losses.Huber(1.0), 1.0), Newton(), tol=1e-10)
    y[7] = outlier
    fit = minimise(Objective(lay_out(X, y), losses.Huber(1.0), 1.0), ITERATIVE[solver], tol=1e-9)
    assert fit.rounds < 40
    np.testing.assert_allclose(fit.parameters, best.parameters, rtol=0, atol=0.05)


@pytest.mark.parametrize("solver", ITERATIVE)
def test_a_start_where_the_loss_has_no_curvature(solver):
    """All rows are further than delta from a start at 0, and the penalty does not hold the intercept."""
    y = z + random.standard_normal(300) + 1e3
    objective = Objective(lay_out(X, y), losses.Huber(1.0), 1.0)
    near, far = (
        minimise(objective, ITERATIVE[solver], tol=1e-9, max_iter=2000, start=start) for start in (None, np.zeros(5))
    )
    for fit in (near, far):
        r = np.clip(X @ fit.w + fit.intercept - y, -1, 1)
        assert fit.status in (Status.CONVERGED, Status.AT_ROUNDING)
        np.testing.assert_allclose(np.append(X.T @ r + fit.w, r.sum()), 0.0, atol=1e-6)
    assert near.rounds < far.rounds and near.n_iter < 60


@pytest.mark.parametrize("solver", ["newton", "cg"])
@pytest.mark.parametrize("kind", [GammaRegressor, PoissonRegressor])
def test_newton_ends_where_its_steps_are_rounding(kind, solver):
    """z is the difference of numbers of 1e4: no gradient gets to 1e-12 of the first one, and no step helps."""
    model = kind(alpha=1e-4, solver=ITERATIVE[solver], tol=1e-12).fit(X[:60] + 1e4, AMOUNTS[:60])
    assert model.fit_.status in (Status.CONVERGED, Status.AT_ROUNDING) and model.n_iter_ < 30
    near = kind(alpha=1e-4, solver=Newton(), tol=1e-12).fit(X[:60], AMOUNTS[:60])
    np.testing.assert_allclose(model.coef_, near.coef_, rtol=0, atol=1e-8)


def test_ridge_of_many_columns_far_from_zero():
    """By default: within some tol of the exact one, as it is for a y about 0."""
    wide, noise = np.random.default_rng(1).standard_normal((2, 1300, 1100))
    wide = wide + 3.0
    y = wide[:, 0] - wide[:, 1] + noise[:, 0] + 1e6
    centred = wide - wide.mean(0)
    best = np.linalg.solve(centred.T @ centred + np.eye(1100), centred.T @ (y - y.mean()))
    np.testing.assert_allclose(Ridge(1.0, solver="lbfgs").fit(wide, y).coef_, best, rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", ["lbfgs", "gradient", "cg"])
@pytest.mark.parametrize("loss", [losses.Squared(), losses.Logistic(), losses.Poisson()])
@pytest.mark.parametrize("mean", [1.0, 1e3, 1e6])
def test_columns_far_from_zero_without_an_intercept(mean, loss, solver):
    """They have one direction in common, in which F is steeper by far: predictions are those of exact coordinates."""
    random = np.random.default_rng(0)
    X = random.standard_normal((400, 5))
    columns = mean * (1 + np.arange(5))
    w = random.standard_normal(5)
    w -= (columns @ w) / (columns @ columns) * columns
    z = X @ w
    y = {"squared": z + random.standard_normal(400), "logistic": (z > random.logistic(size=400)).astype(float)}
    y = y.get(loss.name, random.poisson(np.exp(np.minimum(z, 3))).astype(float))
    # Rotated, the columns are one far from 0 and four that are not: any solver can be trusted with those.
    Q = np.linalg.qr(np.column_stack([columns, np.eye(5)[:, 1:]]))[0]
    rotated = (X + columns) @ Q
    rotated[:, 1:] = X @ Q[:, 1:]
    expected = minimise(Objective(lay_out(rotated, y), loss, 1.0, fit_intercept=False), Newton(), tol=1e-12)
    blocks = lay_out(X + columns, y)
    found = minimise(Objective(blocks, loss, 1.0, fit_intercept=False), ITERATIVE[solver], tol=1e-9, max_iter=500)
    z = rotated @ expected.w
    np.testing.assert_allclose(Q.T @ found.w, expected.w, atol=1e-5 * np.abs(expected.w).max())
    assert found.rounds < 600 and np.abs(z).max() < 100


@pytest.mark.parametrize("solver", [*ITERATIVE, "exact"])
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6, 1e6])
def test_a_constant_y_has_no_coefficients(constant, solver):
    y, by = np.full(300, constant), {**ITERATIVE, "exact": Exact()}[solver]
    for start in (np.zeros(5), np.ones(5), np.append(np.zeros(4), constant)):
        fit = minimise(Objective(lay_out(X + 10.0, y), losses.Squared(), 1.0), by, start=start)
        assert fit.status in (Status.CONVERGED, Status.AT_ROUNDING) and fit.n_iter < 200
        size = 1e-15 * abs(constant) if constant else 1e-5
        np.testing.assert_allclose(fit.w, 0.0, atol=10 * size)
        np.testing.assert_allclose(fit.intercept, constant, rtol=0, atol=100 * size)


@pytest.mark.parametrize("kind", [PoissonRegressor, GammaRegressor])
@pytest.mark.parametrize("constant", [1e-9, 0.1, 7.0, 1e9])
def test_a_constant_y_of_a_log_link_takes_no_step(kind, constant):
    model = kind(solver="lbfgs").fit(X + 10.0, np.full(300, constant))
    assert model.fit_.status is Status.CONVERGED and model.n_iter_ == 0
    np.testing.assert_allclose(model.predict(X), constant, rtol=1e-14)


@pytest.mark.parametrize("solver", ITERATIVE)
def test_small_columns_under_a_penalty(solver):
    """Then the largest entry of a gradient at w = 0, b = 0 is the intercept's, and says nothing of theirs."""
    small, by = 1e-9 * X, ITERATIVE[solver]
    rows = np.column_stack([small, np.ones(300)])
    for loss, derivatives, y in ((losses.Logistic(), logistic, LABELS), (losses.Poisson(), poisson, COUNTS)):
        fit = minimise(Objective(lay_out(small, y), loss, 1.0), by, tol=1e-6)
        best = newton(derivatives(y), rows, 1.0, np.zeros(5))
        np.testing.assert_allclose(fit.w, best[:4], rtol=0, atol=1e-5 * np.abs(best[:4]).max())


@pytest.mark.parametrize("solver", ITERATIVE)
@pytest.mark.parametrize(("dtype", "unit"), [("float32", 1e-7), ("float32", 1e-12), ("float64", 1e-18)])
def test_all_columns_are_smaller_than_the_rounding_of_the_intercept(dtype, unit, solver):
    """What the sum of an intercept may be by rounding says nothing of a column whose whole sum is smaller."""
    for kind, y, tol in ((PoissonRegressor, COUNTS, 1e-4), (GammaRegressor, AMOUNTS, 1e-4)):
        one = kind(alpha=0, tol=1e-6, solver=Newton()).fit(X, y)
        other = kind(alpha=0, tol=1e-6, solver=ITERATIVE[solver]).fit((X * unit).astype(dtype), y)
        np.testing.assert_allclose(other.coef_ * unit, one.coef_, rtol=0, atol=tol)


@pytest.mark.parametrize("solver", ["lbfgs", "gradient", "newton"])
def test_float32_rows_end_where_they_can_be_told_from_the_minimum(solver):
    """An offset of y costs digits of each residual: what is left is rounding, and the run ends there."""
    for offset in (0.0, 100.0):
        y = (z + random.standard_normal(300) + offset).astype("float32")
        rows = X.astype("float32")
        fit = minimise(Objective(lay_out(rows, y), losses.Squared(), 1.0), ITERATIVE[solver], tol=1e-12)
        best = minimise(Objective(lay_out(rows.astype(float), y.astype(float)), losses.Squared(), 1.0), Exact())
        assert fit.status in (Status.CONVERGED, Status.AT_ROUNDING) and fit.n_iter < 100
        np.testing.assert_allclose(fit.w, best.w, rtol=0, atol=1e-6 * (1 + offset))


def test_the_reference_is_the_gradient_of_the_best_constant():
    y = np.column_stack([AMOUNTS, COUNTS + 1])
    s = np.random.default_rng(2).uniform(0, 2, 300)
    for fit_intercept in (True, False):
        objective = Objective(lay_out(X, y, s, block_rows=37), losses.Gamma(), 3.0, fit_intercept)
        mean = np.average(y, axis=0, weights=s)
        slopes = 1 - y / mean
        expected = X.T @ (s[:, None] * slopes)
        found = objective.reference()
        np.testing.assert_allclose(found.gradient.reshape(-1, 2)[:4], expected, rtol=1e-12)
        np.testing.assert_allclose(found.gradient[8:], 0.0, atol=1e-12)
        assert objective.blocks.rounds == 2
        assert 0 < found.rounding < 1e-12 * np.abs(found.gradient).max()


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_what_has_summed_up_the_rows_knows_the_reference(fit_intercept):
    y = z + 5.0
    for by in (Exact("gram"), Exact("qr"), GradientDescent(reuse="gram")):
        objective = Objective(lay_out(X + 1.0, y, block_rows=64), losses.Squared(), 1.0, fit_intercept)
        state = by.init(objective, np.zeros(objective.n_parameters))
        before = objective.blocks.rounds
        known = by.reference(objective, state)
        assert objective.blocks.rounds == before
        asked = objective.reference()
        np.testing.assert_allclose(known.gradient, asked.gradient, rtol=0, atol=1e-10)
        np.testing.assert_allclose([known.rounding, known.centred], [asked.rounding, asked.centred], rtol=0.5)


@pytest.mark.parametrize("unit", [1e-30, 1e-23, 1e-18, 1e18, 1e25])
@pytest.mark.parametrize("loss", [losses.Squared(), losses.Logistic(), losses.Poisson(), losses.Softmax(2)])
def test_float32_columns_whose_squares_are_out_of_its_range(loss, unit):
    """A coefficient is divided by what its column is multiplied by, and nothing else changes."""
    y = z if loss == losses.Squared() else LABELS
    both = [(X * [1, each, 1, 1]).astype("float32") for each in (1.0, unit)]
    one, other = (minimise(Objective(lay_out(rows, y, block_rows=100), loss), Newton(), tol=1e-6) for rows in both)
    coefficients = [fit.w[:, 1] - fit.w[:, 0] if loss.outputs > 1 else fit.w for fit in (one, other)]
    scaled = coefficients[1].astype(np.longdouble) * [1, unit, 1, 1]
    np.testing.assert_allclose(scaled.astype(float), coefficients[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_curvature_of_float32_rows_is_added_up_in_float32(weighted):
    """Columns of zeros, and ordinary ones beside them, keep the products that they had."""
    rows = np.column_stack([X, np.zeros(300)]).astype("float32")
    s = np.linspace(0.5, 2, 300, dtype="float32") if weighted else None
    block, at = dense_block(rows, LABELS.astype("float32"), s, 0), Parameters(np.zeros(6))
    ordinary = Curvature(losses.Logistic())(block, at)
    again = Curvature(losses.Logistic())._triangles(block, at, "float32")[0, 0]
    np.testing.assert_array_equal(ordinary, again)
    assert (ordinary != Curvature(losses.Logistic())._triangles(block, at, "float64")[0, 0]).any()


@pytest.mark.parametrize("solver", ["newton", "cg", "lbfgs"])  # plain descent takes ever smaller steps
@pytest.mark.parametrize(
    ("loss", "label"),
    [(losses.Logistic(), 0.0), (losses.Logistic(), 1.0), (losses.Poisson(), 0.0), (losses.Softmax(3), 2.0)],
)
def test_a_y_at_the_end_of_its_domain_ends(loss, label, solver):
    """F has no minimum there: a run ends by the gradient at z = 0, as there is no best constant."""
    s = np.linspace(0.1, 1.0, 300)  # whose sum and weighted sum may be rounded in two ways
    objective = Objective(lay_out(X, np.full(300, label), s), loss, 1.0)
    fit = minimise(objective, ITERATIVE[solver], tol=1e-6)
    assert fit.status is Status.CONVERGED and fit.n_iter < 100
    predicted = loss.predict(X @ fit.w + fit.intercept)
    np.testing.assert_allclose(predicted[:, 2] if loss.outputs > 1 else predicted, min(label, 1.0), atol=1e-4)


def test_objectives_do_not_wait_for_each_other():
    """Loops that share their rounds ask for the sums of y at the same time."""
    folds = np.arange(300) % 3
    model = LogisticRegressionCV(Cs=3, cv=folds).fit(X, LABELS)
    assert model.fit_.status is Status.CONVERGED


@pytest.mark.parametrize("solver", ITERATIVE)
def test_small_rates_without_an_intercept_end(solver):
    """No w predicts them all, and the rows' slopes are known to 1e-16, where those of the best constant are 1e-12."""
    y = COUNTS * 1e-12
    fit = minimise(Objective(lay_out(X, y), losses.Poisson(), 1.0, False), ITERATIVE[solver], tol=1e-6)
    assert fit.status in (Status.CONVERGED, Status.AT_ROUNDING) and fit.n_iter <= 800
    w = np.zeros(4)
    for _ in range(30):
        mean = np.exp(X @ w)
        w = w - np.linalg.solve(X.T @ (mean[:, None] * X) + np.eye(4), X.T @ (mean - y) + w)
    np.testing.assert_allclose(fit.w, w, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("constant", [0.1, 1234.567, 1e6])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("loss", [losses.Logistic(), losses.Poisson(), losses.Softmax(3)], ids=lambda loss: loss.name)
def test_newton_holds_a_constant_column_beside_an_intercept(loss, alpha, constant, dtype):
    random = np.random.default_rng(1)
    X = random.standard_normal((1000, 4)).astype(dtype)
    X[:, 3] = constant
    z = X[:, 0].astype(float)
    y = {
        "logistic": random.random(1000) < 1 / (1 + np.exp(-z)),
        "poisson": random.poisson(np.exp(z / 2 + 1)),
        "softmax": np.clip(np.round(z + random.standard_normal(1000)) + 1, 0, 2),
    }[loss.name].astype(dtype)
    fit = minimise(Objective(lay_out(X, y, block_rows=128), loss, alpha), "newton")
    without = minimise(Objective(lay_out(X[:, :3], y, block_rows=128), loss, alpha), "newton")
    assert fit.status is without.status is Status.CONVERGED
    np.testing.assert_array_equal(fit.w[3], 0.0)
    np.testing.assert_allclose(fit.w[:3], without.w, atol=2e-4 * np.abs(without.w).max())
    np.testing.assert_allclose(fit.intercept, without.intercept, atol=2e-4)
