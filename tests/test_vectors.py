"""What the compiled passes may read, and what their vectors refuse."""

import numba
import numpy as np
import pytest
from numba.core.errors import NumbaError
from problems import dense_block

from dist_dot import losses
from dist_dot.kernels.passes import ValueAndGradient
from dist_dot.kernels.vectors import load, total
from dist_dot.rows.arrays import Parameters


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("points", [1, 3])
@pytest.mark.parametrize(("n", "p"), [(1, 1), (8, 1), (64, 3), (33, 7), (64, 27), (40, 301), (32, 1100)])
def test_nothing_is_read_behind_the_last_row(dtype, points, n, p):
    random = np.random.default_rng(p)
    longer = np.full(n * p + 64, np.nan, dtype)
    longer[: n * p] = random.standard_normal(n * p)
    X, y = longer[: n * p].reshape(n, p), np.full(n + 64, np.nan, dtype)
    y[:n] = random.standard_normal(n)
    at = Parameters(random.standard_normal(points * (p + 1)))
    kernel = ValueAndGradient(losses.Squared(), points)
    found = kernel(dense_block(X, y[:n]), at)
    np.testing.assert_array_equal(found, kernel(dense_block(X.copy(), y[:n].copy()), at))
    assert np.isfinite(found).all()


def test_a_strided_array_is_refused():
    @numba.njit
    def first(array):
        return total(load(array, 0))

    assert first(np.ones(16)) == 4
    with pytest.raises(NumbaError, match="not C-contiguous"):
        first(np.ones(16)[::2])
