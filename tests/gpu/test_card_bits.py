"""The same rows give the same bits: again and again, however many blocks are asked for at once, and on a cluster."""

import cupy
import dask.array as da
import dist_dot_cluster
import numpy as np
import pytest
from card import DTYPES, in_parts, laid_out, on_card, rows

from dist_dot import LogisticRegression, Objective, Ridge, lay_out, losses
from dist_dot.kernels.extended import ResidualProducts
from dist_dot.kernels.folds import ValuesAndGradients
from dist_dot.kernels.moments import CentredMoments
from dist_dot.kernels.passes import Curvature, Expansion, GramProduct, HessianProduct, Moments, ValueAndGradient
from dist_dot.kernels.targets import CheckTarget, ReferenceSums, TargetSums

P = 128
# Kernels, how many columns [w, b] each is asked with.
KERNELS = {
    "squared": (ValueAndGradient(losses.Squared()), 1),
    "logistic": (ValueAndGradient(losses.Logistic()), 1),
    "8 points": (ValueAndGradient(losses.Logistic(), 8), 8),
    "softmax": (ValueAndGradient(losses.Softmax(2)), 2),
    "Gram product": (GramProduct(), 1),
    "Hessian product": (HessianProduct(losses.Logistic()), 2),
    "moments": (Moments(), 1),
    "curvature": (Curvature(losses.Logistic()), 1),
    "expansion": (Expansion(losses.Logistic()), 1),
    "centred moments": (CentredMoments(), 0),
    "residuals": (ResidualProducts(), 1),
    "target": (CheckTarget(losses.Logistic()), 0),
    "target sums": (TargetSums(losses.Poisson()), 0),
    "reference": (ReferenceSums(losses.Logistic()), 1),
    "folds": (ValuesAndGradients(losses.Logistic(), (-1, 0, 1, 2)), 4),
}


def asked(name, dtype, n=20_011, block_rows=500):
    """Return host rows as blocks on the card, the kernel and its parameters: 41 blocks."""
    kernel, width = KERNELS[name]
    X, y, s, at = rows(n, P, dtype, losses.Logistic())
    fold = (np.arange(n) % 3).astype(dtype) if name == "folds" else None
    return laid_out(X, y, s, block_rows, fold), kernel, at(width).ravel() if width else np.zeros(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_twenty_times_the_same(name, dtype):
    blocks, kernel, at = asked(name, dtype)
    first = blocks.reduce(kernel, at).tobytes()
    assert all(blocks.reduce(kernel, at).tobytes() == first for _ in range(19))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_in_any_number_of_parts(name, dtype):
    blocks, kernel, at = asked(name, dtype)
    assert len(blocks.blocks) == 41
    whole = blocks.reduce(kernel, at).tobytes()
    for parts in (1, 3, 16, 41):
        assert in_parts(blocks, kernel, at, parts).tobytes() == whole, parts


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_point_alone_is_not_bound_to_the_bits_of_many_but_to_its_place_among_them(dtype):
    # Eight points in one read: those of the first do not depend on what the other seven are.
    blocks, kernel, at = asked("8 points", dtype)
    other = at.copy()
    other[P + 1 :] *= 3.0
    first, second = (blocks.reduce(kernel, points)[: P + 2] for points in (at, other))
    assert first.tobytes() == second.tobytes()


def test_no_bits_of_memory_that_was_used_before():
    blocks, kernel, at = asked("logistic", "float32")
    expected = blocks.reduce(kernel, at).tobytes()
    for fill in (np.nan, 1e30):
        rubbish = [cupy.full(1 << size, fill, dtype="float64") for size in range(4, 22)]
        del rubbish  # into CuPy's pool, from where the next arrays come
        assert blocks.reduce(kernel, at).tobytes() == expected


def test_checksums_are_of_the_rows():
    X, y, s, _ = rows(5003, 28, "float32")
    known = laid_out(X, y, s, 1000).checksum
    assert laid_out(X, y, s, 1000).checksum == known
    for array, place in ((X, (4999, 27)), (y, 0), (s, 5002)):
        kept = array[place]
        array[place] = np.nextafter(kept, np.float32(9))
        assert laid_out(X, y, s, 1000).checksum != known
        array[place] = kept
    assert laid_out(X[::-1].copy(), y, s, 1000).checksum != known


@pytest.fixture(scope="module")
def client():
    with dist_dot_cluster.open("local:1") as client:
        yield client


def collected(array, chunk):
    """Return a Dask array of CuPy chunks, made on the workers."""
    return da.from_array(array, chunks=(chunk, *array.shape[1:])).map_blocks(
        cupy.asarray, dtype=array.dtype, meta=cupy.empty((0,) * array.ndim, dtype=array.dtype)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cluster_has_the_bits_of_this_process(client, dtype):
    X, y, s, at = rows(20_011, P, dtype, losses.Logistic())
    here = lay_out(*on_card(X, y, s))
    there = lay_out(*(collected(array, 3001) for array in (X, y, s)))
    assert here.cuts == there.cuts and here.cuts.n_blocks > 4
    for loss in (losses.Squared(), losses.Logistic()):
        point = at(1).ravel()
        found, expected = (blocks.run(Evaluate(loss, point), lambda progress: False) for blocks in (there, here))
        assert found == expected


class Evaluate:
    """A program: the bytes of F, its gradient and its Hessian."""

    def __init__(self, loss, point):
        self.loss, self.point = loss, point

    def __call__(self, blocks, report):
        value, gradient, hessian = Objective(blocks, self.loss, 1.0).expansion(self.point)
        return np.float64(value).tobytes() + gradient.tobytes() + hessian.tobytes()


def test_fits_and_predictions_of_dask_arrays_on_the_card(client):
    X, y, _, _ = rows(20_011, P, "float32", losses.Logistic())
    y = (X[:, 0] + 0.3 * y > 0.2).astype("float32")
    Xd, yd = collected(X, 3001), collected(y, 3001)
    for new in (Ridge, LogisticRegression):
        there, here = new().fit(Xd, yd), new().fit(*on_card(X, y))
        assert there.coef_.tobytes() == here.coef_.tobytes()
        lazy = there.predict(Xd)
        assert isinstance(lazy._meta, cupy.ndarray)
        np.testing.assert_array_equal(cupy.asnumpy(lazy.compute()), cupy.asnumpy(here.predict(cupy.asarray(X))))
        assert there.score(Xd, yd) == pytest.approx(here.score(*on_card(X, y)), rel=1e-6)
