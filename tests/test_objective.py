"""Losses, kernels and F against plain NumPy and finite differences."""

import pickle

import dask.array as da
import numpy as np
import pytest
from problems import dense_block

from dist_dot import DataError, Objective, lay_out, losses, minimise, solvers
from dist_dot.errors import InputError
from dist_dot.kernels import elementwise, tile_losses
from dist_dot.kernels.passes import GramProduct, Moments, ValueAndGradient
from dist_dot.rows.arrays import Parameters
from dist_dot.rows.block import cut

LOSSES = [losses.Squared(), losses.Logistic()]
COMPILED = [*LOSSES, losses.Poisson(), losses.Gamma(), losses.Huber(0.8)]


@pytest.mark.parametrize("loss", COMPILED)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "p"), [(0, 3), (1, 1), (3, 2), (50, 7), (101, 160), (45, 300), (40, 1100)])
def test_the_compiled_pass_is_the_formula(loss, dtype, weighted, n, p):
    random = np.random.default_rng(n + p)
    X, y = random.standard_normal((n, p)).astype(dtype), random.standard_normal(n).astype(dtype)
    y = y if loss.curvature else abs(y)
    s = random.uniform(0, 2, n).astype(dtype) if weighted else None
    block, at = dense_block(X, y, s), random.standard_normal(p + 1) / np.sqrt(p)
    parameters = Parameters(at)
    X, y, one = X.astype(float), y.astype(float), np.ones(n) if s is None else s.astype(float)
    close = {"rtol": 1e-12, "atol": 1e-11} if dtype == "float64" else {"rtol": 2e-4, "atol": 2e-3}

    z = X @ at[:p] + at[p]
    r = one * loss.first(y, z)
    expected = np.concatenate([[(one * loss.value(y, z)).sum()], X.T @ r, [r.sum()]])
    np.testing.assert_allclose(ValueAndGradient(loss)(block, parameters), expected, **close)
    np.testing.assert_allclose(GramProduct()(block, parameters), np.append(X.T @ (one * z), one @ z), **close)

    d = np.column_stack([X, y]) - at
    expected = np.concatenate([[one.sum()], one @ d, one @ (d * d)])
    np.testing.assert_allclose(Moments()(block, parameters), expected, **close)


@elementwise.in_place
def losses_at(loss, z, values, residuals):
    one, none, y = np.zeros(8), np.zeros(0), np.zeros(8)
    at, residual = np.zeros(8), np.zeros(8)
    one[0] = 1
    for i in range(z.size):
        at[0] = z[i]
        values[i], residuals[i] = tile_losses.add_losses(loss, 1, y, none, 0, one, at, residual, 0, none)


def test_the_compiled_exp_and_log1p_are_exact_to_rounding():
    random = np.random.default_rng(0)
    small = 10.0 ** random.uniform(-17, 0, 4000)
    z = np.concatenate([random.uniform(-300, 300, 4000), random.uniform(-2, 2, 4000), small, -small, [0.0, -0.0]])
    value, residual = np.empty_like(z), np.empty_like(z)
    losses_at(elementwise.LossCode(elementwise.LOGISTIC), z, value, residual)
    exact = z.astype(np.longdouble)
    u = np.exp(-np.abs(exact))
    np.testing.assert_allclose(value, (np.maximum(exact, 0) + np.log1p(u)).astype(float), rtol=1e-15)
    np.testing.assert_allclose(residual, (np.where(z >= 0, 1, u) / (1 + u)).astype(float), rtol=1e-15)


@pytest.mark.parametrize("z", [-1e300, -800.0, 800.0, 1e300])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_the_logistic_loss_is_stable(z, y):
    loss = losses.Logistic()
    sums = ValueAndGradient(loss)(dense_block(np.ones((1, 1)), np.array([y])), Parameters(np.array([z, 0.0])))
    wrong = (z > 0) != (y == 1)
    np.testing.assert_allclose(sums, [abs(z) * wrong, *2 * [np.sign(z) * wrong]], atol=1e-300)
    np.testing.assert_allclose([loss.value(y, z), loss.first(y, z)], sums[:2], atol=1e-300)


