"""A loss of the user's own as functions of two numbers: the fits of the loss that it is, wherever the rows lie."""

import math
import pickle
import subprocess
import sys

import array_api_strict
import cloudpickle
import dask.array as da
import numpy as np
import pytest
from problems import dense_block

from dist_dot import Objective, Status, lay_out, losses, minimise
from dist_dot.errors import InputError
from dist_dot.kernels.passes import Curvature, HessianProduct, ValueAndGradient
from dist_dot.rows.arrays import Parameters
from dist_dot.solvers import GradientDescent


def value(y, z):
    return max(z, 0.0) - y * z + math.log1p(math.exp(-abs(z)))


def slope(y, z):
    return 1.0 / (1.0 + math.exp(-z)) - y


def bend(y, z):
    return math.exp(-abs(z)) / (1.0 + math.exp(-abs(z))) ** 2


def made(**more):
    fields = {"name": "mine", "domain": (0.0, 1.0), "curvature": 0.25}
    link, prediction = losses.Logistic().link, losses.Logistic().predict
    return losses.ScalarLoss(value, slope, bend, link=link, prediction=prediction, **fields | more)


def data(n=120, p=5, dtype="float64"):
    random = np.random.default_rng(4)
    X = random.standard_normal((n, p)).astype(dtype)
    y = (X[:, 0] + random.standard_normal(n) > 0).astype(dtype)
    return X, y, random.uniform(0.0, 2.0, n).astype(dtype) * (random.random(n) < 0.8)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "p"), [(1, 1), (13, 3), (200, 30), (40, 1100)])
def test_every_pass_is_that_of_the_loss_that_it_is(dtype, weighted, n, p):
    X, y, weight = data(n, p, dtype)
    block = dense_block(X, y, weight.astype(dtype) if weighted else None)
    at = np.random.default_rng(1).standard_normal(3 * (p + 1)) / np.sqrt(p)
    kernels = [(ValueAndGradient, (), 1), (ValueAndGradient, (3,), 3), (HessianProduct, (), 2), (Curvature, (), 1)]
    for kernel, more, count in kernels if p < 1000 else kernels[:3]:
        given = Parameters(at[: count * (p + 1)])
        found, expected = (kernel(loss, *more)(block, given) for loss in (made(), losses.Logistic()))
        share = 1e-13 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(found, expected, rtol=0, atol=share * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("solver", ["lbfgs", "newton", "auto", GradientDescent()])
def test_the_fit_is_that_of_the_loss_that_it_is(solver):
    X, y, weight = data()
    mine, its = (
        minimise(Objective(lay_out(X, y, weight), loss, 1.0), solver, tol=1e-12) for loss in (made(), losses.Logistic())
    )
    assert mine.status is its.status is Status.CONVERGED
    np.testing.assert_allclose(mine.w, its.w, rtol=1e-10)
    assert mine.intercept == pytest.approx(its.intercept, rel=1e-10)


def test_the_same_bits_on_a_cluster(clients):
    X, y, weight = data(400)
    loss = losses.ScalarLoss(  # functions that no worker can import
        lambda y, z: math.log(math.cosh(z - y)), lambda y, z: math.tanh(z - y), lambda y, z: 1 - math.tanh(z - y) ** 2
    )
    here = minimise(Objective(lay_out(X, y, weight, block_rows=50), loss, 0.5), "lbfgs")
    clients(2)
    lazy = [da.from_array(values, chunks=(90, *values.shape[1:])) for values in (X, y, weight)]
    there = minimise(Objective(lay_out(*lazy, block_rows=50), loss, 0.5), "lbfgs")
    assert here.status is Status.CONVERGED and np.array_equal(here.parameters, there.parameters)


def test_rows_that_do_not_count_may_be_outside_of_its_domain():
    loss = losses.ScalarLoss(
        lambda y, z: z + y * math.exp(-z) - math.log(y),
        lambda y, z: 1 - y * math.exp(-z),
        lambda y, z: y * math.exp(-z),
    )
    X, y, weight = data(30)
    y = np.where(weight > 0, y + 1.0, -1.0)  # whose logarithm is no number
    kept = weight > 0
    fits = [minimise(Objective(lay_out(X[k], y[k], weight[k]), loss, 0.1), "newton") for k in (kept, kept | True)]
    np.testing.assert_allclose(fits[0].w, fits[1].w, rtol=1e-9)


def test_what_numba_cannot_compile_is_named():
    with pytest.raises(InputError, match="numba cannot compile slope as a function of two numbers"):
        losses.ScalarLoss(value, lambda y, z: {"a": object()}[y], bend)
    with pytest.raises(InputError, match="numba cannot compile loss"):
        losses.ScalarLoss(lambda z: z, slope, bend)


def test_arrays_of_other_libraries_are_named():
    X, y, _ = data(20)
    X, y = map(array_api_strict.asarray, (X, y))
    with pytest.raises(
        InputError, match="the loss 'mine' is made of functions of numbers, which are for rows of NumPy's"
    ):
        minimise(Objective(lay_out(X, y), made(), 1.0), "lbfgs")


def test_a_checkpoint_knows_it_by_what_it_does_and_not_by_where_it_was_written():
    assert repr(made()) == repr(cloudpickle.loads(cloudpickle.dumps(made())))
    assert repr(made()) == repr(pickle.loads(pickle.dumps(made())))
    others = [made(curvature=1.0), made(name="x"), losses.ScalarLoss(value, slope, lambda y, z: 0.25)]
    assert len({repr(made()), *map(repr, others)}) == 4

    def scaled(by):
        return losses.ScalarLoss(lambda y, z: by * (z - y) ** 2, lambda y, z: 2 * by * (z - y), lambda y, z: 2.0 * by)

    assert repr(scaled(1.0)) == repr(scaled(1.0)) != repr(scaled(2.0))
    code = "import test_scalar_loss; print(repr(test_scalar_loss.made()))"
    elsewhere = subprocess.run([sys.executable, "-c", code], cwd="tests", capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == repr(made())
