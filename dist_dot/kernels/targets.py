"""Sums over y alone, and what F and its gradient are where z is a constant: for the best constant, and the stop.

A constant z is one to which a row adds its offset. Kernels as in `dist_dot.kernels.passes`. For NumPy blocks without an
offset the loops over the rows are compiled: threads that make many small arrays wait for each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import array_api_compat
import numpy as np

from dist_dot.errors import DataError
from dist_dot.kernels import compiled, device
from dist_dot.kernels.kernel import Kernel, SumsOfBlocks
from dist_dot.kernels.passes import Moments, TileSums, ValueAndGradient, column, offset, tiles, total
from dist_dot.losses import POSITIVE, Loss, Squared, lines_of, shifted
from dist_dot.rows.arrays import Parameters, is_other, namespace
from dist_dot.rows.block import Block
from dist_dot.rows.design import Dense
from dist_dot.typing import Array


@dataclass(frozen=True)
class CheckTarget(Kernel):
    """Raise DataError for a y outside of the loss's domain, with its row; return the sum of s. Reads y alone."""

    loss: Loss
    reads: ClassVar[str] = "y"
    of_z: ClassVar[bool] = False

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Look at y."""
        if block.on_device:
            here: Array | None = device.of_one(block, self, parameters)
            if here is not None:
                return here
        xp, (low, high) = namespace(block.y), self.loss.domain
        outside = (block.y < low) | (block.y > high)
        if self.loss.outputs > 1:
            outside = outside | (block.y != xp.floor(block.y))
        if len(block) and bool(xp.any(outside)):
            self._refuse(block, int(xp.argmax(xp.astype(outside, xp.int8))))
        s = xp.ones_like(block.y) if block.weight is None else block.weight
        weight: Array = xp.reshape(total(s), (1,))
        return weight

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
        """Look at y."""
        self.look(rows, blocks)
        return rows.target_sums(Squared())[:, :1].copy()

    def look(self, rows: device.DeviceRows, blocks: Sequence[Block]) -> None:
        """Raise DataError for a y on a card that is outside of the domain."""
        for block, place in zip(blocks, rows.outside(*self.loss.domain, self.loss.outputs > 1), strict=True):
            if place >= 0:
                self._refuse(block, place)

    def _refuse(self, block: Block, place: int) -> None:
        """Raise it for the number in this place of y, row by row."""
        row, target = divmod(place, block.y.shape[1] if block.y.ndim == 2 else 1)
        wrong = float(block.y[row, target] if block.y.ndim == 2 else block.y[row])
        words = accepted(self.loss)
        if 0.0 < wrong < POSITIVE == self.loss.domain[0]:
            words += f", and float32 none below {POSITIVE:.1e}: multiply y by a power of ten"
        raise DataError(f"y is {wrong} in row {block.start + row}: {words}")


def accepted(loss: Loss) -> str:
    """Return in words which y a loss takes."""
    low, high = loss.domain
    words = "0 < y" if low == POSITIVE else f"{low:g} <= y"
    words += f" <= {high:g}" if np.isfinite(high) else ""
    return f"the {loss.name} loss takes {f'the whole numbers {words}' if loss.outputs > 1 else words}"


@dataclass(frozen=True)
class TargetSums(Kernel):
    """Parameters are not used -> [sum s, sums of s y]: what the best constant is. Reads y alone.

    Where y is the code of a class, the last are the sums of s of each class, `outputs` of them. Raises DataError for a
    y outside of the loss's domain, as `CheckTarget` does.
    """

    loss: Loss
    reads: ClassVar[str] = "y"
    of_z: ClassVar[bool] = False

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Look at y and the weights."""
        if not is_other(block.y):
            classes = self.loss.outputs if self.loss.outputs > 1 else 0
            sums = compiled.target_sums(block.y, block.weight, self.loss.domain, classes)
            if sums is not None:
                return sums
        CheckTarget(self.loss)(block, parameters)
        xp = namespace(block.y)
        target, s = column(xp.astype(block.y, xp.float64)), _weight(block)
        if self.loss.outputs > 1:
            classes = xp.arange(self.loss.outputs, device=array_api_compat.device(block.y))
            target = xp.astype(target == xp.astype(classes, xp.float64), xp.float64)
        of_rows = TileSums(block, 1 + target.shape[1])
        of_rows.add(total(s), s @ target)
        return of_rows.total

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
        """Look at y and the weights."""
        if not rows.has_sums(self.loss):
            return None
        if any(map(math.isfinite, self.loss.domain)):
            CheckTarget(self.loss).look(rows, blocks)
        sums = rows.target_sums(self.loss)
        return rows.card.cupy.concatenate([sums[:, :1], sums[:, 2:]], axis=1)


