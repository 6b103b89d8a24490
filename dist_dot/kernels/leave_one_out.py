"""The errors of ridge fits to all rows but one, from the fits to all rows: one pass for any number of alphas."""

from dataclasses import dataclass

import numpy as np

from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.moments import tiles
from dist_dot.rows.arrays import Parameters, namespace
from dist_dot.rows.block import Block
from dist_dot.typing import Array

# What is left of 1 beside a leverage: below, six of sixteen digits are lost at least.
LEAST = 1e-6


@dataclass(frozen=True)
class LeaveOneOut(Kernel):
    """Parameters, see `pack` -> sum over the rows of s e^2 for each alpha and target (alphas, targets), and a count.

    ::

        e_i = (y_i - z_i) / (1 - s_i h_i),    h_i = 1 / weight + sum_j t_ij^2 / (d_j + alpha),    t_i = V.T (x_i - mean)

    V and d are the eigenvectors and eigenvalues of the centred X.T S X; without an intercept the 1 / weight and the
    mean are 0. n p^2 operations, and n p for each alpha and target. The count is that of pairs of a row and an alpha
    with 1 - s_i h_i below 1e-6: their errors have lost six digits or more.
    """

    alphas: int
    targets: int

    @staticmethod
    def pack(mean: Array, vectors: Array, shrunk: Array, share: float, coef: Array, intercept: Array) -> Array:
        """Return the parameters.

        mean (p,), V (p, p), 1 / (d + alpha) (p, alphas), 1 / weight or 0, W (p, alphas, targets), b (alphas, targets).
        """
        return np.concatenate([part.ravel() for part in (mean, vectors, shrunk, np.array(share), coef, intercept)])

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        xp = namespace(block.y)
        mean, vectors, shrunk, share, coef, intercept = self._unpack(block, parameters)
        total: Array = xp.zeros_like(intercept)
        exact = xp.zeros_like(intercept[:1])
        for x, y, s in tiles(block):
            t = (x - mean) @ vectors
            leverage = share + (t * t) @ shrunk  # (m, alphas)
            residual = xp.reshape(xp.tile(y, (1, self.alphas)) - x @ coef - intercept, (-1, self.alphas, self.targets))
            leverage = leverage if s is None else s[:, None] * leverage
            rest = 1.0 - leverage
            exact = exact + xp.sum(xp.astype(rest < LEAST, xp.float64))
            error = residual / rest[:, :, None]
            square = error * error if s is None else s[:, None, None] * (error * error)
            total = total + xp.reshape(xp.sum(square, axis=0), (-1,))
        sums: Array = xp.concat([total, exact])
        return sums

    def _unpack(self, block: Block, parameters: Parameters) -> list[Array]:
        flat, xp = parameters.like(block.y, "float64"), namespace(block.y)
        p, outputs = block.X.shape[1], self.alphas * self.targets
        shapes = ((p,), (p, p), (p, self.alphas), (1,), (p, outputs), (outputs,))
        parts, start = [], 0
        for shape in shapes:
            size = int(np.prod(shape))
            parts.append(xp.reshape(flat[start : start + size], shape))
            start += size
        return parts
