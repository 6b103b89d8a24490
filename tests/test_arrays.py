"""The same code for arrays that are not NumPy's, and for losses that nobody compiled."""

from dataclasses import dataclass
from typing import ClassVar

import array_api_strict
import dask
import dask.array as da
import numpy as np
import pytest
import refusing
import sklearn.linear_model as reference
from dask import delayed
from dask.array.dispatch import concatenate_lookup
from problems import dense_block
from sklearn.base import clone
from sklearn.datasets import load_diabetes

from dist_dot import (
    DataError,
    LogisticRegression,
    LogisticRegressionCV,
    Objective,
    PoissonRegressor,
    Ridge,
    RidgeCV,
    lay_out,
    losses,
    minimise,
    solvers,
)
from dist_dot.kernels.passes import Curvature, Expansion, GramProduct, HessianProduct, Moments, ValueAndGradient
from dist_dot.kernels.targets import CheckTarget, ConstantValues, ReferenceSums, SlopeSizes, TargetSums
from dist_dot.rows.arrays import Parameters, to_host

LIBRARIES = [array_api_strict, refusing.library]
SEVERAL = (losses.Squared(), losses.Logistic(), losses.Poisson(), losses.Gamma(), losses.Huber(0.5))


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
    expected = kernel(dense_block(X, y, s), Parameters(at))
    X, y, s = (None if array is None else library.asarray(array) for array in (X, y, s))
    found = kernel(dense_block(X, y, s), Parameters(at))
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
    expected = kernel(dense_block(X, y, s), Parameters(at))
    X, y, s = (None if array is None else library.asarray(array) for array in (X, y, s))
    found = kernel(dense_block(X, y, s), Parameters(at))
    assert type(found) is type(X)
    close = {"rtol": 1e-11, "atol": 1e-12} if dtype == "float64" else {"rtol": 2e-4, "atol": 2e-4}
    np.testing.assert_allclose(to_host(found), expected, **close)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [0, 1, 101])
@pytest.mark.parametrize(
    ("loss", "targets"),
    [(loss, targets) for loss in SEVERAL for targets in (1, 3)] + [(losses.Softmax(3), 1)],  # a class has one column
    ids=lambda each: getattr(each, "name", None),
)
def test_what_is_constant_gives_what_it_gives_for_numpy(library, dtype, weighted, n, loss, targets):
    X, _, s, _ = rows_of(n, 6, dtype, weighted)
    width = max(targets, loss.outputs)
    y = np.asarray(np.random.default_rng(1).integers(0, 3, (n, targets)) / (1 if loss.outputs > 1 else 2) + 1e-3, dtype)
    y = np.floor(y) if loss.outputs > 1 else np.minimum(y, 1.0)
    y = y[:, 0] if targets == 1 else y
    z = np.linspace(-0.7, 0.9, 2 * width)
    at = np.zeros((width, 7))
    at[:, -1] = z[:width]
    there = [None if array is None else library.asarray(array) for array in (X, y, s)]
    for kernel, parameters in (
        (TargetSums(loss), z),
        (ConstantValues(loss), z),
        (ConstantValues(loss, deviance=True), z),
        (ReferenceSums(loss), at.ravel()),
        (SlopeSizes(loss), z[:width]),
    ):
        expected = kernel(dense_block(X, y, s), Parameters(parameters))
        found = kernel(dense_block(*there, 0), Parameters(parameters))
        close = {"rtol": 1e-11, "atol": 1e-11} if dtype == "float64" else {"rtol": 2e-5, "atol": 2e-4}
        np.testing.assert_allclose(to_host(found), expected, **close)
        if isinstance(kernel, ConstantValues):
            weight = np.ones(n) if s is None else s.astype(float)
            z_of_rows = np.zeros((n, width)) + z[width:]
            of_rows = loss.value(y, z_of_rows if width > 1 else z_of_rows[:, 0])
            assert expected[-1] == pytest.approx(np.sum(weight @ of_rows), rel=1e-5, abs=1e-9)
            if kernel.deviance:
                assert expected[0] == pytest.approx(np.sum(weight @ loss.dropped(y)), rel=1e-5, abs=1e-9)
        if kernel == ReferenceSums(loss):
            passed = ValueAndGradient(loss)(dense_block(X, y, s), Parameters(parameters))[1:]
            np.testing.assert_allclose(expected[: passed.size], passed, rtol=2e-5, atol=2e-4)
            sizes = SlopeSizes(loss)(dense_block(X, y, s), Parameters(z[:width]))
            np.testing.assert_array_equal(expected[-sizes.size :], sizes)


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
    # One round of `Objective.reference` reads y alone, and the other X twice; that of F at 0 has a tile of its point,
    # and one of an X without columns.
    assert fit.rounds > 10 and refusing.counts.tiles == 10 * (fit.rounds + 3)


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
    block = dense_block(X, y, s)
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
        block = dense_block(library.asarray(np.ones((4, 3))), library.asarray(np.array([1.0, 0, 2, 0])), None, 16)
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


