"""The rows themselves, end to end: what least squares needs to know where there are fewer rows than columns."""

from dataclasses import dataclass

from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.passes import column, fold_column
from dist_dot.rows.arrays import Parameters, namespace
from dist_dot.rows.block import Block
from dist_dot.typing import Array


@dataclass(frozen=True)
class Rows(Kernel):
    """Any parameters -> [x (p), y (k), s] of each row, in order, end to end: n (p + k + 1) numbers, float64.

    With `fold` the number of the row's fold comes last. An offset is taken off y: see `dist_dot.kernels.moments`.
    The sums of other kernels have one size; these grow with the rows, so it is for few of them.
    """

    fold: bool = False

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Copy the rows."""
        xp = namespace(block.y)
        X, y = xp.astype(block.X.dense(), xp.float64), xp.astype(column(block.y), xp.float64)
        y = y if block.offset is None else y - xp.astype(column(block.offset), xp.float64)
        s: Array = xp.ones_like(y[:, :1]) if block.weight is None else xp.astype(column(block.weight), xp.float64)
        last = [xp.astype(fold_column(block), xp.float64)] if self.fold else []
        rows: Array = xp.reshape(xp.concat([X, y, s, *last], axis=1), (-1,))
        return rows

    def merge(self, left: Array, right: Array) -> Array:
        """Return the rows of both."""
        rows: Array = namespace(left).concat([left, right])
        return rows
