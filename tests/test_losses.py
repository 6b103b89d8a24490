"""Each loss against its formula, finite differences, and numbers at the edge."""

import array_api_strict
import numpy as np
import pytest
from problems import dense_block
from scipy.special import logsumexp, xlogy

from dist_dot import losses
from dist_dot.errors import DataError, InputError
from dist_dot.kernels.passes import ValueAndGradient
from dist_dot.kernels.targets import CheckTarget, TargetSums
from dist_dot.rows.arrays import Parameters, to_host

ELEMENTWISE = [losses.Squared(), losses.Huber(), losses.Logistic(), losses.Poisson(), losses.Gamma()]
SOFTMAX = losses.Softmax(4)
Z = [-800.0, -310.0, -20.0, -1.5, 0.0, 0.3, 20.0, 310.0, 800.0]


def ids(loss):
    return loss.name


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=ids)
@pytest.mark.parametrize("z", Z)
def test_derivatives_by_finite_differences(loss, z):
    y, z, h = np.array(0.75), np.array(z), 1e-4
    scale = max(1.0, abs(float(loss.first(y, z))))
    slope = (loss.value(y, z + h) - loss.value(y, z - h)) / (2 * h)
    assert np.isclose(slope, loss.first(y, z), rtol=1e-5, atol=1e-8 * scale)
    curve = (loss.first(y, z + h) - loss.first(y, z - h)) / (2 * h)
    assert np.isclose(curve, loss.second(y, z), rtol=1e-6, atol=1e-11 * scale)
    assert loss.curvature is None or loss.second(y, z) <= loss.curvature


@pytest.mark.parametrize("y", [0.0, 3.0])
@pytest.mark.parametrize("size", [0.5, 5.0, 800.0])
def test_derivatives_of_softmax_by_finite_differences(y, size):
    z, y, h = np.array([[0.3, -1.0, 0.7, 0.2]]) * size, np.array([y]), 1e-4
    first, second = SOFTMAX.first(y, z), SOFTMAX.second(y, z)
    assert first.shape == (1, 4) and second.shape == (1, 4, 4)
    for c, step in enumerate(np.eye(4) * h):
        slope = (SOFTMAX.value(y, z + step) - SOFTMAX.value(y, z - step)) / (2 * h)
        np.testing.assert_allclose(slope, first[:, c], rtol=1e-6, atol=1e-8)
        curve = (SOFTMAX.first(y, z + step) - SOFTMAX.first(y, z - step)) / (2 * h)
        np.testing.assert_allclose(curve, second[:, :, c], rtol=1e-6, atol=1e-8)
    assert np.linalg.eigvalsh(second[0])[-1] <= SOFTMAX.curvature


def test_the_formulas():
    y, z = np.array([0.25, 1.0, 0.5, 0.9]), np.array([-3.0, 0.1, 2.0, 0.85])
    r = abs(z - y)
    expected = {
        "squared": r**2 / 2,
        "huber": np.where(r <= 1.35, r**2 / 2, 1.35 * (r - 1.35 / 2)),
        "logistic": np.log(1 + np.exp(z)) - y * z,
        "poisson": np.exp(z) - y * z,
        "gamma": z + y * np.exp(-z),
    }
    for loss in ELEMENTWISE:
        np.testing.assert_allclose(loss.value(y, z), expected[loss.name], rtol=1e-12)
    Z, codes = np.random.default_rng(0).standard_normal((5, 4)), np.array([0, 3, 1, 1, 2])
    np.testing.assert_allclose(SOFTMAX.value(codes, Z), logsumexp(Z, axis=1) - Z[range(5), codes], rtol=1e-12)


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=ids)
def test_the_link_predicts_its_mean(loss):
    assert np.isclose(loss.predict(np.array(loss.link(0.3))), 0.3)
    z = np.array(loss.link(0.3))
    assert np.isclose(loss.first(np.array(0.3), z), 0.0)


def test_the_link_of_softmax_predicts_the_shares():
    np.testing.assert_allclose(SOFTMAX.predict(SOFTMAX.link(np.array([0.1, 0.2, 0.3, 0.4]))), [0.1, 0.2, 0.3, 0.4])


def test_the_value_and_what_it_drops_are_half_the_deviance():
    from sklearn.metrics import mean_gamma_deviance, mean_poisson_deviance

    y, z = np.array([0.0, 1.0, 7.0]), np.array([-1.0, 0.5, 2.0])
    half = losses.Poisson().value(y, z) + losses.Poisson().dropped(y)
    np.testing.assert_allclose(2 * half.mean(), mean_poisson_deviance(y, np.exp(z)))
    np.testing.assert_allclose(losses.Poisson().dropped(y), xlogy(y, y) - y)
    y = y + 0.5
    half = losses.Gamma().value(y, z) + losses.Gamma().dropped(y)
    np.testing.assert_allclose(2 * half.mean(), mean_gamma_deviance(y, np.exp(z)))


