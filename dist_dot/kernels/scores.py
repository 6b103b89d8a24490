"""What scores ask of a block: how many rows are predicted right, and how their z are distributed."""

from dataclasses import dataclass

import array_api_compat
import numpy as np

from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.passes import column, offset, total
from dist_dot.rows.arrays import Parameters, namespace, to_host
from dist_dot.rows.block import Block
from dist_dot.typing import Array


@dataclass(frozen=True)
class Correct(Kernel):
    """Parameters [w, b] of each output -> [sum s, sum s of the rows whose class is predicted], for y a class's code.

    With one output class 1 is predicted where z > 0, with several that of the largest z.
    """

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        xp = namespace(block.y)
        z = _predictor(block, parameters.like(block.y))
        predicted = z[:, 0] > 0 if z.shape[1] == 1 else _largest(z)
        right = xp.astype(xp.astype(predicted, block.y.dtype) == block.y, xp.float64)
        s = xp.ones_like(right) if block.weight is None else xp.astype(block.weight, xp.float64)
        sums: Array = xp.stack([total(s), total(s * right)])
        return sums


@dataclass(frozen=True)
class SquaredErrors(Kernel):
    """Parameters [w, b] of each of k targets -> [sum s, sums of s y (k), sums of s (y - z)^2 (k)]."""

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        xp = namespace(block.y)
        z = xp.astype(_predictor(block, parameters.like(block.y)), xp.float64)
        y = xp.astype(column(block.y), xp.float64)
        s = xp.ones_like(z[:, 0]) if block.weight is None else xp.astype(block.weight, xp.float64)
        sums: Array = xp.concat([xp.reshape(total(s), (1,)), s @ y, s @ ((y - z) * (y - z))])
        return sums


@dataclass(frozen=True)
class RankCounts(Kernel):
    """Parameters [w, b, edges (m)] -> sums of s of the rows of class 0 (m + 1), then of class 1, between the edges.

    A row with edges[i - 1] < z <= edges[i] counts in place i. The n numbers z are counted on the host.
    """

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        xp, p = namespace(block.y), block.X.shape[1]
        z = to_host(_predictor(block, parameters.like(block.y)[: p + 1])[:, 0])
        edges = to_host(parameters.like(block.y, "float64")[p + 1 :])
        places = np.searchsorted(edges, z.astype(np.float64)) + (edges.size + 1) * to_host(block.y).astype(np.intp)
        weight = None if block.weight is None else to_host(block.weight)
        counts: Array = np.bincount(places, weight, 2 * (edges.size + 1)).astype(np.float64)
        sums: Array = counts if xp is np else xp.asarray(counts, device=array_api_compat.device(block.y))
        return sums


def _largest(z: Array) -> Array:
    """Return the number (m,) of the largest of each row's z (m, k), the first of several."""
    xp = namespace(z)
    place: Array
    if xp is np:
        place = np.argmax(z, axis=1)
        return place
    best, place = z[:, 0], 0.0 * z[:, 0]
    for c in range(1, z.shape[1]):
        place = xp.where(z[:, c] > best, 0.0 * place + c, place)
        best = xp.maximum(z[:, c], best)
    return place


def _predictor(block: Block, at: Array) -> Array:
    """Return z (m, k)."""
    columns = namespace(block.y).reshape(at, (-1, block.X.shape[1] + 1))
    z: Array = offset(block.X.times(columns[:, :-1].T) + columns[:, -1], block)
    return z