def joined(library):
    return lambda parts, axis=0: library.concat(list(parts), axis=axis)


for library in LIBRARIES:  # as CuPy's are
    concatenate_lookup.register(type(library.asarray(np.ones(1))), joined(library))


def in_chunks(library):
    """Arrays of a library as chunks of a Dask array, which is never asked for a NumPy array of them."""

    def wrap(array):
        parts = [array[at : at + 77] for at in range(0, len(array), 77)]
        make = delayed(library.asarray, pure=False)
        return da.concatenate([da.from_delayed(make(part), part.shape, part.dtype) for part in parts])

    return wrap


def numbers(found):
    found = [to_host(part) for part in dask.compute(*found.to_delayed().ravel())] if hasattr(found, "dask") else [found]
    return np.concatenate([to_host(part) for part in found])


@pytest.mark.parametrize("model", [
    LogisticRegression(tol=1e-10),
    LogisticRegression(class_weight="balanced", tol=1e-10),
    LogisticRegression(class_weight={5: 2.0}, standardize=True, tol=1e-10),
    LogisticRegressionCV(3, cv=3, class_weight="balanced"),
    Ridge(),
    RidgeCV(cv=np.arange(300) % 4),
    RidgeCV(),
    PoissonRegressor(tol=1e-10),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("library", LIBRARIES, ids=["strict", "refusing"])
@pytest.mark.parametrize("lazy", [False, True], ids=["plain", "dask"])
def test_estimators_give_what_they_give_for_numpy(model, library, lazy):
    random = np.random.default_rng(0)
    X, weight = random.standard_normal((300, 6)), random.uniform(0.5, 2, 300)
    y = np.array([3, 5, 9])[np.argmax(X[:, :3] + random.gumbel(size=(300, 3)), axis=1)]
    expected = clone(model).fit(X, y, weight)
    wrap = in_chunks(library) if lazy else library.asarray
    A, b, s = wrap(X), wrap(y), wrap(weight)
    # Each of the three may lie on the host while the others do not.
    for arrays in ((A, b, s), (X, b, s), (A, y, s), (A, b, weight)):
        found = clone(model).fit(*arrays)
        np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-7, atol=1e-9)
    found = clone(model).fit(A, b, s)
    assert found.score(A, b, s) == pytest.approx(expected.score(X, y, weight), rel=1e-9)
    np.testing.assert_allclose(numbers(found.predict(A)), expected.predict(X), rtol=1e-7)
    if hasattr(found, "classes_"):
        assert found.log_loss(A, b, s) == pytest.approx(expected.log_loss(X, y, weight), rel=1e-7)
        np.testing.assert_allclose(numbers(found.predict_proba(A)), expected.predict_proba(X), rtol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES, ids=["strict", "refusing"])
@pytest.mark.parametrize("lazy", [False, True], ids=["plain", "dask"])
def test_whole_numbers_are_predicted_from_and_several_targets_are_scored(library, lazy):
    random = np.random.default_rng(0)
    wrap = in_chunks(library) if lazy else library.asarray
    X = random.integers(-9, 9, (300, 4))
    Y = np.column_stack([X @ np.arange(4) + random.standard_normal(300), 1000 * random.standard_normal(300)])
    weight = random.uniform(0, 2, 300)
    found, expected = Ridge().fit(wrap(X), wrap(Y), wrap(weight)), reference.Ridge().fit(X, Y, weight)
    np.testing.assert_allclose(numbers(found.predict(wrap(X))), expected.predict(X), rtol=1e-9)
    assert found.score(wrap(X), wrap(Y), wrap(weight)) == pytest.approx(expected.score(X, Y, weight), rel=1e-12)
    assert found.score(X, Y, weight) == pytest.approx(expected.score(X, Y, weight), rel=1e-12)
