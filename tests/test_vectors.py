"""What the compiled passes may read, and what their vectors refuse."""

import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.errors import NumbaError
from problems import dense_block

import dist_dot
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


def test_an_edit_of_what_is_compiled_into_a_function_is_noticed(tmp_path):
    """In a copy of the package: the second process loads what the first has compiled, the third compiles anew."""
    package = Path(dist_dot.__file__).parent
    shutil.copytree(package, tmp_path / "dist_dot", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import numpy as np; from dist_dot.kernels import gram; from dist_dot.kernels.unlocked import syrk_address;"
        "square = np.zeros((2, 2)); gram._add_square(syrk_address(8), np.ones((9, 2)), square);"
        "print(square[1, 0], sum(gram._add_square.stats.cache_hits.values()))"
    )

    def run():
        made = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        value, hits = made.stdout.split()
        return float(value), int(hits)

    assert run() == (9.0, 0) and run() == (9.0, 1)
    file = tmp_path / "dist_dot" / "kernels" / "unlocked.py"
    file.write_text(file.read_text().replace("ir.Constant(number, 1.0)", "ir.Constant(number, 2.0)"))
    assert run() == (18.0, 0)