@pytest.mark.parametrize("loss", COMPILED)
def test_nan_does_not_pass_unseen(loss):
    sums = ValueAndGradient(loss)(dense_block(np.ones((5, 2)), np.ones(5)), Parameters(np.array([0.0, np.nan, 0.0])))
    assert np.isnan(sums[0])


def test_logistic_regression_is_that_of_scikit_learn(rows):
    from sklearn.linear_model import LogisticRegression

    X, y = rows[0], (rows[1] > np.median(rows[1])).astype(float)
    fit = minimise(
        Objective(lay_out(X, y, block_rows=64), losses.Logistic(), 2.0), solvers.GradientDescent(), tol=1e-10
    )
    reference = LogisticRegression(C=0.5, solver="newton-cholesky", tol=1e-12).fit(X, y)
    np.testing.assert_allclose(fit.w, reference.coef_[0], rtol=1e-6)
    np.testing.assert_allclose(fit.intercept, reference.intercept_[0], rtol=1e-6)


def test_a_label_outside_of_the_domain_is_named(rows):
    X, y = rows[0], np.ones(600)
    y[123] = -1.0
    with pytest.raises(DataError, match=r"y is -1.0 in row 123: the logistic loss takes 0 <= y <= 1"):
        minimise(Objective(lay_out(X, y, block_rows=64), losses.Logistic(), 1.0), solvers.GradientDescent())


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_gradient_by_finite_differences(rows, fit_intercept):
    X, y = rows
    objective = Objective(lay_out(X, y, block_rows=37), losses.Squared(), 3.0, fit_intercept)
    at = np.random.default_rng(2).standard_normal(objective.n_parameters)
    gradient = objective.value_and_gradient(at)[1]
    for j, h in enumerate(np.eye(objective.n_parameters) * 1e-4):
        slope = (objective.value_and_gradient(at + h)[0] - objective.value_and_gradient(at - h)[0]) / 2e-4
        assert np.isclose(slope, gradient[j], rtol=1e-5), j
    direction = np.random.default_rng(3).standard_normal(at.size)
    difference = objective.value_and_gradient(at + direction)[1] - gradient
    np.testing.assert_allclose(objective.curvature_bound_product(direction), difference, rtol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_hessian_by_finite_differences(rows, loss, fit_intercept, weighted):
    X, y = rows[0] / np.abs(rows[0]).max(0), (rows[1] > 0).astype(float)
    weight = np.linspace(0, 2, len(y)) if weighted else None
    objective = Objective(lay_out(X, y, weight, block_rows=37), loss, 3.0, fit_intercept)
    at = np.random.default_rng(2).standard_normal(objective.n_parameters)
    steps = np.eye(objective.n_parameters) * 1e-5
    gradients = objective.values_and_gradients(np.concatenate([at + steps, at - steps]))[1]
    slopes = (gradients[: len(steps)] - gradients[len(steps) :]) / 2e-5
    hessian = objective.hessian(at)
    np.testing.assert_allclose(hessian, slopes, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(hessian, hessian.T)


@pytest.mark.parametrize("loss", [losses.Softmax(3), losses.Poisson(), losses.Huber(0.5)])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_all_that_f_says_of_itself_agrees(rows, loss, fit_intercept, weighted):
    X, y = rows[0] / np.abs(rows[0]).max(0), np.arange(600.0) % 3
    weight = np.linspace(0, 2, 600) if weighted else None
    scale = np.linspace(0.5, 2, 7)
    objective = Objective(lay_out(X, y, weight, block_rows=37), loss, 3.0, fit_intercept, scale)
    random = np.random.default_rng(2)
    at, direction = random.standard_normal((2, objective.n_parameters)) / 2
    value, gradient, hessian = objective.expansion(at)

    W, b = objective.split(at)
    z = X @ W + b
    z = z if loss.outputs > 1 else z[:, 0]
    plain = ((1 if weight is None else weight) * loss.value(y, z)).sum() + 1.5 * ((scale * W.T) ** 2).sum()
    assert np.isclose(value, plain, rtol=1e-12)
    assert (value, gradient.tolist()) == (lambda v, g: (v, g.tolist()))(*objective.value_and_gradient(at))
    np.testing.assert_array_equal(hessian, objective.hessian(at))
    np.testing.assert_array_equal(hessian, hessian.T)
    np.testing.assert_allclose(objective.hessian_product(at, direction), hessian @ direction, rtol=1e-10, atol=1e-9)
    if loss.curvature:
        bound = objective.curvature_bound_product(direction)
        assert bound @ direction >= direction @ hessian @ direction

    steps = np.eye(objective.n_parameters) * 1e-5
    points = np.concatenate([at + steps, at - steps])
    values, gradients = objective.values_and_gradients(points)
    np.testing.assert_allclose((values[: len(steps)] - values[len(steps) :]) / 2e-5, gradient, rtol=1e-5, atol=1e-4)
    slopes = (gradients[: len(steps)] - gradients[len(steps) :]) / 2e-5
    if loss.name != "huber":  # whose second derivative jumps
        np.testing.assert_allclose(hessian, slopes, rtol=1e-5, atol=1e-4)


def test_the_best_constant_and_what_is_explained(rows):
    from sklearn.metrics import d2_log_loss_score, d2_tweedie_score, r2_score

    X, weight = rows[0] / np.abs(rows[0]).max(0), np.linspace(0, 2, 600)
    at = np.random.default_rng(0).standard_normal(8)
    z = X @ at[:7] + at[7]
    for loss, y, expected in (
        (losses.Squared(), rows[1], lambda y: r2_score(y, z, sample_weight=weight)),
        (
            losses.Poisson(),
            np.arange(600.0) % 4,
            lambda y: d2_tweedie_score(y, np.exp(z), sample_weight=weight, power=1),
        ),
        (
            losses.Gamma(),
            1 + np.arange(600.0) % 4,
            lambda y: d2_tweedie_score(y, np.exp(z), sample_weight=weight, power=2),
        ),
        (
            losses.Logistic(),
            np.arange(600.0) % 2,
            lambda y: d2_log_loss_score(y, 1 / (1 + np.exp(-z)), sample_weight=weight),
        ),
    ):
        objective = Objective(lay_out(X, y, weight, block_rows=37), loss)
        assert np.isclose(objective.explained(at), expected(y)), loss
        assert abs(objective.value_and_gradient(objective.null_model()[1])[1][-1]) < 1e-9 * 600
    y, at = np.arange(600.0) % 3, np.random.default_rng(0).standard_normal((8, 3))
    objective = Objective(lay_out(X, y, weight, block_rows=37), losses.Softmax(3))
    q = losses.Softmax(3).predict(X @ at[:7] + at[7])
    assert np.isclose(objective.explained(at.ravel()), d2_log_loss_score(y, q, sample_weight=weight))


@pytest.mark.parametrize("loss", [losses.Squared(), losses.Huber(0.5), losses.Poisson()])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_several_targets_are_the_targets_one_by_one(rows, loss, fit_intercept):
    X, Y = rows[0] / np.abs(rows[0]).max(0), np.random.default_rng(1).uniform(0, 3, (600, 2))
    weight = np.linspace(0, 2, 600)
    both = Objective(lay_out(X, Y, weight, block_rows=37), loss, 3.0, fit_intercept)
    W = np.random.default_rng(2).standard_normal((7 + fit_intercept, 2))
    value, gradient, hessian = both.expansion(W.ravel())
    product = both.hessian_product(W.ravel(), W.ravel()).reshape(W.shape)
    total, hessian = 0.0, hessian.reshape(*W.shape, *W.shape)
    for c in range(2):
        one = Objective(lay_out(X, Y[:, c], weight, block_rows=37), loss, 3.0, fit_intercept)
        expected = one.expansion(W[:, c])
        total += expected[0]
        np.testing.assert_allclose(gradient.reshape(W.shape)[:, c], expected[1], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(hessian[:, c, :, c], expected[2], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(product[:, c], expected[2] @ W[:, c], rtol=1e-9, atol=1e-10)
        assert not hessian[:, c, :, 1 - c].any()
        np.testing.assert_allclose(both.null_model()[1].reshape(W.shape)[:, c], one.null_model()[1])
    np.testing.assert_allclose(value, total, rtol=1e-12)
    assert both.null_model()[0] == pytest.approx(weight.sum())
    np.testing.assert_array_equal(both.join(*both.split(W.ravel())), W.ravel())


def test_standardised_columns_are_a_scale_of_the_penalty(rows):
    X, y = rows
    X = np.column_stack([X, np.full(600, 0.1)])
    scale = Objective(lay_out(X, y, block_rows=37), losses.Squared()).standardized().scale
    np.testing.assert_allclose(scale, np.append(rows[0].std(0), 1.0))
    with pytest.raises(InputError, match="scale has shape"):
        Objective(lay_out(X, y), losses.Squared(), scale=scale[1:])


def test_points_of_a_wrong_shape_are_named(rows):
    objective = Objective(lay_out(*rows), losses.Squared())
    for points in (np.zeros(8), np.zeros((0, 8)), np.zeros((2, 7))):
        with pytest.raises(InputError, match="have shape"):
            objective.values_and_gradients(points)


def test_weight_two_is_the_row_twice_and_zero_is_no_row(rows):
    X, y = rows
    weight = np.where(np.arange(len(y)) % 3 == 0, 2.0, np.where(np.arange(len(y)) % 3 == 1, 0.0, 1.0))
    twice = np.repeat(np.arange(len(y)), weight.astype(int))
    at = np.ones(8)
    weighted = Objective(lay_out(X, y, weight), losses.Squared(), 1.0).value_and_gradient(at)
    repeated = Objective(lay_out(X[twice], y[twice]), losses.Squared(), 1.0).value_and_gradient(at)
    np.testing.assert_allclose(weighted[0], repeated[0], rtol=1e-12)
    np.testing.assert_allclose(weighted[1], repeated[1], rtol=1e-12)


def test_moments_do_not_cancel():
    X = np.random.default_rng(0).standard_normal((1000, 2)) + 1e8
    moments = Objective(lay_out(X, X[:, 0], block_rows=64), losses.Squared()).moments()
    np.testing.assert_allclose(moments.mean, X.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.spread, X.var(0) * 1000, rtol=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
def test_moments_of_columns_near_and_far(weighted):
    """In two rounds where all columns are near, and one more where one is far: then each has its digits."""
    random = np.random.default_rng(0)
    X, y = random.standard_normal((1000, 3)), random.standard_normal((1000, 2))
    s = random.uniform(0, 2, 1000) if weighted else np.ones(1000)
    for means, rounds in (([0.0, 5.0, -25.0], 2), ([0.0, 5.0, 1e5], 3)):
        objective = Objective(lay_out(X + means, y, s if weighted else None, block_rows=64), losses.Squared())
        moments = objective.moments()
        assert objective.blocks.rounds == rounds and list(moments.far) == [False, False, rounds == 3]
        mean = np.average(X + means, axis=0, weights=s)
        np.testing.assert_allclose(moments.weight, s.sum(), rtol=1e-14)
        np.testing.assert_allclose(moments.mean, mean, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(moments.spread, s @ (X + means - mean) ** 2, rtol=3e-11)
        objective.reference()
        assert objective.blocks.rounds == rounds
        before = objective.blocks.rounds
        objective.standardized().reference()  # what is known of the rows goes with it
        assert objective.blocks.rounds == before


def test_a_round_reads_x_once(rows):
    objective = Objective(lay_out(*rows, block_rows=10), losses.Squared())
    objective.value_and_gradient(np.zeros(8))
    assert objective.blocks.rounds == 1


def test_cuts_cover_the_rows():
    for n, p in [(1, 1), (1000, 20), (327_346, 160), (10_000_000, 1000)]:
        cuts = cut(n, p, "float64")
        bounds = [cuts.bounds(number) for number in range(cuts.n_blocks)]
        assert bounds[0][0] == 0 and bounds[-1][1] == n
        assert all(a[1] == b[0] for a, b in zip(bounds, bounds[1:], strict=False))
    assert cut(1000, 20, "float64").n_blocks == 1


def test_a_block_arrives_aligned():
    raw = bytearray(8 * 21 + 1)
    X = np.frombuffer(memoryview(raw)[1:], dtype=np.float64)[:20].reshape(10, 2)
    assert not X.flags.aligned
    moved = pickle.loads(pickle.dumps(dense_block(X, X[:, 0], None, 5), protocol=5))
    assert (
        moved.X.values.flags.aligned
        and moved.X.values.flags.c_contiguous
        and moved.y.flags.c_contiguous
        and moved.start == 5
    )


@pytest.mark.parametrize("wrap", [np.asarray, da.from_array])
@pytest.mark.parametrize("k", [1, 3])
def test_targets_are_laid_out_beside_each_other(rows, wrap, k):
    X, Y = rows[0], np.column_stack([rows[1] + j for j in range(k)])
    blocks = lay_out(wrap(X), wrap(Y), wrap(np.ones(600)), block_rows=64)
    assert blocks.cuts.n_targets == k and blocks.cuts.n_blocks == 10
    parts = getattr(blocks, "blocks", None) or blocks.client.gather(list(blocks.futures))
    found = np.concatenate([block.y for block in parts])
    np.testing.assert_array_equal(found, Y if k > 1 else rows[1])
    assert sum(block.nbytes for block in parts) == 600 * (7 + k + 1) * 8
    assert cut(10**6, 50, "float64", n_targets=k).block_rows == cut(10**6, 50, "float64").block_rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"X": ((333, 4), np.nan)}, "X is nan in column 4, row 333"),
        ({"X": ((2, 0), np.inf)}, "X is inf in column 0, row 2"),
        ({"y": (599, -np.inf)}, "y is -inf, row 599"),
        ({"s": (77, -1.0)}, "sample_weight is -1.0 in row 77"),
    ],
)
def test_bad_values_are_named(rows, change, words):
    arrays = {"X": rows[0].copy(), "y": rows[1].copy(), "s": np.ones(600)}
    for name, (place, value) in change.items():
        arrays[name][place] = value
    with pytest.raises(DataError, match=words):
        lay_out(arrays["X"], arrays["y"], arrays["s"], block_rows=50)


def test_bad_shapes_and_numbers_are_named(rows):
    X, y = rows
    with pytest.raises(DataError, match="X has 600 rows and y has 599"):
        lay_out(X, y[1:])
    for Y in (np.ones((600, 0)), np.ones((600, 2, 2))):
        with pytest.raises(DataError, match="expected \\(n_samples,\\), or"):
            lay_out(X, Y)
    with pytest.raises(DataError, match="expected \\(600,\\), one number for each row"):
        lay_out(X, np.ones((600, 2)), np.ones((600, 2)))
    with pytest.raises(DataError, match="expected numbers"):
        lay_out(np.array([["a"]]), [1.0])
    with pytest.raises(InputError, match="block_rows is 0"):
        lay_out(X, y, block_rows=0)
    with pytest.raises(InputError, match="alpha is -1"):
        Objective(lay_out(X, y), losses.Squared(), -1)
    with pytest.raises(InputError, match="weights are all zero"):
        Objective(lay_out(X, y, np.zeros(600)), losses.Squared()).moments()


STARTS = {
    "squared": (losses.Squared(), 1),
    "squared, 3 targets": (losses.Squared(), 3),
    "logistic": (losses.Logistic(), 1),
    "poisson": (losses.Poisson(), 1),
    "poisson, 2 targets": (losses.Poisson(), 2),
    "gamma": (losses.Gamma(), 1),
    "softmax": (losses.Softmax(4), 1),
    "huber": (losses.Huber(), 1),
}


def started(name, dtype, unit, fit_intercept):
    """Return an objective whose columns nobody has looked at."""
    (loss, targets), random = STARTS[name], np.random.default_rng(5)
    X = random.standard_normal((400, 9)) + 3
    X[:, 6], X[:, 7] = 1.0, 0.1  # constant, and far from 0
    X[:, 8] += 1e4
    X = X.astype(dtype)
    if loss.name == "softmax":
        y = random.integers(0, 4, 400)
    elif loss.name == "logistic":
        y = random.random(400)  # a probability will do
    else:
        y = unit * (random.poisson(3.0, (400, targets)) + 0.5)
    weight = random.integers(0, 3, 400) * 0.5
    return Objective(lay_out(X, y, weight, block_rows=64), loss, 2.0, fit_intercept)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", STARTS)
def test_the_first_evaluation_is_one_of_f(name, dtype, unit, fit_intercept):
    objective = started(name, dtype, unit, fit_intercept)
    zero, null = np.zeros(objective.n_parameters), objective.null_model()[1]
    reference = objective.reference()
    for start in (zero, null, 0.5 * null):
        expected = objective.value_and_gradient(start)
        rounds = objective.blocks.rounds
        found = objective.first_value_and_gradient(start)
        assert objective.blocks.rounds == rounds + 1
        close = 1e-12 if dtype == "float64" else 3e-6
        size = np.abs(expected[1]).max() + np.abs(reference.gradient).max() + reference.rounding / close
        np.testing.assert_allclose(found[0], expected[0], rtol=close, atol=close * size)
        np.testing.assert_allclose(found[1], expected[1], rtol=close, atol=close * size)
    moved = zero.copy()
    moved[0] = 1e-3
    assert objective.first_value_and_gradient(moved)[0] == objective.value_and_gradient(moved)[0]


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", STARTS)
def test_an_expansion_at_0_knows_the_columns(name, dtype, fit_intercept):
    for share in (0.0, 1.0):
        objective, other = (started(name, dtype, 1.0, fit_intercept) for _ in range(2))
        start = share * other.null_model()[1]
        shows = objective.shows_columns(start)
        name_of_loss = STARTS[name][0].name
        near = name_of_loss in ("logistic", "softmax") or (share and fit_intercept)  # slopes there beside the best ones
        assert shows == (name_of_loss not in ("gamma", "huber") and dtype == "float64" and bool(near))
        assert not objective.shows_columns(start + 1e-3)  # a W that is not 0
        value, gradient, hessian = objective.expansion(start)
        found, expected = objective.reference(), other.reference()
        # Two of y, and the expansion, which takes the place of the other of the reference; one about the means.
        assert objective.blocks.rounds == 3 + (fit_intercept if shows else 0)
        assert not objective.shows_columns(start)  # they are known
        close = 1e-11 if dtype == "float64" else 1e-5
        largest = np.abs(expected.gradient).max()
        rounding = close * largest + 8 * np.finfo(dtype).eps * 1e4 * 400  # of 400 numbers of 1e4, times a slope of 1
        np.testing.assert_allclose(found.gradient, expected.gradient, atol=rounding)
        np.testing.assert_allclose(found.floors, expected.floors, rtol=1e-3 if dtype == "float64" else 1e-2)
        one, another = objective.moments(), other.moments()
        np.testing.assert_array_equal(one.far, another.far)
        np.testing.assert_allclose(one.mean, another.mean, rtol=10 * close)
        np.testing.assert_allclose(one.spread, another.spread, rtol=10 * close, atol=1e-20 * 400)
        plain = other.expansion(start)
        assert (value, *gradient) == (plain[0], *plain[1]) and np.array_equal(hessian, plain[2])