@pytest.mark.parametrize("loss", [*ELEMENTWISE, losses.Softmax(2)], ids=ids)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("z", Z)
def test_nothing_overflows(loss, dtype, z):
    """Also not in the compiled pass, and not in the sum of many rows: warnings are errors here."""
    y = np.array([1.0], dtype)
    at = np.array([[z] * loss.outputs, [0.0] * loss.outputs], dtype).T.ravel()
    plain = np.full((1, loss.outputs) if loss.outputs > 1 else 1, z, dtype)
    for found in (loss.value(y, plain), loss.first(y, plain), loss.second(y, plain)):
        assert found.dtype == dtype and np.isfinite(found).all()
    sums = ValueAndGradient(loss)(
        dense_block(np.ones((1, 1), dtype), y, np.zeros(1, dtype), 0), Parameters(at.astype(float))
    )
    assert not sums.any()


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=ids)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("z", [z for z in Z if z])
def test_the_compiled_pass_is_stable_too(loss, dtype, z):
    y = np.array([0.75], dtype)
    sums = ValueAndGradient(loss)(dense_block(np.ones((1, 1), dtype), y), Parameters(np.array([z, 0.0])))
    z = np.array([z], dtype)
    expected = np.concatenate([loss.value(y, z), loss.first(y, z)])
    np.testing.assert_allclose(sums[:2], expected, rtol=1e-13 if dtype == "float64" else 2e-5, atol=1e-300)


@pytest.mark.parametrize("loss", [*ELEMENTWISE, SOFTMAX], ids=ids)
def test_other_libraries_get_the_same(loss):
    random = np.random.default_rng(0)
    z = random.standard_normal((6, 4) if loss.outputs > 1 else 6)
    y = random.integers(0, 2, 6).astype(float) if loss.outputs > 1 else random.uniform(0.1, 0.9, 6)
    for name in ("value", "first", "second"):
        found = getattr(loss, name)(array_api_strict.asarray(y), array_api_strict.asarray(z))
        np.testing.assert_allclose(to_host(found), getattr(loss, name)(y, z), rtol=1e-12)
    assert np.isfinite(to_host(loss.dropped(array_api_strict.asarray(y)))).all()


@pytest.mark.parametrize("loss", [losses.Poisson(), losses.Gamma()], ids=ids)
def test_an_exposure_is_an_offset_of_z(loss):
    random = np.random.default_rng(1)
    y, exposure, s, z = random.uniform(0.5, 4, (4, 50))
    rate, weight = loss.exposed(y, exposure, s)
    offset = np.log(exposure)
    change = s * (loss.value(y, z + offset) - loss.value(y, offset))  # what is left out depends on y alone
    np.testing.assert_allclose(weight * (loss.value(rate, z) - loss.value(rate, 0.0 * z)), change, atol=1e-12)
    slopes = s * loss.first(y, z + np.log(exposure)), weight * loss.first(rate, z)
    np.testing.assert_allclose(*slopes, rtol=1e-12)
    curves = s * loss.second(y, z + np.log(exposure)), weight * loss.second(rate, z)
    np.testing.assert_allclose(*curves, rtol=1e-12)
    np.testing.assert_array_equal(loss.exposed(y, exposure)[0], rate)


@pytest.mark.parametrize(
    ("loss", "y", "words"),
    [
        (losses.Logistic(), -1.0, "the logistic loss takes 0 <= y <= 1"),
        (losses.Poisson(), -0.5, "the poisson loss takes 0 <= y"),
        (losses.Gamma(), 0.0, "the gamma loss takes 0 < y"),
        (losses.Softmax(3), 3.0, "the softmax loss takes the whole numbers 0 <= y <= 2"),
        (losses.Softmax(3), 0.5, "the softmax loss takes the whole numbers 0 <= y <= 2"),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_y_outside_of_the_domain_is_named(loss, y, words, dtype):
    column = np.array([1.0, y], dtype)
    with pytest.raises(DataError, match=f"y is {y} in row 8: {words}$"):
        CheckTarget(loss)(dense_block(np.ones((2, 1), dtype), column, None, 7), Parameters(np.zeros(0)))


@pytest.mark.parametrize("kernel", [CheckTarget(losses.Poisson()), TargetSums(losses.Poisson())])
def test_of_several_targets_too_and_of_those_on_a_card(kernel):
    y = np.ones((5, 3))
    y[3, 2] = -2.0
    block = dense_block(np.ones((5, 1)), y, None, 7)

    class OnACard:
        has_sums = staticmethod(lambda loss: True)

        def outside(self, low, high, whole):
            assert (low, high, whole) == (0.0, np.inf, False)
            return [11]

    for look in (kernel, lambda block, parameters: kernel.launch(OnACard(), (block,), parameters.host)):
        with pytest.raises(DataError, match="y is -2.0 in row 10: the poisson loss takes 0 <= y"):
            look(block, Parameters(np.zeros(0)))


def test_options_are_checked():
    with pytest.raises(InputError, match="delta is 0"):
        losses.Huber(0)
    with pytest.raises(InputError, match="softmax of 1 classes"):
        losses.Softmax(1)
