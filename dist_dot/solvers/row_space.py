"""Least squares with fewer rows than columns, from the rows themselves: nothing in this file is a round.

The minimum lies in the space of the rows: w = P^-1 X.T u for a penalty w.T P w, and w = X.T u for the smallest w
without one. So n coordinates in an orthonormal basis of that space say all, and have n x n matrices (Hastie and
Tibshirani, Efficient quadratic regularization for expression arrays (2004), section 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import qr

from dist_dot.errors import InputError
from dist_dot.kernels.moments import triangle
from dist_dot.rows.block import Cuts
from dist_dot.solvers.factor import CONDITION, Factor, Factors, factor_moments, factor_triangle, rank_tolerance
from dist_dot.typing import Array

# Bytes of the rows that may travel.
ROOM = 64 << 20
# Corrections of w in the working precision: the first takes an error of the condition squared to that of the condition.
CORRECTIONS = 2


@dataclass(frozen=True)
class RowSpace:
    """Rows with their means taken off and scaled by the roots s of their weights: X (n, p) and Y (n, k).

    `root` (n,) is those roots, `mean` (p,) and `y_mean` (k,) are weighted means, and `weight` is sum_i s_i^2. Without
    an intercept the means are 0.
    """

    weight: float
    mean: Array
    y_mean: Array
    X: Array
    Y: Array
    root: Array
    fit_intercept: bool

    def value(self, w: Array, b: Array) -> float:
        """Return the squared loss of all rows at w (p, k) and b (k,)."""
        gap = self.y_mean - self.mean @ w - b
        return float(0.5 * np.sum((self.Y - self.X @ w) ** 2) + 0.5 * self.weight * (gap @ gap))

    def gradient(self, w: Array, b: Array) -> tuple[Array, Array]:
        """Return the gradients in w (p, k) and in b (k,)."""
        in_b = -self.weight * (self.y_mean - self.mean @ w - b)
        return self.X.T @ (self.X @ w - self.Y) + self.mean[:, None] * in_b, in_b

    def intercept(self, w: Array) -> Array:
        """Return the best b (k,) for w (p, k); 0 without an intercept."""
        best: Array = self.y_mean - self.mean @ w
        return best

    def minimum(self, penalty: Array) -> tuple[Array, Factor | Factors]:
        """Return the w (p, k) that is best with this penalty, all of it positive or none, and the factor used.

        The penalty is (p,), or (p, k) where targets have their own: a factor is then made for each.
        """
        if penalty.ndim == 1:
            return self._minimum(penalty)
        each = [replace(self, Y=self.Y[:, [j]])._minimum(column) for j, column in enumerate(penalty.T)]
        return np.column_stack([w for w, _ in each]), Factors(tuple(factor for _, factor in each))

    def _minimum(self, penalty: Array) -> tuple[Array, Factor]:
        """Return the same for one penalty (p,).

        The factor is one of the products of the rows, n^2 p operations, up to a condition of 1e3; else one of their
        coordinates, some 8 n^2 p operations.
        """
        penalised = float(penalty.any())
        scale = 1.0 / np.sqrt(penalty) if penalised else np.ones_like(penalty)
        X, Y = self.contrast(self.X * scale), self.contrast(self.Y)
        factor = factor_moments(X @ X.T, np.full(len(X), penalised), penalty.size)
        if factor.condition <= CONDITION and not factor.dropped:
            u = factor.solve(Y)
            for _ in range(CORRECTIONS):
                u = u + factor.solve(Y - X @ (X.T @ u) - penalised * u)
            return scale[:, None] * (X.T @ u), factor
        basis, coordinates = span(X)
        factor = factor_triangle(triangle(coordinates), np.full(basis.shape[1], penalised), penalty.size)
        w = np.zeros((penalty.size, Y.shape[1]))
        for _ in range(1 + CORRECTIONS):
            w = w + basis @ factor.solve(coordinates.T @ (Y - X @ w) - penalised * (basis.T @ w))
        return scale[:, None] * w, factor

    def contrast(self, rows: Array) -> Array:
        """Return n - 1 combinations of n rows (n, m), orthonormal and with nothing of `root`, to which no row adds up.

        Without an intercept the rows as they are. A reflection takes `root` to the first row, which is left out.
        """
        if not self.fit_intercept or len(rows) == 1:
            return rows
        axis = self._axis()
        reflected: Array = rows[1:] - np.outer(axis[1:], 2.0 * (axis @ rows))
        return reflected

    def spread(self, contrasts: Array) -> Array:
        """Return the rows (n, m) of which these are the contrasts: the transpose of `contrast`."""
        if not self.fit_intercept or len(self.root) == 1:
            return contrasts
        axis = self._axis()
        rows = np.vstack([np.zeros_like(contrasts[:1]), contrasts])
        spread: Array = rows - np.outer(axis, 2.0 * (axis @ rows))
        return spread

    def _axis(self) -> Array:
        """Return the unit vector of the Householder reflection that takes `root` to the first row."""
        axis = self.root / np.linalg.norm(self.root)
        axis[0] += 1.0  # no weight is negative: nothing cancels
        unit: Array = axis / np.linalg.norm(axis)
        return unit


class Spectrum:
    """X X.T = U diag(values) U.T for the contrasts of the rows: ridge for many alphas, and with each row left out.

    U is square: the directions in which no row varies are those that tell the errors of rows left out where
    there are more rows than columns.
    """

    def __init__(self, rows: RowSpace, alphas: Sequence[float]) -> None:
        """Decompose the products, or the rows where the smallest alpha leaves a condition above 1e3."""
        self.rows, self.alphas = rows, np.array(alphas)
        self._X, self._Y = rows.contrast(rows.X), rows.contrast(rows.Y)
        values, self._U = np.linalg.eigh(self._X @ self._X.T)
        least = min(alphas)
        if values.max(initial=0.0) + least > CONDITION**2 * (max(values.min(initial=0.0), 0.0) + least):
            self._U, roots, _ = np.linalg.svd(self._X, full_matrices=self._X.shape[0] > self._X.shape[1])
            values = np.zeros(len(self._X))
            values[: roots.size] = roots**2
        self._along = self._U.T @ self._Y
        self._inverse = 1.0 / (np.maximum(values, 0.0)[:, None] + self.alphas)

    def ridge(self) -> tuple[Array, Array]:
        """Return W (alphas, p, k) and b (alphas, k)."""
        dual = self._U @ (self._inverse.T[:, :, None] * self._along)
        coef: Array = self._X.T @ dual
        return coef, self.rows.intercept(coef)

    def left_out(self) -> Array:
        """Return the sums of s e^2 (alphas, k), with e the error of a row in the fit to all others.

        The residual of a row and what its leverage is short of 1 are both sums of the same terms 1 / (value + alpha),
        none of which is negative in the second: their ratio has its digits where both are next to nothing.
        """
        U = self.rows.spread(self._U)
        residual = np.einsum("ij,ja,jk->iak", U, self._inverse, self._along, optimize=True)
        error = residual / ((U * U) @ self._inverse)[:, :, None]
        sums: Array = np.sum(error * error, axis=0)
        return sums


def span(X: Array) -> tuple[Array, Array]:
    """Return an orthonormal basis (p, r) of the space of the rows of X (n, p), n <= p, and their coordinates (n, r).

    Columns of the largest numbers come first and rows are pivoted, so that columns in small units keep their digits
    beside those in large ones (Cox and Higham, Stability of Householder QR factorization for weighted least squares
    problems (1998)). A row counts where what is new in it is above the rounding of the columns that are left.
    """
    sizes = np.max(np.abs(X), axis=0)
    order = np.argsort(-sizes, kind="stable")
    left = np.sqrt(np.cumsum(sizes[order][::-1] ** 2)[::-1])[: len(X)]
    Q, R, rows = qr(X.T[order], mode="economic", pivoting=True, check_finite=False)
    new = np.abs(np.diag(R)) > rank_tolerance(*X.shape) * left
    rank = max(1, int(np.argmin(np.append(new, False))))
    basis, coordinates = np.empty((X.shape[1], rank)), np.empty((len(X), rank))
    basis[order], coordinates[rows] = Q[:, :rank], R[:rank].T
    return basis, coordinates


@dataclass(frozen=True)
class Gathered:
    """All the rows, from one round: `flat` is described in `dist_dot.kernels.gathered`."""

    flat: Array
    n_features: int
    n_targets: int
    fit_intercept: bool

    def rows(self) -> RowSpace:
        """Return them centred and scaled. Raises InputError if the weights sum to zero."""
        p = self.n_features
        rows = self.flat.reshape(-1, p + self.n_targets + 1)
        data, s = rows[:, :-1], rows[:, -1]
        weight = float(np.sum(s))
        if not weight > 0:
            raise InputError("the sample weights are all zero: no row counts")
        mean = np.zeros(p + self.n_targets)
        if self.fit_intercept:
            mean = s @ data / weight
            mean = mean + s @ (data - mean) / weight  # what rounding left of it
        root = np.sqrt(s)
        centred = root[:, None] * (data - mean)
        return RowSpace(weight, mean[:p], mean[p:], centred[:, :p], centred[:, p:], root, self.fit_intercept)


def few(cuts: Cuts) -> bool:
    """Whether rows may travel, and have their products with each other held: at most 64 MB of either."""
    return 8 * cuts.n_samples * max(cuts.n_samples, cuts.n_features + cuts.n_targets + 1) <= ROOM


def few_rows(cuts: Cuts) -> bool:
    """Whether there are few rows, and fewer than columns."""
    return few(cuts) and cuts.n_samples < cuts.n_features
