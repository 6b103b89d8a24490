"""What least squares, scores and held-out rows ask of rows on the card, against float64 rows on the host."""

from dataclasses import dataclass
from typing import ClassVar

import cupy
import numpy as np
import pytest
from card import DTYPES, laid_out, rows, whole_rows

from dist_dot import Objective, Ridge, lay_out, losses, minimise
from dist_dot.kernels.extended import ResidualProducts
from dist_dot.kernels.leave_one_out import LeaveOneOut
from dist_dot.kernels.moments import CentredMoments, CentredTriangle, FoldMoments, columns
from dist_dot.kernels.passes import Curvature, Expansion, ValueAndGradient
from dist_dot.kernels.scores import Correct, RankCounts
from dist_dot.kernels.targets import ReferenceSums, SlopeSizes
from dist_dot.rounds.held_out import HeldOut


def both(kernel, X, y, s, at, block_rows=400, fold=None):
    """Return the sums on the card, and those of the same numbers in float64 on the host."""
    there = laid_out(X, y, s, block_rows, fold).reduce(kernel, at)
    wide = (array.astype("float64") for array in (X, y, s))
    return there, lay_out(*wide, fold=fold, block_rows=block_rows).reduce(kernel, at)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("p", "targets"), [(1, 1), (28, 1), (129, 3), (500, 1)])
