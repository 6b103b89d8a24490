"""Many fits in one read of X: the sums of each without the rows of its fold.

The last column of y is the number of each row's fold. A fit leaves out one of them, or none, which is fold -1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dist_dot.kernels import device
from dist_dot.kernels.columns import column_sums
from dist_dot.kernels.elementwise import code_of
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.passes import TileSums, ValueAndGradient, column, gradient_sums, tiles, total
from dist_dot.losses import Loss
from dist_dot.rows.arrays import Parameters, is_other, namespace
from dist_dot.rows.block import Block
from dist_dot.typing import Array

ALL = -1
# Array operations on two columns took as long as 3.9 reads of X, on eight 7.9, on a hundred some 32.
FEW = 8
# So many rows that adding up the fits' gradients costs little beside making them.
ROWS = 384


@dataclass(frozen=True)
class WithoutFold(Kernel):
    """Another kernel, over the rows that are not in the fold, with the target alone for y."""

    kernel: Kernel
    fold: int

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Run it."""
        y = block.y[:, 0]
        weight = block.weight
        if self.fold != ALL:
            kept = namespace(y).astype(block.y[:, 1] != self.fold, y.dtype)
            weight = kept if weight is None else weight * kept
        return self.kernel(Block(block.X, y, weight, block.start), parameters)

    def merge(self, left: Array, right: Array) -> Array:
        """Return the sums over the rows of both, as the kernel has them."""
        return self.kernel.merge(left, right)


@dataclass(frozen=True)
class ValuesAndGradients(Kernel):
    """Parameters of each fit, one after the other -> the sums of `ValueAndGradient` of each, without its fold."""

    loss: Loss
    folds: tuple[int, ...]

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once; few fits of a loss that is not compiled read it each, which is faster in the cache."""
        xp, p, fits = namespace(block.X), block.X.shape[1], len(self.folds)
        code = code_of(self.loss, block.X)
        if code is not None:
            columns = parameters.like(block.X).reshape(fits, p + 1)
            folds = np.array(self.folds, block.X.dtype)
            return column_sums(code, block.X, block.y, block.weight, columns, np.zeros(fits, int), folds).ravel()
        if fits < FEW and not is_other(block.X):
            parts = np.split(parameters.like(block.X, "float64"), fits)
            kernels = (WithoutFold(ValueAndGradient(self.loss), fold) for fold in self.folds)
            return np.concatenate([kernel(block, Parameters(at)) for kernel, at in zip(kernels, parts, strict=True)])
        columns = xp.reshape(parameters.like(block.X), (-1, p + 1))
        W, b = columns[:, :p].T, columns[:, p]
        width = columns.shape[0] // fits
        sums = TileSums(block, fits * (1 + width * (p + 1)))
        folds = xp.asarray(list(self.folds), dtype=block.X.dtype)
        for x, y, s in tiles(block, ROWS, fits * width):
            m = x.shape[0]
            z = xp.reshape(x @ W + b, (m, fits, width))
            target = spread(self.loss, y[:, 0])
            value, residual = xp.reshape(self.loss.value(target, z), (m, fits)), self.loss.first(target, z)
            kept = xp.astype(column(y[:, 1]) != folds, x.dtype)
            kept = kept if s is None else kept * column(s)
            residual = xp.reshape(residual * xp.expand_dims(kept, axis=2), (m, fits * width))
            gradient = xp.reshape(gradient_sums(x, residual), (fits, width * (p + 1)))
            sums.add(xp.concat([column(total(kept * value, 0)), gradient], axis=1))
        return sums.total

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> Any:
        """Read X once for every 8 columns of parameters."""
        columns = parameters.reshape(-1, rows.p + 1)
        if not rows.has_pass(self.loss):
            return None
        return rows.value_and_gradient(self.loss, columns, len(columns) // len(self.folds), self.folds)


@dataclass(frozen=True)
class FoldScores(Kernel):
    """Parameters of each fit -> [sum s, losses, sum s of rows predicted right] of each, over the rows of its fold.

    With class_weight (k,) the weights of rows are divided by that of their class.
    """

    loss: Loss
    folds: tuple[int, ...]
    class_weight: tuple[float, ...] | None = None

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        xp, p, fits = namespace(block.X), block.X.shape[1], len(self.folds)
        columns = xp.reshape(parameters.like(block.X), (-1, p + 1))
        W, b = columns[:, :p].T, columns[:, p]
        sums = TileSums(block, fits * 3)
        folds = xp.asarray(list(self.folds), dtype=block.X.dtype)
        for x, y, s in tiles(block, width=columns.shape[0]):
            z = xp.reshape(x @ W + b, (x.shape[0], fits, -1))
            value = xp.reshape(self.loss.value(spread(self.loss, y[:, 0]), z), (x.shape[0], fits))
            predicted = z[:, :, 0] > 0 if self.loss.outputs == 1 else xp.argmax(z, axis=2)
            right = xp.astype(xp.astype(predicted, x.dtype) == column(y[:, 0]), x.dtype)
            held = xp.astype(column(y[:, 1]) == folds, x.dtype)
            held = held if s is None else held * column(s)
            if self.class_weight is not None:
                inverse = xp.asarray([1.0 / w if w > 0 else 0.0 for w in self.class_weight], dtype=x.dtype)
                held = held * column(xp.take(inverse, xp.astype(y[:, 0], xp.int64)))
            sums.add(xp.stack([total(held, 0), total(held * value, 0), total(held * right, 0)], axis=1))
        return sums.total


def spread(loss: Loss, y: Any) -> Any:
    """Return y (m,) in the shape that meets z (m, fits, outputs)."""
    return column(y) if loss.outputs > 1 else namespace(y).reshape(y, (-1, 1, 1))
