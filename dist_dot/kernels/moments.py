"""What least squares needs to know of a block: the means and the centred second moments of [X, y], or their triangle.

A summary of rows is one flat float64 array [weight, mean (d), matrix (d, d)] of the d = p + k columns of [X, y]. The
matrix holds the weighted second moments about the mean, or the R of the QR decomposition of the same rows, centred and
scaled by the roots of their weights, so that R.T R are those moments. Two summaries merge into that of all their rows;
n * mean^2 appears nowhere, so nothing cancels where columns are far from 0 (Chan, Golub and LeVeque, Algorithms for
computing the sample variance (1983), the two-pass algorithm within a block and equation 2.1 between blocks).

An offset is taken off y: the squared loss of y at z + offset is that of y - offset at z. Everything is float64, for
float32 rows too: a rounding of 1e-7 in a Gram matrix is one of 1e-7 * condition^2 in w.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar

import array_api_compat
import numpy as np

from dist_dot.kernels import device
from dist_dot.kernels.compiled import reordered, rounded
from dist_dot.kernels.gram import GramSum, tile_rows
from dist_dot.kernels.kernel import Kernel, SumsOfBlocks
from dist_dot.rows.arrays import Parameters, is_other, namespace, read_only
from dist_dot.rows.block import Block
from dist_dot.typing import Array

# Bytes of float64 rows that are centred at a time on a device; in NumPy see `dist_dot.kernels.gram`.
DEVICE_TILE = 64 << 20


@dataclass(frozen=True)
class CentredMoments(Kernel):
    """Any parameters -> [weight, mean (d), second moments about the mean (d, d)]. n d^2 operations, in BLAS."""

    reads: ClassVar[str] = "X"

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X twice: for the means, then for the moments."""
        found: Array | None = device.of_one(block, self, parameters) if block.on_device else None
        if found is not None:
            return found
        rows = _CentredRows(block)
        gram = GramSum(rows.mean.shape[0], rows.mean)
        for tile in rows:
            gram.add(tile)
        left = rows.left_over / rows.divisor  # of the means, by their rounding
        return rows.summary(left, gram.square() - rows.weight * (left[:, None] * left[None, :]))

    def merge(self, left: Array, right: Array) -> Array:
        """Return the summary of the rows of both."""
        return merge_moments(left[None, :], right[None, :])[0, :]

    def launch(self, rows: device.DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
        """Read X twice, as above."""
        return rows.summaries(blocks)


@dataclass(frozen=True)
class FoldMoments(Kernel):
    """Any parameters -> for each of `folds` the summary of its rows, end to end. Blocks have the column `fold`."""

    folds: int

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X twice, as often as for one fold; first copy the rows of a block that has several folds."""
        sums: Array = namespace(block.y).concat(
            [CentredMoments()(self._rows(block, fold), parameters) for fold in range(self.folds)]
        )
        return sums

    def _rows(self, block: Block, fold: int) -> Block:
        rows = namespace(block.y).nonzero(block.fold == fold)[0]
        if rows.shape[0] == len(block):  # most blocks, where the rows of a fold follow each other
            return block
        return block.take(rows)

    def merge(self, left: Array, right: Array) -> Array:
        """Return the summaries of the rows of both, fold by fold."""
        xp = namespace(left)
        merged = merge_moments(*(xp.reshape(part, (self.folds, -1)) for part in (left, right)))
        sums: Array = xp.reshape(merged, (-1,))
        return sums


@dataclass(frozen=True)
class CentredTriangle(Kernel):
    """Any parameters -> [weight, mean (d), R (d, d)] with R.T R the second moments about the mean. 2 n d^2 operations.

    Tall and skinny QR: tile by tile within a block, then in the fold's tree (Demmel, Grigori, Hoemmen and Langou,
    Communication-optimal parallel and sequential QR and LU factorizations (2012), sections 3 and 4). Its digits go
    with the condition of X, those of the second moments with its square.
    """

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X twice: for the means, then for the triangle."""
        rows = _CentredRows(block)
        xp, d = rows.xp, rows.mean.shape[0]
        R = rows.zeros(d, d)
        for tile in rows:
            R = triangle(xp.concat([R, tile], axis=0))
        return rows.summary(rows.left_over / rows.divisor, R)

    def merge(self, left: Array, right: Array) -> Array:
        """Return the summary of the rows of both.

        Two factors about different means need one row more, sqrt(s1 s2 / (s1 + s2)) (mean1 - mean2).
        """
        xp, d = namespace(left), columns(left.shape[0])
        weight, share = _shares(left[:1], right[:1])
        gap = right[1 : 1 + d] - left[1 : 1 + d]
        factors = [xp.reshape(part[1 + d :], (d, d)) for part in (left, right)]
        row = xp.sqrt(left[:1] * share) * gap
        R = triangle(xp.concat([*factors, row[None, :]], axis=0))
        merged: Array = xp.concat([weight, left[1 : 1 + d] + share * gap, xp.reshape(R, (-1,))])
        return merged