@dataclass(frozen=True)
class OffsetSums(Kernel):
    """Parameters are not used -> [sum f s, sums of f s y' of each target, sum of s o^2].

    f and y' are those of `losses.shifted`, by which the offset o is a part of y. For a loss that has none they are 1
    and o. Reads y and the columns beside it.
    """

    loss: Loss
    reads: ClassVar[str] = "y"

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Look at y, the offset and the weights."""
        xp = namespace(block.y)
        y, o, s = column(xp.astype(block.y, xp.float64)), column(xp.astype(block.offset, xp.float64)), _weight(block)
        target, factor = shifted(self.loss, y, o) or (o + 0.0 * y, 1.0 + 0.0 * o)
        s_f = s * factor[:, 0]
        return TileSums.of(block, total(s_f), s_f @ target, s @ (o * o))


@dataclass(frozen=True)
class ConstantValues(Kernel):
    """Parameters z, constants for all rows -> the sum of s loss(y, z) at each of them. Reads y alone.

    A constant is one number, or one for each target, whose losses add up, or for each output. Where `deviance`, the sum
    of s dropped(y) comes first, and rows add no offset.
    """

    loss: Loss
    deviance: bool = False
    reads: ClassVar[str] = "y"

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Look at y and the weights."""
        xp, several = namespace(block.y), self.loss.outputs > 1
        width, rows_alone = self.loss.outputs if several else column(block.y).shape[1], _without_columns(block)
        if not (is_other(block.y) or self.deviance):
            points = parameters.host.size // width
            return ValueAndGradient(self.loss, points)(rows_alone, parameters)[:: 1 + width].copy()
        at = xp.reshape(parameters.like(block.y, "float64"), (-1, width))
        sums = TileSums(block, at.shape[0] + self.deviance)
        rows_alone = replace(rows_alone, offset=None) if self.deviance else rows_alone
        for rows in tiles(rows_alone, len(block), width):
            target = column(xp.astype(rows.y, xp.float64))
            weight = xp.ones_like(target[:, :1])
            weight = weight if rows.weight is None else column(xp.astype(rows.weight, xp.float64))
            parts = [weight * self.loss.dropped(target)] * self.deviance
            for i in range(at.shape[0]):
                z = offset(at[i, :] + 0.0 * target, rows)
                value = self.loss.value(target[:, 0] if several else target, z)
                parts.append(weight * column(value))
            sums.add(*(total(part) for part in parts))
        return sums.total

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
        """Look at y and the weights."""
        if not (rows.has_sums(self.loss) and rows.has_pass(self.loss)):
            return None
        width = self.loss.outputs if self.loss.outputs > 1 else rows.y_width
        values = rows.constant_values(self.loss, parameters.reshape(-1, width))
        if not self.deviance:
            return values
        return rows.card.cupy.concatenate([rows.target_sums(self.loss)[:, 1:2], values], axis=1)


