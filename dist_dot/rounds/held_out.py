"""Rows that are held out of a fit, and scored in the very rounds that train it.

Of every `one_in` consecutive rows one is held out, drawn by their number: the same rows for any cuts and any cluster,
spread over the data in whatever order they come. No row is copied or moved; the others get the weight that they had,
and the rows held out weigh 0.
"""

from dataclasses import dataclass, replace

import array_api_compat
import numpy as np

from dist_dot.errors import InputError
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.passes import Expansion, ValueAndGradient, column, offset, total
from dist_dot.losses import Loss
from dist_dot.rounds.blocks import Blocks, Front
from dist_dot.rows.arrays import Parameters, namespace
from dist_dot.rows.block import Block
from dist_dot.typing import Array

# Evaluations whose losses are remembered: a line search goes back to one of its last.
REMEMBERED = 32


def held_out(block: Block, one_in: int) -> Array:
    """Return whether each row (m,) is held out."""
    xp, device, m = namespace(block.y), array_api_compat.device(block.y), len(block)
    first = block.start // one_in
    groups = xp.arange(first, (block.start + m - 1) // one_in + 1, dtype=xp.int64, device=device)
    # Fibonacci hashing (Knuth, The art of computer programming 3, section 6.4): the high half of the product.
    drawn = groups % 2**31 * 2654435761 % 2**32 // 2**16 % one_in
    of_row = xp.repeat(groups * one_in + drawn, one_in)
    begin = block.start - first * one_in
    held: Array = of_row[begin : begin + m] == xp.arange(block.start, block.start + m, dtype=xp.int64, device=device)
    return held


@dataclass(frozen=True)
class Kept(Kernel):
    """Another kernel, over the rows that are not held out."""

    kernel: Kernel
    one_in: int

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Do what the kernel does."""
        weight = namespace(block.y).astype(~held_out(block, self.one_in), block.y.dtype)
        weight = weight if block.weight is None else weight * block.weight
        return self.kernel(replace(block, weight=weight), parameters)

    def merge(self, left: Array, right: Array) -> Array:
        """Return the sums over the rows of both, as the kernel has them."""
        return self.kernel.merge(left, right)


@dataclass(frozen=True)
class KeptAndScored(Kernel):
    """Parameters of some points -> the sums of a kernel over the rows that are kept, then of those held out: see below.

    They are sum s, and the sum of s * loss at each point.
    """

    kernel: ValueAndGradient | Expansion
    one_in: int

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once, and the rows held out once more, which is cheaper than to mask a pass."""
        xp, points, loss = namespace(block.y), self.kernel.points, self.kernel.loss
        rows = block.take(xp.nonzero(held_out(block, self.one_in))[0])
        m, p = rows.X.shape
        columns = xp.reshape(parameters.like(block.y), (-1, p + 1))
        z = offset(rows.X.times(columns[:, :p].T) + columns[:, p], rows)
        z = xp.reshape(z, (m, points, columns.shape[0] // points))
        y = column(rows.y) if loss.outputs > 1 else xp.expand_dims(column(rows.y), axis=1)  # m may be 0
        value = xp.sum(xp.reshape(loss.value(y, z), (m, points, z.shape[2] // loss.outputs)), axis=2)
        s = xp.ones_like(value[:, 0]) if rows.weight is None else rows.weight
        scores = xp.concat([xp.reshape(total(s), (1,)), total(column(s) * value, 0)])
        sums: Array = xp.concat([Kept(self.kernel, self.one_in)(block, parameters), scores])
        return sums


class HeldOut(Front):
    """Blocks without the rows that are held out; the losses of those come with each evaluation of F.

    They are kept here for the last evaluations: a solver and its state need not carry a number that they do not use.
    """

    def __init__(self, blocks: Blocks, one_in: int) -> None:
        super().__init__(blocks)
        self._one_in = one_in
        self._losses: dict[bytes, float] = {}

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the sums over the rows that are kept. One round."""
        if not isinstance(kernel, ValueAndGradient | Expansion):
            return self._blocks.reduce(Kept(kernel, self._one_in), parameters)
        points, sums = kernel.points, self._blocks.reduce(KeptAndScored(kernel, self._one_in), parameters)
        weight, losses = sums[-1 - points], sums[-points:]
        if not weight > 0:
            raise InputError(f"early stopping holds out one row in {self._one_in}, and those have no weight")
        for at, loss in zip(np.split(parameters, points), losses, strict=True):
            self._losses[at.tobytes()] = float(loss / weight)
        for old in list(self._losses)[:-REMEMBERED]:
            del self._losses[old]
        return sums[: -1 - points]

    def loss_at(self, loss: Loss, parameters: Array) -> float:
        """Return the mean loss of the rows held out. No round where F was evaluated there lately, else one."""
        if parameters.tobytes() not in self._losses:
            self.reduce(ValueAndGradient(loss), parameters)
        return self._losses[parameters.tobytes()]
