"""Rows on the card, and the sums that kernels owe for them: from textbook formulas, in float64, on the host."""

import cupy
import numpy as np
from problems import losses_and_derivatives

from dist_dot import lay_out
from dist_dot.kernels import device
from dist_dot.kernels.tree import fold, root

DTYPES = ("float32", "float64")
# Rounding errors are this many units of the last place of the sum of the sizes, at most.
UNITS = 32


def on_card(*arrays):
    """Return the arrays on the card; None stays None."""
    return tuple(None if array is None else cupy.asarray(array) for array in arrays)


def address(array):
    """Return where an array on the card begins."""
    return array.data.ptr


def misaligned(array):
    """Return a copy on the card that begins one number after a multiple of 16 bytes."""
    room = cupy.empty(array.size + 1, dtype=array.dtype)
    view = room[1:].reshape(array.shape)
    view[...] = cupy.asarray(array)
    assert address(view) % 16 == array.dtype.itemsize
    return view


def whole_rows(n, p, dtype, weighted=True, seed=0):
    """Return X, y, weight and [w, b] of small whole numbers: every order of adding them up gives the same sums."""
    random = np.random.default_rng([n, p, seed])
    X = random.integers(-1, 2, (n, p), dtype=np.int8).astype(dtype)
    y = random.integers(-2, 3, n).astype(dtype)
    weight = random.integers(0, 3, n).astype(dtype) if weighted else None
    w = np.zeros(p)
    w[random.choice(p, min(p, 20), replace=False)] = 1.0
    w[[0, -1]] = 2.0, -1.0  # what is lost is often first or last
    return X, y, weight, np.append(w, 3.0)


def rows(n, p, dtype, loss=None, targets=1, weighted=True, seed=0):
    """Return X, y in the domain of the loss, weight with zeros, and a function that makes so many columns [w, b]."""
    random = np.random.default_rng([n, p, seed])
    X = random.standard_normal((n, p), dtype=dtype)
    shape = n if targets == 1 else (n, targets)
    name = "squared" if loss is None else loss.name
    if name == "softmax":
        y = random.integers(0, loss.outputs, n)
    elif name == "logistic":
        y = random.integers(0, 2, shape)
    elif name in ("poisson", "gamma"):
        y = random.poisson(2.0, shape) + 0.5 * (name == "gamma")
    else:
        y = 2.0 * random.standard_normal(shape)
    weight = (random.integers(0, 3, n) * random.uniform(0.5, 1.5, n)).astype(dtype) if weighted else None

    def at(columns):
        return (random.standard_normal((columns, p + 1)) / np.sqrt(p)).astype(dtype).astype("float64")

    return X, y.astype(dtype), weight, at


class Expected:
    """What sums over rows are, and how far from it rounding may take them."""

    def __init__(self, loss, X, y, weight, columns, dtype):
        n = len(X)
        self.X, self.k = X.astype("float64"), len(columns)
        self.s = np.ones(n) if weight is None else weight.astype("float64")
        self.unit = UNITS * np.finfo(dtype).eps
        y = y.astype("float64").reshape(n, -1)
        z = self.X @ columns[:, :-1].T + columns[:, -1]
        if loss.outputs == 1 and y.shape[1] == 1:
            y = np.repeat(y, self.k, axis=1)
        self.size_of_z = np.abs(self.X) @ np.abs(columns[:, :-1]).T + np.abs(columns[:, -1])
        self.value, self.first, self.second = losses_and_derivatives(loss, y, z)

    def value_and_gradient(self):
        """Return the sums as one point's, and their tolerances."""
        shaky = np.abs(self.first) + np.einsum("icd,id->ic", np.abs(self.second), self.size_of_z)
        both = []
        for matrix, s, value, slopes in (
            (self.X, self.s, self.value, self.first),
            (np.abs(self.X), self.s, np.abs(self.value) + (np.abs(self.first) * self.size_of_z).sum(1), shaky),
        ):
            weighted = s[:, None] * slopes
            gradient = np.column_stack([weighted.T @ matrix, weighted.sum(0)])
            both.append(np.append(s @ value, gradient.ravel()))
        return both[0], self.unit * both[1]

    def hessian(self, c, d):
        """Return the flat triangle of [X, 1].T D [X, 1] of two outputs, and its tolerances."""
        below = np.tril_indices(self.X.shape[1] + 1)
        both = []
        for matrix, second in (
            (self.X, self.second[:, c, d]),
            (np.abs(self.X), np.abs(self.second[:, c, d]) + np.abs(self.second[:, c]).sum(1) * self.size_of_z.max(1)),
        ):
            bordered = np.column_stack([matrix, np.ones(len(matrix))])
            both.append((bordered.T @ ((self.s * second)[:, None] * bordered))[below])
        return both[0], self.unit * both[1]

    def hessian_product(self, direction):
        """Return the Hessian times the columns (k, p + 1), and its tolerances."""
        both = []
        u = self.X @ direction[:, :-1].T + direction[:, -1]
        size = np.abs(self.X) @ np.abs(direction[:, :-1]).T + np.abs(direction[:, -1])
        for matrix, second, times in ((self.X, self.second, u), (np.abs(self.X), np.abs(self.second), size)):
            wide = 1.0 if matrix is self.X else 1.0 + self.size_of_z.max(1, keepdims=True)
            weighted = self.s[:, None] * np.einsum("icd,id->ic", second, times) * wide
            both.append(np.column_stack([weighted.T @ matrix, weighted.sum(0)]).ravel())
        return both[0], self.unit * both[1]


def assert_near(found, expected, tolerance, what=""):
    """Raise where an entry is farther from what is expected than its tolerance."""
    assert found.shape == expected.shape, what
    assert np.isfinite(found).all(), what
    off = np.abs(found - expected) / np.maximum(tolerance, 1e-300)
    assert off.max(initial=0.0) <= 1.0, f"{what}: entry {off.argmax()} is {off.max():.3g} tolerances off"


def in_parts(blocks, kernel, at, parts):
    """Return the sum of all blocks as a cluster's workers make it: each of some ranges by itself, then all together."""
    everything, leaves, merge = blocks.blocks, len(blocks.blocks), kernel.merge
    nodes, size = {}, -(-leaves // parts)
    for start in range(0, leaves, size):
        numbers = list(range(start, min(start + size, leaves)))
        nodes |= device.reduce([everything[number] for number in numbers], numbers, leaves, kernel, at)
    return fold(nodes, leaves, merge)[root(leaves)]


def laid_out(X, y, weight=None, block_rows="auto", fold=None):
    """Return blocks of these host rows on the card."""
    X, y, weight, fold = on_card(X, y, weight, fold)
    return lay_out(X, y, weight, fold=fold, block_rows=block_rows)