@dataclass(frozen=True)
class ReferenceSums(Kernel):
    """Parameters [0, z] of each output -> the gradient of each, and how large the numbers are that it is the sum of.

    The gradients are those of `ValueAndGradient`, p + 1 numbers each. Then come the sums of s x (p), of s x^2 (p), and
    those of `SlopeSizes`.
    """

    loss: Loss
    reads: ClassVar[str] = "X"

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once; twice where it is not one array of NumPy's."""
        xp, p = namespace(block.y), block.X.shape[1]
        z = xp.reshape(parameters.like(block.y, "float64"), (-1, p + 1))[:, p]
        if block.X.array is not None and not is_other(block.X.array):
            return np.concatenate([_compiled(self.loss, block, z), SlopeSizes(self.loss)(block, Parameters(z))])
        columns = p + column(block.y).shape[1]
        moments = Moments()(block, Parameters(np.zeros(columns)))
        of_x = [moments[1 : 1 + p], moments[1 + columns : 1 + columns + p]]
        gradients, sizes = ValueAndGradient(self.loss)(block, parameters)[1:], SlopeSizes(self.loss).sums(block, z)
        sums: Array = xp.concat([gradients, *of_x, sizes])
        return sums

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
        """Read X once for every 8 outputs."""
        return rows.reference_sums(self.loss, parameters.reshape(-1, rows.p + 1)) if rows.has_pass(self.loss) else None


@dataclass(frozen=True)
class SlopeSizes(Kernel):
    """Parameters z, a constant of each output -> for each target the sum of s r^2, and then of s m^2. Reads y alone.

    r is a row's slope, m the size of the numbers whose difference it is: |r| + |y dr / dy| + (|z| + |o|) |dr / dz|.
    Where y is the code of a class both are 1.
    """

    loss: Loss
    reads: ClassVar[str] = "y"

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Look at y and the weights."""
        z = parameters.like(block.y, "float64")
        if is_other(block.y) or block.offset is not None:
            return self.sums(block, z)
        lines = lines_of(self.loss, z)
        return self.sums(block, z) if lines is None else compiled.slope_sizes(block.y, block.weight, lines)

    def sums(self, block: Block, z: Array) -> Array:
        """Return them by array operations."""
        xp = namespace(block.y)
        y, s = column(xp.astype(block.y, xp.float64)), _weight(block)
        slope = size = xp.ones_like(y)
        if self.loss.outputs == 1:
            at, parts = offset(z + 0.0 * y, block), abs(z) + 0.0 * y
            if block.offset is not None:
                parts = parts + abs(column(xp.astype(block.offset, xp.float64)))
            slope = self.loss.first(y, at)
            size = abs(slope) + abs(slope - self.loss.first(0.0 * y, at)) + parts * self.loss.second(y, at)
        of_targets: Array = xp.concat([s @ (slope * slope), s @ (size * size)])
        return of_targets

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
        """Look at y and the weights."""
        if not rows.has_pass(self.loss):
            return None
        return rows.slope_sums(self.loss, parameters)[:, len(parameters) :].copy()


def _without_columns(block: Block) -> Block:
    """Return a block whose X has no columns: what is asked of it reads y and the columns beside it."""
    xp = namespace(block.y)
    none = xp.zeros((len(block), 0), dtype=block.y.dtype, device=array_api_compat.device(block.y))
    return replace(block, X=Dense(none))


def _compiled(loss: Loss, block: Block, z: Array) -> Array:
    """Return the gradients, and the sums of s x and s x^2, of a NumPy block: so many rows at a time as have room."""
    sums = TileSums(block, z.size * (block.X.shape[1] + 1) + 2 * block.X.shape[1])
    for rows in tiles(block, len(block), loss.outputs):
        y = np.asarray(rows.y, np.float64)
        at = z if rows.offset is None else z + column(rows.offset)
        slopes = (
            loss.first(column(y), at) if loss.outputs == 1 else loss.first(y, np.broadcast_to(at, (len(y), z.size)))
        )
        sums.add(compiled.reference(rows.X.dense(), rows.weight, slopes))
    return sums.total


def _weight(block: Block) -> Array:
    """Return the weights (m,) in float64: 1 where there are none."""
    xp = namespace(block.y)
    ones = xp.ones_like(column(block.y)[:, 0]) if block.weight is None else block.weight
    weight: Array = xp.astype(ones, xp.float64)
    return weight