def columns(size: int) -> int:
    """Return the d of a summary of this many numbers, 1 + d + d^2."""
    return (isqrt(4 * size - 3) - 1) // 2


def merge_moments(left: Array, right: Array) -> Array:
    """Return the summaries (m, 1 + d + d^2) of the rows of both, one by one: Chan, Golub and LeVeque's equation 2.1.

    In NumPy in the memory of the left ones.
    """
    xp, d = namespace(left), columns(left.shape[1])
    if not is_other(left):
        _merge_into(left, read_only(right), d)
        return left
    if device.on_device(left):
        both: Array = device.merged(left, right)
        return both
    weight, share = _shares(left[:, :1], right[:, :1])
    gap = right[:, 1 : 1 + d] - left[:, 1 : 1 + d]
    between = (left[:, :1] * share * gap)[:, :, None] * gap[:, None, :]
    matrix = left[:, 1 + d :] + right[:, 1 + d :] + xp.reshape(between, (left.shape[0], -1))
    merged: Array = xp.concat([weight, left[:, 1 : 1 + d] + share * gap, matrix], axis=1)
    return merged


def _shares(left: Array, right: Array) -> tuple[Array, Array]:
    """Return the weight of both, and the right one's share of it; 0 where nothing weighs anything."""
    weight: Array = left + right
    return weight, right / _or_one(weight)


def _or_one(weight: Array) -> Array:
    xp = namespace(weight)
    result: Array = xp.where(weight > 0, weight, xp.ones_like(weight))
    return result


def triangle(rows: Array) -> Array:
    """Return the R of at least as many rows as columns. NumPy alone can leave out Q."""
    R: Any = namespace(rows).linalg.qr(rows)[1] if is_other(rows) else np.linalg.qr(rows, mode="r")
    factor: Array = R
    return factor


@rounded
def _merge_into(left: Array, right: Array, d: int) -> None:
    for summary in range(len(left)):
        a, b = left[summary], right[summary]
        weight = a[0] + b[0]
        share = b[0] / weight if weight > 0 else 0.0
        gap = b[1 : 1 + d] - a[1 : 1 + d]
        for i in range(d):
            row = 1 + d + i * d
            between = a[0] * share * gap[i]
            for j in range(d):
                a[row + j] += b[row + j] + between * gap[j]
        for j in range(d):
            a[1 + j] += share * gap[j]
        a[0] = weight


