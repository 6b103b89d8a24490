"""Many fits in one read of X: the sums of each without the rows of its fold. Blocks have the column `fold`.

A fit leaves out one of the folds, or none, which is fold -1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dist_dot.kernels import device
from dist_dot.kernels.columns import column_sums
from dist_dot.kernels.elementwise import code_of
from dist_dot.kernels.kernel import Kernel, SumsOfBlocks
from dist_dot.kernels.passes import TileSums, ValueAndGradient, column, fold_column, gradient_sums, offset, tiles, total
from dist_dot.losses import Loss
from dist_dot.rows.arrays import Parameters, is_other, like, namespace
from dist_dot.rows.block import Block
from dist_dot.typing import Array

ALL = -1
# Array operations on two columns took as long as 3.9 reads of X, on eight 7.9, on a hundred some 32.
FEW = 8
# So many rows that adding up the fits' gradients costs little beside making them.
ROWS = 384


@dataclass(frozen=True)
class WithoutFold(Kernel):
    """Another kernel, over the rows that are not in the fold."""

    kernel: Kernel
    fold: int

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Run it."""
        weight = block.weight
        if self.fold != ALL:
            kept = namespace(block.y).astype(block.fold != self.fold, block.y.dtype)
            weight = kept if weight is None else weight * kept
        return self.kernel(replace(block, weight=weight), parameters)

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
        xp, p, fits = namespace(block.y), block.X.shape[1], len(self.folds)
        code = code_of(self.loss, block.X.array)
        if code is not None:
            columns = parameters.like(block.y).reshape(-1, p + 1)
            return column_sums(code, block, columns, fits, np.array(self.folds, block.y.dtype)).ravel()
        if fits < FEW and not is_other(block.y):
            parts = np.split(parameters.like(block.y, "float64"), fits)
            kernels = (WithoutFold(ValueAndGradient(self.loss), fold) for fold in self.folds)
            return np.concatenate([kernel(block, Parameters(at)) for kernel, at in zip(kernels, parts, strict=True)])
        columns = xp.reshape(parameters.like(block.y), (-1, p + 1))
        W, b = columns[:, :p].T, columns[:, p]
        width = columns.shape[0] // fits
        sums = TileSums(block, fits * (1 + width * (p + 1)))
        folds = like(self.folds, block.y)
        for rows in tiles(block, ROWS, fits * width):
            m = len(rows)
            z = xp.reshape(offset(rows.X.times(W) + b, rows), (m, fits, width))
            target = spread(self.loss, rows.y)
            value, residual = xp.reshape(self.loss.value(target, z), (m, fits)), self.loss.first(target, z)
            kept = xp.astype(fold_column(rows) != folds, block.y.dtype)
            kept = kept if rows.weight is None else kept * column(rows.weight)
            residual = xp.reshape(residual * xp.expand_dims(kept, axis=2), (m, fits * width))
            gradient = xp.reshape(gradient_sums(rows.X, residual), (fits, width * (p + 1)))
            sums.add(xp.concat([column(total(kept * value, 0)), gradient], axis=1))
        return sums.total

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
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
        xp, p, fits, dtype = namespace(block.y), block.X.shape[1], len(self.folds), block.y.dtype
        columns = xp.reshape(parameters.like(block.y), (-1, p + 1))
        W, b = columns[:, :p].T, columns[:, p]
        sums = TileSums(block, fits * 3)
        folds = like(self.folds, block.y)
        for rows in tiles(block, width=columns.shape[0]):
            m, y = len(rows), rows.y
            z = xp.reshape(offset(rows.X.times(W) + b, rows), (m, fits, -1))
            value = xp.reshape(self.loss.value(spread(self.loss, y), z), (m, fits))
            predicted = z[:, :, 0] > 0 if self.loss.outputs == 1 else xp.argmax(z, axis=2)
            right = xp.astype(xp.astype(predicted, dtype) == column(y), dtype)
            held = xp.astype(fold_column(rows) == folds, dtype)
            held = held if rows.weight is None else held * column(rows.weight)
            if self.class_weight is not None:
                inverse = like([1.0 / w if w > 0 else 0.0 for w in self.class_weight], block.y)
                held = held * column(xp.take(inverse, xp.astype(y, xp.int64)))
            sums.add(xp.stack([total(held, 0), total(held * value, 0), total(held * right, 0)], axis=1))
        return sums.total


def spread(loss: Loss, y: Array) -> Array:
    """Return y (m,) in the shape that meets z (m, fits, outputs)."""
    spread: Array = column(y) if loss.outputs > 1 else namespace(y).reshape(y, (-1, 1, 1))
    return spread
