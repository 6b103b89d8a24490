"""The inner products on one block: the only code that touches X.

A kernel is a frozen dataclass that is called as kernel(block, parameters) and returns its sums over the rows of the
block as one flat float64 array of the block's library, so that blocks, workers and rounds are added up by one function
that knows nothing of them.

Which pass runs depends on the library of the block and on the loss alone. NumPy rows go through
`dist_dot.blocks.compiled` where it has the loss. Everything else, CuPy and losses of the user's own, goes through the
array operations below, in tiles: of 256 KB for NumPy, so that the second product finds its rows in the L2 cache, and of
32 MB for a device, where a call costs what some MB cost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from dist_dot.blocks import compiled
from dist_dot.blocks.arrays import Parameters, is_other, itemsize, namespace
from dist_dot.blocks.block import Block
from dist_dot.errors import DataError
from dist_dot.losses import Loss, Squared
from dist_dot.typing import Array

HOST_TILE, DEVICE_TILE = 256 << 10, 32 << 20


@dataclass(frozen=True)
class ValueAndGradient:
    """Parameters [w, b] (p + 1) -> [loss, gradient in w (p), gradient in b]: unpenalised sums over the rows.

    With k > 1 points the parameters are [w, b] of each, one after the other, and so are the sums: k times as many.
    """

    loss: Loss
    points: int = 1

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        if self.points > 1:
            return _pass_points(self.loss, self.points, block, parameters)
        return _pass(self.loss, block, parameters)


@dataclass(frozen=True)
class GramProduct:
    """Parameters [v, c] (p + 1) -> sum over the rows of s_i (<x_i, v> + c) [x_i, 1]: the Gram matrix times [v, c]."""

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        # The gradient of the squared loss for y = 0.
        zero = namespace(block.y).zeros_like(block.y)
        return _pass(Squared(), Block(block.X, zero, block.weight, block.start), parameters)[1:]


@dataclass(frozen=True)
class Curvature:
    """Parameters [w, b] (p + 1) -> [X, 1].T D [X, 1], D = diag(s d2 loss / dz2), unpenalised: the Hessian in [w, b].

    Flat: X.T D X (p * p), X.T D 1 (p), 1.T D 1. n p^2 operations, in BLAS: NumPy's product of a matrix with its own
    transpose is a syrk.
    """

    loss: Loss

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        at = parameters.like(block.X)
        p = block.X.shape[1]
        sums = _Sums(block, p * p + p + 1)
        # So many rows that adding up the p x p numbers of a tile costs little beside making them.
        for x, y, s in _tiles(block, 8 * p):
            xp = namespace(x)
            if type(self.loss) is Squared and s is None:
                one = xp.ones_like(y)
                sums.add(x.T @ x, one @ x, _sum(one))
                continue
            d = self.loss.second(y, x @ at[:p] + at[p])
            d = d if s is None else s * d
            scaled = x * xp.reshape(xp.sqrt(d), (-1, 1))
            sums.add(scaled.T @ scaled, d @ x, _sum(d))
        return sums.total


@dataclass(frozen=True)
class Moments:
    """Parameters [x0, y0] (p + 1) -> [sum s, sums of s (x - x0) (p), of s (y - y0), of the same squared (p + 1)]."""

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        centre = parameters.like(block.X, "float64")
        if not is_other(block.X):
            return compiled.moments(block.X, block.y, block.weight, centre)
        p = block.X.shape[1]
        sums = _Sums(block, 1 + 2 * (p + 1))
        for x, y, s in _tiles(block):
            xp = namespace(x)
            weight = xp.ones_like(y) if s is None else s
            weight = xp.astype(weight, xp.float64)
            dx = xp.astype(x, xp.float64) - centre[:p]
            dy = xp.astype(y, xp.float64) - centre[p]
            first = (weight @ dx, xp.sum(weight * dy))
            sums.add(xp.sum(weight), *first, weight @ (dx * dx), xp.sum(weight * dy * dy))
        return sums.total


@dataclass(frozen=True)
class CheckTarget:
    """Raise DataError for a y outside of the loss's domain, with its row; return the number of rows. Reads y alone."""

    loss: Loss

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Look at y."""
        xp, (low, high) = namespace(block.y), self.loss.domain
        outside = (block.y < low) | (block.y > high)
        if len(block) and bool(xp.any(outside)):
            row = int(xp.argmax(xp.astype(outside, xp.int8)))
            accepted = f"the {self.loss.name} loss takes {low:g} <= y <= {high:g}"
            raise DataError(f"y is {float(block.y[row])} in row {block.start + row}: {accepted}")
        return np.array([float(len(block))])


def _pass(loss: Loss, block: Block, parameters: Parameters) -> Array:
    at = parameters.like(block.X)
    code = compiled.LOSSES.get(type(loss))
    if code is not None and not is_other(block.X):
        return compiled.value_and_gradient(code, block.X, block.y, block.weight, at)
    p = block.X.shape[1]
    sums = _Sums(block, p + 2)
    for x, y, s in _tiles(block):
        z = x @ at[:p] + at[p]
        value, residual = loss.value(y, z), loss.first(y, z)
        if s is not None:
            value, residual = s * value, s * residual
        sums.add(_sum(value), residual @ x, _sum(residual))
    return sums.total


def _pass_points(loss: Loss, points: int, block: Block, parameters: Parameters) -> Array:
    """As above for several points: two matrix products per tile, faster than any loop of ours from two columns on."""
    xp, p = namespace(block.X), block.X.shape[1]
    at = xp.reshape(parameters.like(block.X), (points, p + 1))
    W, b = at[:, :p].T, at[:, p]
    sums = _Sums(block, points * (p + 2))
    for x, y, s in _tiles(block):
        y = xp.reshape(y, (-1, 1))
        z = x @ W + b
        value, residual = loss.value(y, z), loss.first(y, z)
        if s is not None:
            s = xp.reshape(s, (-1, 1))
            value, residual = s * value, s * residual
        columns = (_sum(value, 0), xp.astype(residual.T @ x, xp.float64), _sum(residual, 0))
        sums.add(xp.concat([xp.reshape(columns[0], (-1, 1)), columns[1], xp.reshape(columns[2], (-1, 1))], axis=1))
    return sums.total


def _tiles(block: Block, rows: int = 1) -> Iterator[tuple[Any, Any, Any]]:
    """Yield X, y and weight of some rows at a time, `rows` at least."""
    size = DEVICE_TILE if is_other(block.X) else HOST_TILE
    rows = max(rows, size // (block.X.shape[1] * itemsize(block.X)))
    for start in range(0, len(block), rows):
        part = slice(start, min(start + rows, len(block)))
        yield block.X[part, :], block.y[part], None if block.weight is None else block.weight[part]


def _sum(values: Any, axis: int | None = None) -> Any:
    xp = namespace(values)
    return xp.sum(values, axis=axis, dtype=xp.float64)


class _Sums:
    """Sums over tiles, in float64, in the library of the block and on its device."""

    def __init__(self, block: Block, size: int) -> None:
        self._block, self._size = block, size
        self._total: Array | None = None

    def add(self, *parts: Any) -> None:
        """Add numbers and arrays, flat and end to end."""
        xp = namespace(self._block.X)
        flat = xp.concat([xp.reshape(xp.astype(part, xp.float64, copy=False), (-1,)) for part in parts])
        self._total = flat if self._total is None else self._total + flat

    @property
    def total(self) -> Array:
        """The sums; zeros where there were no rows."""
        if self._total is not None:
            return self._total
        X = self._block.X
        zeros: Array = namespace(X).zeros(self._size, dtype=namespace(X).float64, device=array_api_compat.device(X))
        return zeros
