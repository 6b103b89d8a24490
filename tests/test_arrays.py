"""The same code for arrays that are not NumPy's, and for losses that nobody compiled."""

from dataclasses import dataclass
from typing import ClassVar

import array_api_strict
import numpy as np
import pytest
import refusing
from sklearn.datasets import load_diabetes

from dist_dot import DataError, Objective, Ridge, lay_out, losses, minimise, solvers
from dist_dot.blocks.arrays import Parameters, to_host
from dist_dot.blocks.block import Block
from dist_dot.blocks.kernels import (
    CheckTarget,
    Curvature,
    Expansion,
    GramProduct,
    HessianProduct,
    Moments,
    TargetSums,
    ValueAndGradient,
)

LIBRARIES = [array_api_strict, refusing.library]


def rows_of(n, p, dtype, weighted):
    random = np.random.default_rng(n + p)
    X, y = random.standard_normal((n, p)).astype(dtype), random.integers(0, 2, n).astype(dtype)
    return X, y, random.uniform(0, 2, n).astype(dtype) if weighted else None, random.standard_normal(p + 1) / np.sqrt(p)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "p"), [(0, 3), (1, 1), (101, 20)])
@pytest.mark.parametrize(
    "kernel",
    [
        ValueAndGradient(losses.Squared()),
        ValueAndGradient(losses.Logistic()),
        GramProduct(),
        Moments(),
        Curvature(losses.Squared()),
        Curvature(losses.Logistic()),
        ValueAndGradient(losses.Poisson()),
        ValueAndGradient(losses.Gamma()),
        ValueAndGradient(losses.Huber()),
        TargetSums(losses.Poisson()),
        TargetSums(losses.Softmax(2)),
    ],
)
def test_kernels_give_what_they_give_for_numpy(library, dtype, weighted, n, p, kernel):
    X, y, s, at = rows_of(n, p, dtype, weighted)
    expected = kernel(Block(X, y, s, 0), Parameters(at))
    X, y, s = (None if array is None else library.asarray(array) for array in (X, y, s))
    found = kernel(Block(X, y, s, 0), Parameters(at))
    assert type(found) is type(X)
    close = {"rtol": 1e-12, "atol": 1e-12} if dtype == "float64" else {"rtol": 2e-5, "atol": 2e-5}
    np.testing.assert_allclose(to_host(found), expected, **close)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [0, 1, 101])
@pytest.mark.parametrize("loss", [losses.Softmax(2), losses.Logistic()], ids=lambda loss: loss.name)
@pytest.mark.parametrize(
    "kernel", [ValueAndGradient, GramProduct, HessianProduct, Curvature, Expansion], ids=lambda kernel: kernel.__name__
)
def test_kernels_of_several_outputs_too(library, dtype, weighted, n, loss, kernel):
    X, y, s, _ = rows_of(n, 6, dtype, weighted)
    width = loss.outputs * (1 + (kernel is HessianProduct))
    at = np.random.default_rng(0).standard_normal(7 * width)
    kernel = kernel() if kernel is GramProduct else kernel(loss)
    expected = kernel(Block(X, y, s, 0), Parameters(at))
    X, y, s = (None if array is None else library.asarray(array) for array in (X, y, s))
    found = kernel(Block(X, y, s, 0), Parameters(at))
    assert type(found) is type(X)
    close = {"rtol": 1e-11, "atol": 1e-12} if dtype == "float64" else {"rtol": 2e-4, "atol": 2e-4}
    np.testing.assert_allclose(to_host(found), expected, **close)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("loss", [losses.Squared(), losses.Logistic()])
def test_a_fit_is_that_of_numpy(library, loss):
    X, y, s, _ = rows_of(300, 5, "float64", True)

    def fit(X, y, s):
        objective = Objective(lay_out(X, y, s, block_rows=32), loss, 1.0)
        return minimise(objective, solvers.GradientDescent(), tol=1e-11)

    expected = fit(X, y, s)
    for target in (y, library.asarray(y)):  # y may lie on the host
        found = fit(library.asarray(X), target, s)
        np.testing.assert_allclose(found.w, expected.w, rtol=1e-8)
        assert found.rounds == expected.rounds


def test_a_round_crosses_once_each_way():
    X, y, s, at = rows_of(300, 5, "float32", True)
    objective = Objective(lay_out(refusing.library.asarray(X), y, s, block_rows=32), losses.Logistic(), 1.0)
    assert objective.blocks.cuts.n_blocks == 10
    for ask in (lambda: objective.value_and_gradient(at), lambda: objective.curvature_bound_product(at)):
        refusing.counts.into = refusing.counts.out = 0
        ask()
        assert (refusing.counts.into, refusing.counts.out) == (1, 1)


