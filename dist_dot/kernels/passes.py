"""The inner products on one block: kernels ask the design of a block for them, and nothing else touches X.

A kernel is a frozen dataclass that is called as kernel(block, parameters) and returns its sums over the rows of the
block as one flat float64 array of the block's library, so that blocks, workers and rounds are added up by one function
that knows nothing of them.

Which pass runs depends on what the rows are and on the loss alone. Rows in one array of NumPy's go through
`dist_dot.kernels.compiled` where it has the loss; those of CuPy through `dist_dot.kernels.device`, for all blocks of a
card in one launch where a kernel has the method `launch`. Everything else, losses of the user's own and other designs
among them, goes through the array operations below, in tiles: of 256 KB for NumPy, so that the second product finds its
rows in the L2 cache, and of whole blocks for a device, where a call costs what some MB cost.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import array_api_compat
import numpy as np

from dist_dot.kernels import compiled, device
from dist_dot.kernels.columns import column_sums, product_sums
from dist_dot.kernels.curvature import curvatures
from dist_dot.kernels.elementwise import code_of
from dist_dot.kernels.gram import GramSum, Shifted, tile_rows
from dist_dot.kernels.kernel import Kernel, SumsOfBlocks
from dist_dot.losses import Loss, Squared
from dist_dot.rows.arrays import Parameters, cast, dtype_name, is_other, itemsize, namespace
from dist_dot.rows.block import Block
from dist_dot.rows.design import Dense, Design
from dist_dot.typing import Array

HOST_TILE, DEVICE_TILE = 256 << 10, 256 << 20
# The square of a float32 number that still has all of its digits, with a wide margin.
LEAST = 2.0**-100
WIDEST = 8 << 20  # numbers that a kernel makes of a tile at once: many classes take fewer rows at a time


@dataclass(frozen=True)
class ValueAndGradient(Kernel):
    """Parameters [w, b] (p + 1) -> [loss, gradient in w (p), gradient in b]: unpenalised sums over the rows.

    With k outputs the parameters are [w, b] of each, one after the other, and so is the gradient: k (p + 1) numbers and
    one loss. With several points the parameters are those of each, one after the other, and so are the sums.
    """

    loss: Loss
    points: int = 1
    reads: ClassVar[str] = "X"

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        return _pass(self.loss, block, parameters, self.points)

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
        """Read X once for every 8 columns of parameters."""
        columns = parameters.reshape(-1, rows.p + 1)
        if not rows.has_pass(self.loss):
            return None
        return rows.value_and_gradient(self.loss, columns, len(columns) // self.points)


@dataclass(frozen=True)
class GramProduct(Kernel):
    """Parameters [v, c] (p + 1) -> sum over the rows of s_i (<x_i, v> + c) [x_i, 1]: the Gram matrix times [v, c].

    With k outputs that of each, one after the other.
    """

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        # The gradient of the squared loss for y = 0.
        zero = namespace(block.y).zeros_like(block.y)
        return _pass(Squared(), replace(block, y=zero, offset=None), parameters)[1:]

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
        """Read X once for every 8 columns of parameters."""
        columns = parameters.reshape(-1, rows.p + 1)
        if not rows.has_pass(Squared()):
            return None
        return rows.value_and_gradient(Squared(), columns, len(columns), y=False).totals()[:, 1:].copy()


@dataclass(frozen=True)
class HessianProduct(Kernel):
    """Parameters [w, b], [v, c] -> the unpenalised Hessian at [w, b] times [v, c]: as many numbers as either has."""

    loss: Loss

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        xp, p = namespace(block.y), block.X.shape[1]
        at = parameters.like(block.y)
        width = at.shape[0] // (2 * (p + 1))
        columns, code = xp.reshape(at, (2 * width, p + 1)), code_of(self.loss, block.X.array)
        if code is not None:
            return product_sums(code, block, columns).ravel()
        W, b = columns[:, :p].T, columns[:, p]
        sums = TileSums(block, width * (p + 1))
        for rows in tiles(block, width=width * self.loss.outputs):
            both = rows.X.times(W) + b
            z, u, s = offset(both[:, :width], rows), both[:, width:], rows.weight
            if self.loss.outputs > 1:
                u = xp.sum(self.loss.second(rows.y, z) * xp.expand_dims(u, axis=1), axis=2)
            else:
                u = self.loss.second(column(rows.y), z) * u
            sums.add(gradient_sums(rows.X, u if s is None else column(s) * u))
        return sums.total


@dataclass(frozen=True)
class Roundings(Kernel):
    """Parameters [w, b] -> what a relative change of 1 in each number may do to the gradient there, to first order.

    Every sign is taken to be against it. Of each output p + 1 numbers about the centre x0 (p), that is of F in w and
    the z at x0; and then of each output as many of the columns as they are. In float64. The curvature of a row is the
    largest that it has where each number changes by so much, `unit`: that of the Huber loss jumps.
    """

    loss: Loss
    centre: tuple[float, ...]
    unit: float

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once, as array operations."""
        xp, p, several = namespace(block.y), block.X.shape[1], self.loss.outputs > 1
        columns = xp.reshape(parameters.like(block.y, "float64"), (-1, p + 1))
        W, b = columns[:, :p].T, columns[:, p]
        centre, k = cast(np.array(self.centre), "float64", block.y), columns.shape[0]
        sums = TileSums(block, 2 * k * (p + 1))
        for rows in dense_tiles(block, width=k):
            x, y, s = xp.astype(rows.X.dense(), xp.float64), xp.astype(rows.y, xp.float64), rows.weight
            z, size = x @ W + b, abs(x) @ abs(W) + abs(b)
            if rows.offset is not None:
                o = column(xp.astype(rows.offset, xp.float64))
                z, size = z + o, size + abs(o)
            if several:
                q = self.loss.predict(z)
                others = xp.sum(q * size, axis=1, keepdims=True) - q * size
                r, moved = abs(self.loss.first(y, z)), q * (1.0 + (1.0 - q) * size + others)
            else:
                y = column(y)
                slope, second = self.loss.first(y, z), self.loss.second(y, z)
                for near in (z - self.unit * size, z + self.unit * size):
                    second = xp.maximum(second, self.loss.second(y, near))
                r, moved = abs(slope), second * size + abs(slope - self.loss.first(0.0 * (y + z), z))
            if s is not None:
                s = column(xp.astype(s, xp.float64))
                r, moved = s * r, s * moved
            near, plain = Dense(abs(x - centre)), Dense(abs(x))
            about = gradient_sums(near, moved) + gradient_sums(plain, r)
            sums.add(about, gradient_sums(plain, r + moved))
        return sums.total