def test_moments_about_the_mean(p, targets, dtype):
    X, y, s, _ = rows(3001, p, dtype, targets=targets)
    X += 100  # far from 0: nothing may cancel
    found, expected = both(CentredMoments(), X, y, s, np.zeros(0), 1000)
    d = p + targets
    np.testing.assert_allclose(found[: 1 + d], expected[: 1 + d], rtol=1e-12)
    # Float64 is promised for float32 rows too.
    np.testing.assert_allclose(found[1 + d :], expected[1 + d :], rtol=1e-10, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_triangle_of_the_same_moments(dtype):
    X, y, s, _ = rows(3001, 28, dtype)
    found = laid_out(X, y, s, 1000).reduce(CentredTriangle(), np.zeros(0))
    assert columns(found.size) == 29
    R = found[30:].reshape(29, 29)
    assert not np.tril(R, -1).any()
    expected = lay_out(*(array.astype("float64") for array in (X, y, s))).reduce(CentredMoments(), np.zeros(0))
    np.testing.assert_allclose(found[:30], expected[:30], rtol=1e-12)
    np.testing.assert_allclose((R.T @ R).ravel(), expected[30:], atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mixed", [True, False])
def test_moments_by_folds(mixed, dtype):
    X, y, s, _ = rows(3001, 28, dtype)
    number = np.arange(3001)
    fold = (number * 7919 % 3 if mixed else number // 1001).astype(dtype)
    found, expected = both(FoldMoments(3), X, y, s, np.zeros(0), fold=fold)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11 * np.abs(expected).max())


OF_ONE_OUTPUT = [losses.Squared(), losses.Logistic(), losses.Poisson(), losses.Gamma(), losses.Huber()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1, 28, 129, 1000])
@pytest.mark.parametrize(
    ("loss", "targets"),
    [(loss, targets) for loss in OF_ONE_OUTPUT for targets in (1, 3, 11)] + [(losses.Softmax(5), 1)],
    ids=lambda each: getattr(each, "name", None),
)
def test_what_a_gradient_is_small_beside(loss, targets, p, dtype):
    X, y, s, _ = rows(3001, p, dtype, loss, targets)
    z = np.linspace(0.2, 0.7, max(targets, loss.outputs))
    at = np.column_stack([np.zeros((z.size, p)), z])
    found, expected = both(ReferenceSums(loss), X, y, s, at.ravel())
    close = 1e-12 if dtype == "float64" else 2e-5
    sizes = np.abs(X).astype("float64").T @ s * (1 + np.abs(y).max())
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=close, atol=close * sizes.max())
    of_y = both(SlopeSizes(loss), X, y, s, z)
    np.testing.assert_allclose(*of_y, rtol=close)
    np.testing.assert_allclose(of_y[0], found[-2 * targets :], rtol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", OF_ONE_OUTPUT, ids=lambda loss: loss.name)
def test_a_hessian_about_a_centre(loss, dtype):
    X, y, s, at = rows(3001, 28, dtype, loss)
    X[:, 3] += 100
    centre = tuple(map(float, np.where(np.arange(28) == 3, 100.0, 0.0)))
    point = at(1).ravel()
    point[3] = 0.0
    for kernel in (Curvature(loss, centre), Expansion(loss, centre)):
        found, expected = both(kernel, X, y, s, point)
        close = 1e-11 if dtype == "float64" else 2e-4  # float32 slopes and curvatures
        np.testing.assert_allclose(found, expected, atol=close * np.abs(expected).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_columns_than_rows(dtype):
    X, y, _, _ = rows(60, 3000, dtype)
    here, there = Ridge(1e-3).fit(X.astype("float64"), y), Ridge(1e-3).fit(cupy.asarray(X), cupy.asarray(y))
    np.testing.assert_allclose(there.coef_, here.coef_, atol=1e-9 * np.abs(here.coef_).max())


@dataclass(frozen=True)
class LogCosh(losses.Squared):
    """A loss of the user's own, with its C++."""

    name: ClassVar[str] = "log cosh"
    cuda: ClassVar[str] = "const T r = z - y; value = log(cosh(r)); slope = tanh(r); second = T(1) - slope * slope;"

    def value(self, y, z):
        return np.log(np.cosh(z - y))

    def first(self, y, z):
        return np.tanh(z - y)

    def second(self, y, z):
        return 1 - np.tanh(z - y) ** 2


def test_a_loss_of_the_users_own_has_a_pass():
    X, y, s, at = rows(3001, 28, "float64")
    for points in (1, 4):
        found, expected = both(ValueAndGradient(LogCosh(), points), X, y, s, 0.1 * at(points).ravel())
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11 * np.abs(expected).max())
    fits = [minimise(Objective(blocks, LogCosh(), 1.0)) for blocks in (laid_out(X, y), lay_out(X, y))]
    np.testing.assert_allclose(fits[0].w, fits[1].w, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_of_whole_numbers(dtype):
    X, y, s, at = whole_rows(3001, 28, dtype)
    y = np.abs(y) % 2
    for kernel, parameters in (
        (Correct(), at),
        (Correct(), np.concatenate([at, -at, at[::-1]])),
        (RankCounts(), np.append(at, np.linspace(-9, 9, 13))),
    ):
        np.testing.assert_array_equal(*both(kernel, X, y, s, parameters))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("points", [1, 3])
def test_rows_held_out(points, dtype):
    loss = losses.Logistic()
    X, y, s, at = rows(3001, 28, dtype, loss)
    parameters = at(points).ravel()
    here = HeldOut(lay_out(*(array.astype("float64") for array in (X, y, s)), block_rows=400), 10)
    there = HeldOut(laid_out(X, y, s, 400), 10)
    found, expected = (blocks.reduce(ValueAndGradient(loss, points), parameters) for blocks in (there, here))
    close = 1e-11 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(found, expected, atol=close * np.abs(expected).max())
    for point in np.split(parameters, points):
        np.testing.assert_allclose(there.loss_at(loss, point), here.loss_at(loss, point), rtol=10 * close)
    assert there.rounds == here.rounds == 1
    found, expected = (blocks.reduce(CentredMoments(), np.zeros(0)) for blocks in (there, here))
    np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_leave_one_out_and_residuals_in_twice_the_precision(dtype):
    X, y, s, at = rows(3001, 28, dtype)
    random = np.random.default_rng(0)
    kernel = LeaveOneOut(2, 1)
    packed = kernel.pack(
        X.mean(0).astype("float64"),
        np.linalg.qr(random.standard_normal((28, 28)))[0],
        random.uniform(0, 1e-3, (28, 2)),
        1e-4,
        random.standard_normal((28, 2, 1)),
        random.standard_normal((2, 1)),
    )
    np.testing.assert_allclose(*both(kernel, X, y, s, packed), rtol=1e-10)
    found, expected = both(ResidualProducts(), X, y, s, at(1).ravel())
    half = found.size // 2
    together = [part[:half].astype(np.longdouble) + part[half:] for part in (found, expected)]
    # Sums of some 3,000 numbers of size 1 in 32 digits; a long double keeps 19 of them.
    np.testing.assert_allclose(*(np.asarray(part, np.longdouble) for part in together), rtol=1e-16, atol=1e-17)