class _CentredRows:
    """[X, y] less their means, times the root of the weight: tiles (m, d), each to be used before the next is made.

    `left_over` is then the sum of s times what is left of the rows, which were exact but for the means' rounding.
    """

    def __init__(self, block: Block) -> None:
        self.xp = xp = namespace(block.y)
        self._block = block
        p = block.X.shape[1]
        k = block.y.shape[1] if block.y.ndim == 2 else 1
        self.weight = self.zeros(1)
        total = self.zeros(p + k)
        self._rows = _rows_of(block)
        if self._rows is None:
            for x, y, s in tiles(self._block):
                one = xp.ones_like(y[:, 0]) if s is None else s
                total = total + xp.concat([one @ x, one @ y])
                self.weight = self.weight + xp.sum(one)
        else:
            self.weight[0] = _add_columns(*self._rows, total)
        self.divisor = _or_one(self.weight)
        self.mean = total / self.divisor
        self.left_over = self.zeros(p + k)

    def __iter__(self) -> Iterator[Array]:
        d = self.mean.shape[0]
        self.left_over = self.zeros(d)
        if self._rows is not None:
            n = len(self._block)
            room = np.empty((min(n, tile_rows(d, 8)), d))
            for start in range(0, n, tile_rows(d, 8)):
                tile = room[: n - start]
                _centre(*self._rows, start, self.mean, tile, self.left_over)
                yield tile
            return
        for x, y, s in tiles(self._block):
            tile = self.xp.concat([x, y], axis=1) - self.mean
            root = None if s is None else self.xp.sqrt(s)
            tile = tile if root is None else tile * root[:, None]
            self.left_over = self.left_over + (self.xp.sum(tile, axis=0) if root is None else root @ tile)
            yield tile

    def summary(self, left: Array, matrix: Array) -> Array:
        """Return the flat summary, the means put right by what was left over."""
        flat: Array = self.xp.concat([self.weight, self.mean + left, self.xp.reshape(matrix, (-1,))])
        return flat

    def zeros(self, *shape: int) -> Array:
        """Return float64 zeros in the library of the block and on its device."""
        zeros: Array = self.xp.zeros(shape, dtype=self.xp.float64, device=array_api_compat.device(self._block.y))
        return zeros


def _rows_of(block: Block) -> tuple[Array, Array, Array] | None:
    """Return X (n, p), y (n, k) and the weights (n,), none for None, as the compiled functions take them.

    None for rows that are not one array of NumPy's.
    """
    X = block.X.array
    if X is None or is_other(X):
        return None
    y = np.ascontiguousarray(block.y if block.y.ndim == 2 else block.y[:, None])
    if block.offset is not None:
        y = y.astype(np.float64) - block.offset[:, None]
    weight = np.empty(0, X.dtype) if block.weight is None else np.ascontiguousarray(block.weight)
    return read_only(X), read_only(y), read_only(weight)


@reordered
def _add_columns(X: Array, y: Array, weight: Array, total: Array) -> float:
    """Add the sums of s [x, y] to total (d,), and return that of s."""
    n, p = X.shape
    weights = 0.0
    for i in range(n):
        s = float(weight[i]) if weight.size else 1.0
        weights += s
        for j in range(p):
            total[j] += s * float(X[i, j])
        for j in range(y.shape[1]):
            total[p + j] += s * float(y[i, j])
    return weights


@reordered
def _centre(X: Array, y: Array, weight: Array, start: int, mean: Array, tile: Array, left_over: Array) -> None:
    """Set the tile (m, d) to sqrt(s) ([x, y] - mean) of the rows from `start`, and add the sums of sqrt(s) times it."""
    p = X.shape[1]
    for i in range(len(tile)):
        root = np.sqrt(np.float64(weight[start + i])) if weight.size else 1.0
        for j in range(p):
            tile[i, j] = root * (float(X[start + i, j]) - mean[j])
            left_over[j] += root * tile[i, j]
        for j in range(y.shape[1]):
            tile[i, p + j] = root * (float(y[start + i, j]) - mean[p + j])
            left_over[p + j] += root * tile[i, p + j]


def tiles(block: Block) -> Iterator[tuple[Array, Array, Array | None]]:
    """Yield X (m, p), y (m, k) less the offset, and weight (m,) or None of some rows at a time, in float64."""
    xp, (n, p) = namespace(block.y), block.X.shape
    d = p + (block.y.shape[1] if block.y.ndim == 2 else 1)
    size = max(1, DEVICE_TILE // (8 * d)) if is_other(block.y) else tile_rows(d, 8)
    for start in range(0, n, size):
        rows = block.rows(slice(start, min(start + size, n)))
        y = xp.reshape(xp.astype(rows.y, xp.float64, copy=False), (len(rows), -1))
        y = y if rows.offset is None else y - xp.astype(rows.offset, xp.float64)[:, None]
        weight = None if rows.weight is None else xp.astype(rows.weight, xp.float64, copy=False)
        yield xp.astype(rows.X.dense(), xp.float64, copy=False), y, weight
