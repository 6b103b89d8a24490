"""BLAS keeps to one thread while anybody computes, and has its own again afterwards."""

import subprocess
import sys
import threading
from dataclasses import dataclass

import dask.array as da
import numpy as np
import pytest
import scipy.linalg  # noqa: F401  # so that its BLAS is looked at, too
from sklearn.utils.class_weight import compute_class_weight
from threadpoolctl import threadpool_info, threadpool_limits

from dist_dot import LinearRegression, LogisticRegression, Objective, lay_out, losses, top_k
from dist_dot.kernels.blas import one_blas_thread
from dist_dot.kernels.kernel import Kernel
from dist_dot.linear_model.labels import class_weights
from dist_dot.products import search


def threads():
    """Return the numbers of threads of the BLAS libraries of this process."""
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(2, user_api="blas"):
        yield
        assert threads() == {2}


@dataclass(frozen=True)
class Look(Kernel):
    """A kernel that returns the largest number of threads, which does not add up."""

    def __call__(self, block, parameters):
        return np.array([float(max(threads()))])

    def merge(self, left, right):
        return np.maximum(left, right)


def look_around(blocks, report):
    """A program that looks before, in and after a round: at the loop, at the workers, and at the loop again."""
    before = max(threads())
    return before, blocks.reduce(Look(), np.zeros(0))[0], max(threads())


def test_the_last_to_leave_lifts_the_limit():
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    assert threads() == {1}
    first.__exit__(None, None, None)
    assert threads() == {1}
    second.__exit__(None, None, None)
    assert threads() == {2}


def test_an_error_lifts_the_limit():
    class Fails(Kernel):
        def __call__(self, block, parameters):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lay_out(np.ones((3, 1)), np.ones(3)).reduce(Fails(), np.zeros(0))
    assert threads() == {2}


def test_a_fit_that_overlaps_another_keeps_its_one_thread():
    blocks = [lay_out(np.ones((3, 1)), np.ones(3)) for _ in range(2)]
    entered, left = threading.Event(), threading.Event()
    seen = []

    def second(rows, report):
        entered.set()
        assert left.wait(30)
        seen.append(look_around(rows, report))

    other = threading.Thread(target=blocks[1].run, args=(second, None))

    def first(rows, report):
        other.start()
        assert entered.wait(30)

    blocks[0].run(first, None)
    left.set()
    other.join()
    assert seen == [(1, 1, 1)]


def test_rounds_and_loops_have_one_thread(monkeypatch):
    X = np.ones((3, 1))
    blocks = lay_out(X, np.ones(3))
    assert blocks.reduce(Look(), np.zeros(0)) == 1  # outside of a loop
    assert blocks.run(look_around, None) == (1, 1, 1)
    seen = []
    whole = search._merge
    monkeypatch.setattr(search, "_merge", lambda parts: seen.append(threads()) or whole(parts))
    top_k(X, X[:1], 1)
    assert seen == [{1}]


def test_what_a_fit_says_of_its_coefficients_is_reckoned_with_one_thread(rows, monkeypatch):
    from dist_dot.solvers.least_squares import Summary

    seen = []
    whole = Summary.residual_squares
    monkeypatch.setattr(Summary, "residual_squares", lambda self: seen.append(threads()) or whole(self))
    LinearRegression().fit(*rows).fit_.inference()
    assert seen == [{1}]


@pytest.mark.filterwarnings("ignore:Sending large graph")
def test_a_run_beside_the_scheduler_has_one_thread(clients):
    with clients(2).as_current():
        X = da.ones((40, 2), chunks=(10, 2))
        assert lay_out(X, X[:, 0], block_rows=10).run(look_around, lambda progress: False) == (1, 1, 1)


FRESH = """
import numpy, sys
from threadpoolctl import threadpool_info
from dist_dot.kernels.blas import one_blas_thread
assert "scipy" not in sys.modules
with one_blas_thread():
    import scipy.linalg
    print(sorted((each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")))
"""


def test_the_blas_of_scipy_is_limited_whoever_imports_it_when():
    environment = {"OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", FRESH], env=environment | {"PYTHONPATH": ":".join(sys.path)},
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert set(eval(done.stdout)) == {1}, done.stderr


@pytest.mark.parametrize("loss", [losses.Poisson(), losses.Gamma()])
def test_the_best_constant_has_the_same_bits_with_any_number_of_threads(loss):
    random = np.random.default_rng(0)
    X, y = random.standard_normal((60_000, 2)), random.gamma(2.0, size=60_000)
    objective = Objective(lay_out(X, y, random.uniform(0, 2, 60_000)), loss)
    found = []
    for limit in (1, 2):
        with threadpool_limits(limit, user_api="blas"):
            weight, start = objective.null_model()
            found.append((weight, start.tobytes()))
    assert found[0] == found[1]


def test_balanced_weights_have_the_same_bits_however_rows_are_chunked():
    random = np.random.default_rng(0)
    n = 600_000
    codes, s = random.integers(0, 3, n).astype(float), random.uniform(0, 1, n)
    here = class_weights(codes, s, "balanced", np.arange(3))
    expected = [s.sum() / (3 * s[codes == code].sum()) for code in range(3)]
    np.testing.assert_allclose(here, expected, rtol=1e-13)
    for chunks in (n, 70_001):
        lazy = (da.from_array(array, chunks=chunks) for array in (codes, s))
        assert class_weights(*lazy, "balanced", np.arange(3)).tobytes() == here.tobytes()
    assert class_weights(da.from_array(codes, chunks=70_001), s, "balanced", np.arange(3)).tobytes() == here.tobytes()
    plain = class_weights(da.from_array(codes, chunks=70_001), None, "balanced", np.arange(3))
    np.testing.assert_array_equal(plain, compute_class_weight("balanced", classes=np.arange(3.0), y=codes))


@pytest.mark.filterwarnings("ignore:Sending large graph")
def test_balanced_fits_have_the_same_bits_however_rows_are_chunked():
    random = np.random.default_rng(0)
    X, s = random.standard_normal((400_000, 2)), random.uniform(0, 1, 400_000)
    y = (X[:, 0] + random.standard_normal(400_000) > 1).astype(float)
    model = LogisticRegression(class_weight="balanced", max_iter=2, tol=0, solver="newton")
    with pytest.warns(match="after 2 steps"):
        here = model.fit(X, y, s).coef_.tobytes()
    for chunks in (50_000, 7_001):
        lazy = (da.from_array(array, chunks=(chunks, *array.shape[1:])) for array in (X, y, s))
        with pytest.warns(match="after 2 steps"):
            assert model.fit(*lazy).coef_.tobytes() == here
