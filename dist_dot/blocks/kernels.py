"""The inner products on one block: the only code that touches X.

A kernel is a frozen dataclass that is called as kernel(block, parameters) and returns its sums over the rows of the
block as one flat float64 array, so that blocks, workers and rounds are added up by one function that knows nothing of
them. The passes themselves are in `dist_dot.blocks.compiled`.
"""

from dataclasses import dataclass

import numpy as np

from dist_dot.blocks import compiled
from dist_dot.blocks.block import Block
from dist_dot.errors import DataError
from dist_dot.losses import Loss
from dist_dot.typing import Array


@dataclass(frozen=True)
class ValueAndGradient:
    """Parameters [w, b] (p + 1) -> [loss, gradient in w (p), gradient in b]: unpenalised sums over the rows."""

    loss: Loss

    def __call__(self, block: Block, parameters: Array) -> Array:
        """Read X once."""
        return _pass(self.loss.tile, block, block.y, parameters)


@dataclass(frozen=True)
class GramProduct:
    """Parameters [v, c] (p + 1) -> sum over the rows of s_i (<x_i, v> + c) [x_i, 1]: the Gram matrix times [v, c]."""

    def __call__(self, block: Block, parameters: Array) -> Array:
        """Read X once."""
        # The gradient of the squared loss for y = 0.
        return _pass(compiled.SQUARED, block, np.zeros_like(block.y), parameters)[1:]


@dataclass(frozen=True)
class Moments:
    """Parameters [x0, y0] (p + 1) -> [sum s, sums of s (x - x0) (p), of s (y - y0), of the same squared (p + 1)]."""

    def __call__(self, block: Block, parameters: Array) -> Array:
        """Read X once."""
        return compiled.moments(block.X, block.y, block.weight, np.asarray(parameters, np.float64))


@dataclass(frozen=True)
class CheckTarget:
    """Raise DataError for a y outside of the loss's domain, with its row; return the number of rows. Reads y alone."""

    loss: Loss

    def __call__(self, block: Block, parameters: Array) -> Array:
        """Look at y."""
        low, high = self.loss.domain
        outside = np.flatnonzero((block.y < low) | (block.y > high))
        if outside.size:
            row = int(outside[0])
            accepted = f"the {self.loss.name} loss takes {low:g} <= y <= {high:g}"
            raise DataError(f"y is {block.y[row]} in row {block.start + row}: {accepted}")
        return np.array([float(len(block))])


def _pass(tile: int, block: Block, y: Array, parameters: Array) -> Array:
    at = np.ascontiguousarray(parameters, block.X.dtype)
    return compiled.value_and_gradient(tile, block.X, y, block.weight, at)