@dataclass(frozen=True)
class Curvature(Kernel):
    """Parameters [w, b] (p + 1) -> [X, 1].T D [X, 1], D = diag(s d2 loss / dz2), unpenalised: the Hessian in [w, b].

    Flat: the rows of the symmetric matrix, each up to the diagonal, (p + 1) (p + 2) / 2 numbers. With several outputs
    that of each pair of outputs that the loss couples, in the order of `coupled`. n p^2 operations for each, in BLAS.
    float32 rows are multiplied in float32, and in float64 on a GPU and where the squares of a column are out of range.
    With a centre x0 (p) it is [X - x0, 1].T D [X - x0, 1]: the Hessian in w and the z at x0, b + <x0, w>.
    """

    loss: Loss
    centre: tuple[float, ...] = ()

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        name = "float64" if block.on_device else dtype_name(block.y)
        triangles = self._triangles(block, parameters, name)
        squares = [triangle for (c, other), triangle in triangles.items() if c == other]
        if name == "float32" and not all(self._in_range(block, triangle) for triangle in squares):
            triangles = self._triangles(block, parameters, "float64")
        each = list(triangles.values())
        flat: Array = each[0] if len(each) == 1 else namespace(block.y).concat(each)
        return flat

    def _triangles(self, block: Block, parameters: Parameters, dtype: str) -> dict[tuple[int, int], Array]:
        """Return the triangle of each pair of outputs, multiplied in this dtype."""
        xp, p = namespace(block.y), block.X.shape[1]
        at = xp.reshape(parameters.like(block.y, dtype), (-1, p + 1))
        W, b = at[:, :p].T, at[:, p]
        pairs, code = coupled(self.loss, at.shape[0]), code_of(self.loss, block.X.array)
        if code is not None and dtype == dtype_name(block.y):
            return dict(zip(pairs, curvatures(code, block, at, self.centre), strict=True))
        none = xp.reshape(xp.astype(block.y[:0, ...], getattr(xp, dtype)), (-1,))
        centre = cast(np.array(self.centre), dtype, block.y) if self.centre else None
        grams = [GramSum(p, none, symmetric=c == other) for c, other in pairs]
        linear = [TileSums(block, p + 1) for _ in pairs]
        shifted, several = Shifted(), self.loss.outputs > 1
        plain = type(self.loss) is Squared and block.weight is None
        own = block.X.multiplies and centre is None and dtype == dtype_name(block.y)
        size = tile_rows(p, itemsize(block.y)), at.shape[0] * self.loss.outputs
        for rows in tiles(block, *size) if own else dense_tiles(block, *size):
            y, s, x = rows.y, rows.weight, rows.X
            x = x if own else Dense(xp.astype(x.dense(), none.dtype, copy=False))
            z = None if plain else offset(x.times(W) + b, rows)
            second = None if z is None else self.loss.second(y if several else column(y), z)
            if centre is not None:
                x = Dense(shifted.from_tile(x.dense(), centre))
            for (c, other), gram, sums in zip(pairs, grams, linear, strict=True):
                if second is None:
                    d = xp.astype(xp.ones_like(column(y)[:, 0]), none.dtype)
                else:
                    d = second[:, c, other] if several else second[:, c]
                    d = d if s is None else s * d
                sums.add(x.transposed_times(d), total(d))
                if own:
                    gram.add_square(x.gram(d))
                else:
                    gram.add(x.dense(), None if plain else d)
        triangles = [gram.triangle(sums.total) for gram, sums in zip(grams, linear, strict=True)]
        return dict(zip(pairs, triangles, strict=True))

    def _in_range(self, block: Block, triangle: Array) -> bool:
        """Whether sums are finite, and those of squares large enough to have their digits, but for columns of zeros."""
        xp, p = namespace(block.y), block.X.shape[1]
        i = xp.arange(p, device=array_api_compat.device(block.y))
        squares = xp.take(triangle, i * (i + 3) // 2)
        least = len(block) * LEAST
        if p and float(xp.min(squares)) >= least and float(xp.max(squares)) < math.inf:
            return True  # no product is larger than the squares
        if bool(xp.any((squares != 0) & (squares < least))) or not bool(xp.all(xp.isfinite(triangle))):
            return False
        none = xp.nonzero(squares == 0)[0]
        if not none.shape[0]:
            return True
        zero = xp.take(cast(np.array(self.centre), dtype_name(block.y), block.y), none) if self.centre else 0.0
        return not any(bool(xp.any(xp.take(rows.X.dense(), none, axis=1) != zero)) for rows in dense_tiles(block))

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
        """Read X once for the weights, and once more for the products."""
        columns = parameters.reshape(-1, rows.p + 1)
        if len(columns) > 1 or not rows.has_pass(self.loss):
            return None
        weights = rows.empty_weights()
        rows.value_gradient_and_curvature(self.loss, columns, weights)
        return rows.curvatures(blocks, weights, self.centre)


@dataclass(frozen=True)
class Expansion(Kernel):
    """Parameters -> the sums of `ValueAndGradient`, then those of `Curvature`: all of F up to second order."""

    loss: Loss
    centre: tuple[float, ...] = ()
    points: ClassVar[int] = 1
    reads: ClassVar[str] = "X"

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X twice: the second time costs little beside the curvature, and the first has the bits of a pass."""
        kernels = ValueAndGradient(self.loss), Curvature(self.loss, self.centre)
        parts = (kernel(block, parameters) for kernel in kernels)
        sums: Array = namespace(block.y).concat(list(parts))
        return sums

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
        """Read X once for F, its gradient and the weights, and once more for the products."""
        columns = parameters.reshape(-1, rows.p + 1)
        if len(columns) > 1 or not rows.has_pass(self.loss):
            return None
        weights = rows.empty_weights()
        sums = rows.value_gradient_and_curvature(self.loss, columns, weights)
        curvatures = rows.curvatures(blocks, weights, self.centre)
        return (rows.end_to_end(of_block, curvature) for of_block, curvature in zip(sums, curvatures, strict=True))


def coupled(loss: Loss, outputs: int) -> list[tuple[int, int]]:
    """Return the pairs of outputs c <= d whose second derivative is not 0 everywhere."""
    if loss.outputs == 1:
        return [(c, c) for c in range(outputs)]
    return [(c, d) for c in range(outputs) for d in range(c, outputs)]


@dataclass(frozen=True)
class Moments(Kernel):
    """Parameters [x0, y0] (p + 1) -> [sum s, sums of s (x - x0) (p), of s (y - y0), of the same squared (p + 1)].

    With several targets y0 and the sums of y are as many.
    """

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        centre, X = parameters.like(block.y, "float64"), block.X.array
        if X is not None and not is_other(X) and block.y.ndim == 1:
            return compiled.moments(X, block.y, block.weight, centre)
        xp, p = namespace(block.y), block.X.shape[1]
        sums = TileSums(block, 1 + 2 * centre.shape[0])
        for rows in dense_tiles(block):
            y = xp.astype(column(rows.y), xp.float64)
            weight = xp.ones_like(y[:, 0]) if rows.weight is None else xp.astype(rows.weight, xp.float64)
            dx, dy = xp.astype(rows.X.dense(), xp.float64) - centre[:p], y - centre[p:]
            sums.add(total(weight), weight @ dx, weight @ dy, weight @ (dx * dx), weight @ (dy * dy))
        return sums.total

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
        """Read X once."""
        return rows.moments(parameters)


def _pass(loss: Loss, block: Block, parameters: Parameters, points: int = 1) -> Array:
    if block.on_device:
        found: Array | None = device.of_one(block, ValueAndGradient(loss, points), parameters)
        if found is not None:
            return found
    at = parameters.like(block.y)
    p = block.X.shape[1]
    if at.shape[0] > p + 1:
        return _pass_columns(loss, points, block, at)
    code, X = code_of(loss, block.X.array), block.X.array
    if code is not None and X is not None:
        return compiled.value_and_gradient(code, X, block.y, block.weight, at, block.offset)
    sums = TileSums(block, p + 2)
    for rows in tiles(block):
        z, s = offset(rows.X.times(at[:p]) + at[p], rows), rows.weight
        value, residual = loss.value(rows.y, z), loss.first(rows.y, z)
        if s is not None:
            value, residual = s * value, s * residual
        sums.add(total(value), rows.X.transposed_times(residual), total(residual))
    return sums.total


def _pass_columns(loss: Loss, points: int, block: Block, at: Array) -> Array:
    """As above for several points or outputs."""
    xp, p = namespace(block.y), block.X.shape[1]
    columns = xp.reshape(at, (-1, p + 1))
    width = columns.shape[0] // points
    code = code_of(loss, block.X.array)
    if code is not None:
        return column_sums(code, block, columns, points).ravel()
    W, b = columns[:, :p].T, columns[:, p]
    sums = TileSums(block, points * (1 + width * (p + 1)))
    for rows in tiles(block, width=points * width):
        m, s = len(rows), rows.weight
        z = xp.reshape(offset(rows.X.times(W) + b, rows), (m, points, width))
        y = xp.reshape(rows.y, (m, 1) if loss.outputs > 1 else (m, 1, -1))
        value = xp.reshape(loss.value(y, z), (m, points, -1))
        residual = xp.reshape(loss.first(y, z), (m, points * width))
        if s is not None:
            value, residual = xp.reshape(s, (m, 1, 1)) * value, column(s) * residual
        gradient = xp.reshape(gradient_sums(rows.X, residual), (points, width * (p + 1)))
        sums.add(xp.concat([column(total(value, (0, 2))), gradient], axis=1))
    return sums.total


def gradient_sums(X: Design, residual: Array) -> Array:
    """Return [X.T r, sum r] of each column r of the residual (m, k): (k, p + 1), float64."""
    xp = namespace(residual)
    products = xp.astype(X.transposed_times(residual), xp.float64)
    sums: Array = xp.concat([products, column(total(residual, 0))], axis=1)
    return sums


def offset(z: Array, rows: Block) -> Array:
    """Return z (m,) or (m, k) with the offset of the rows, where they have one, added to that of each output."""
    if rows.offset is None:
        return z
    moved: Array = z + (rows.offset if z.ndim == 1 else column(rows.offset))
    return moved


def column(values: Array) -> Array:
    """Return y (m,) as (m, 1); what has columns already, as it is."""
    of_one: Array = values if values.ndim == 2 else namespace(values).reshape(values, (-1, 1))
    return of_one


def fold_column(rows: Block) -> Array:
    """Return the fold of each row (m, 1), of rows that have one: those of a cross-validation."""
    assert rows.fold is not None
    return column(rows.fold)


def tiles(block: Block, rows: int = 1, width: int = 1) -> Iterator[Block]:
    """Yield some rows at a time: `rows` at least, unless `width` numbers of each are too many."""
    return _tiles(block, block.X.nbytes // max(1, len(block)), rows, width)


def dense_tiles(block: Block, rows: int = 1, width: int = 1) -> Iterator[Block]:
    """Yield as above; but they are to be made dense, and take the memory of p numbers each then."""
    return _tiles(block, block.X.shape[1] * itemsize(block.y), rows, width)


def _tiles(block: Block, row: int, rows: int, width: int) -> Iterator[Block]:
    size = DEVICE_TILE if is_other(block.y) else HOST_TILE
    rows = max(rows, size // max(1, row))
    rows = min(rows, max(1, WIDEST // width))
    for start in range(0, len(block), rows):
        yield block.rows(slice(start, min(start + rows, len(block))))


def total(values: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """Return the sum in float64, in the library of the values, over all of them, axis 0, or axes 0 and 2.

    On a device it is a product with ones: CuPy compiles each of its own reductions for seconds.
    """
    xp = namespace(values)
    sums: Array
    if not is_other(values):
        sums = xp.sum(values, axis=axis, dtype=xp.float64)
        return sums
    values = xp.astype(values, xp.float64, copy=False)
    if axis is None:
        flat = xp.reshape(values, (-1,))
        sums = xp.ones_like(flat) @ flat
        return sums
    rows = xp.reshape(values, (values.shape[0], math.prod(values.shape[1:])))
    sums = xp.ones_like(rows[:, 0]) @ rows
    if not isinstance(axis, int):
        sums = xp.reshape(sums, values.shape[1:])
        sums = sums @ xp.ones_like(sums[0, :])
    return sums


class TileSums:
    """Sums over tiles, in float64, in the library of the block and on its device."""

    def __init__(self, block: Block, size: int) -> None:
        self._block, self._size = block, size
        self._total: Array | None = None

    def add(self, *parts: Array) -> None:
        """Add numbers and arrays, flat and end to end."""
        xp = namespace(self._block.y)
        flat = xp.concat([xp.reshape(xp.astype(part, xp.float64, copy=False), (-1,)) for part in parts])
        self._total = flat if self._total is None else self._total + flat

    @classmethod
    def of(cls, block: Block, *parts: Array) -> Array:
        """Return numbers and arrays as sums of the block, flat and end to end."""
        sums = cls(block, 0)
        sums.add(*parts)
        return sums.total

    @property
    def total(self) -> Array:
        """The sums; zeros where there were no rows."""
        if self._total is not None:
            return self._total
        y = self._block.y
        zeros: Array = namespace(y).zeros(self._size, dtype=namespace(y).float64, device=array_api_compat.device(y))
        return zeros