def test_reads_of_x_are_rounds():
    X, y, s, _ = rows_of(300, 5, "float64", True)
    objective = Objective(lay_out(refusing.library.asarray(X), y, s, block_rows=32), losses.Squared(), 1.0)
    refusing.counts.tiles = 0
    fit = minimise(objective, solvers.GradientDescent())
    # One round reads y alone, and the other of `Objective.reference` X twice.
    assert fit.rounds > 10 and refusing.counts.tiles == 10 * (fit.rounds + 1)


def test_the_refusing_library_refuses():
    array = refusing.library.asarray(np.ones(3))
    for wrong in (lambda: np.asarray(array), lambda: array + np.ones(3), lambda: np.ones(3) * array):
        with pytest.raises(TypeError):
            wrong()


@pytest.mark.parametrize("library", [np, *LIBRARIES])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [losses.Squared(), losses.Logistic()])
@pytest.mark.parametrize("n", [0, 7, 3000])
def test_points_in_one_pass_are_the_points_one_by_one(library, dtype, weighted, loss, n):
    X, y, s, _ = rows_of(n, 20, dtype, weighted)
    X, y, s = (None if array is None else library.asarray(array) for array in (X, y, s))
    points = np.random.default_rng(0).standard_normal((3, 21)) * 0.1
    block = Block(X, y, s, 0)
    found = to_host(ValueAndGradient(loss, 3)(block, Parameters(points.ravel()))).reshape(3, -1)
    for point, sums in zip(points, found, strict=True):
        expected = to_host(ValueAndGradient(loss)(block, Parameters(point)))
        close = {"rtol": 1e-11, "atol": 1e-10} if dtype == "float64" else {"rtol": 2e-4, "atol": 2e-3}
        np.testing.assert_allclose(sums, expected, **close)


def test_parameters_are_converted_once_for_each_dtype():
    parameters = Parameters(np.ones(3))
    X = np.ones((2, 2), np.float32)
    assert parameters.like(X) is parameters.like(X) and parameters.like(X).dtype == np.float32
    assert parameters.like(X, "float64").dtype == np.float64


@pytest.mark.parametrize("library", LIBRARIES)
def test_ridge_takes_them_and_predicts_in_kind(library):
    X, y = load_diabetes(return_X_y=True)
    expected = Ridge().fit(X, y)
    model = Ridge().fit(library.asarray(X), library.asarray(y))
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-9)
    predicted = model.predict(library.asarray(X))
    assert type(predicted) is type(library.asarray(X))
    np.testing.assert_allclose(to_host(predicted), expected.predict(X), rtol=1e-9)


@pytest.mark.parametrize("library", LIBRARIES)
def test_bad_values_are_named_there_too(library):
    X, y = np.ones((50, 3)), np.ones(50)
    X[33, 1] = np.nan
    with pytest.raises(DataError, match="X is nan in column 1, row 33"):
        lay_out(library.asarray(X), y, block_rows=16)
    with pytest.raises(DataError, match="sample_weight is -1.0 in row 49"):
        lay_out(library.asarray(np.ones((50, 3))), y, np.append(y[1:], -1.0), block_rows=16)
    with pytest.raises(DataError, match="y is 2.0 in row 18"):
        block = Block(library.asarray(np.ones((4, 3))), library.asarray(np.array([1.0, 0, 2, 0])), None, 16)
        CheckTarget(losses.Logistic())(block, Parameters(np.zeros(0)))
    with pytest.raises(DataError, match="expected numbers"):
        lay_out(array_api_strict.asarray(np.ones((50, 3), complex)), y)


@dataclass(frozen=True)
class LogCosh:
    """log(cosh(z - y)): a loss of the user's own, which nobody compiled."""

    name: ClassVar[str] = "log_cosh"
    domain: ClassVar[tuple[float, float]] = (-np.inf, np.inf)
    curvature: ClassVar[float | None] = 1.0
    outputs: ClassVar[int] = 1

    def value(self, y, z):
        return np.logaddexp(z - y, y - z) - np.log(2.0)

    def first(self, y, z):
        return np.tanh(z - y)

    def second(self, y, z):
        return 1.0 / np.cosh(z - y) ** 2

    def dropped(self, y):
        return 0.0 * y

    def link(self, mean):
        return mean

    def predict(self, z):
        return z


def test_a_loss_of_ones_own_runs_as_array_operations(rows):
    X, y = rows
    objective = Objective(lay_out(X, y, block_rows=64), LogCosh(), 2.0)
    fit = minimise(objective, solvers.GradientDescent(), tol=1e-9)
    z = X @ fit.w + fit.intercept
    np.testing.assert_allclose(X.T @ np.tanh(z - y) + 2.0 * fit.w, 0, atol=1e-5)
    assert abs(np.tanh(z - y).sum()) < 1e-5
