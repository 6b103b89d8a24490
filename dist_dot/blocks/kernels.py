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
    """Parameters [w, b] (p + 1) -> [loss, gradient in w (p), gradient in b]: unpenalised sums over the rows."""

    loss: Loss

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
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


def _tiles(block: Block) -> Iterator[tuple[Any, Any, Any]]:
    """Yield X, y and weight of some rows at a time."""
    size = DEVICE_TILE if is_other(block.X) else HOST_TILE
    rows = max(1, size // (block.X.shape[1] * itemsize(block.X)))
    for start in range(0, len(block), rows):
        part = slice(start, min(start + rows, len(block)))
        yield block.X[part, :], block.y[part], None if block.weight is None else block.weight[part]


def _sum(values: Any) -> Any:
    xp = namespace(values)
    return xp.sum(values, dtype=xp.float64)


class _Sums:
    """Sums over tiles, in float64, in the library of the block and on its device."""

    def __init__(self, block: Block, size: int) -> None:
        self._xp = namespace(block.X)
        self.total: Array = self._xp.zeros(size, dtype=self._xp.float64, device=array_api_compat.device(block.X))

    def add(self, *parts: Any) -> None:
        """Add numbers and vectors, laid end to end."""
        xp = self._xp
        self.total = self.total + xp.concat([xp.reshape(xp.astype(part, xp.float64), (-1,)) for part in parts])
