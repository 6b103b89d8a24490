"""The inverse of X.T X with a penalty, from second moments or from a triangle, and what the rank is short of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh, qr, solve_triangular, svd
from scipy.linalg.lapack import dpocon, dpotrf, dtrcon

from dist_dot.kernels.moments import triangle
from dist_dot.typing import Array

# Second moments lose twice the digits of the condition: up to here ten of the sixteen are left.
CONDITION = 1e3
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Factor:
    """The inverse of H = X.T X + P as half half.T, with a triangular or a dense half; P is the penalty's diagonal (p,).

    Columns are scaled to norm 1 before anything is decided, so units do not matter; `condition` is that of X with the
    penalty's rows below and its columns so scaled, within sqrt(p) of the best scaling (van der Sluis, Condition
    numbers and equilibration of matrices (1969)). It is estimated from the factor in O(p^2) operations. Where the rank
    is short of p by rounding, the inverse is the one that gives the smallest w, and `dropped` names as many columns
    that are combinations of the others. `projected` (p, k) is half.T X.T Y of a triangle of [X Y] of full rank.
    """

    scale: Array
    root: Array | None
    dense: Array | None
    condition: float
    dropped: tuple[int, ...]
    projected: Array | None = None

    @property
    def rank(self) -> int:
        """Columns that are no combinations of others."""
        return self.scale.size - len(self.dropped)

    def half(self, right: Array) -> Array:
        """Return half.T @ right."""
        if self.root is None:
            return self._dense.T @ right
        solution: Array = solve_triangular(self.root, self.scale[:, None] * right, trans="T", check_finite=False)
        return solution

    def solve(self, right: Array) -> Array:
        """Return the w (p, k) of H w = right (p, k)."""
        return self._from_half(self.half(right))

    def minimum(self, xy: Array) -> Array:
        """Return the w (p, k) of H w = X.T Y, which xy (p, k) is.

        Where Y has been factored with X, its digits are lost to the condition of X, and not to the square of that.
        """
        return self.solve(xy) if self.projected is None else self._from_half(self.projected)

    def _from_half(self, right: Array) -> Array:
        """Return half @ right."""
        if self.root is None:
            return self._dense @ right
        solution: Array = self.scale[:, None] * solve_triangular(self.root, right, check_finite=False)
        return solution

    def diagonal(self) -> Array:
        """Return the diagonal (p,) of the inverse."""
        halves = self.half(np.eye(self.scale.size))
        diagonal: Array = np.einsum("ij,ij->j", halves, halves)
        return diagonal

    @property
    def _dense(self) -> Array:
        return self.dense if self.dense is not None else np.empty((self.scale.size, 0))


@dataclass(frozen=True)
class Factors:
    """A factor for each target, where their penalties differ. What is said of all is said of the worst."""

    targets: tuple[Factor, ...]

    @property
    def worst(self) -> Factor:
        """The one that is short of most columns, or has the largest condition."""
        return max(self.targets, key=lambda factor: (len(factor.dropped), factor.condition))

    @property
    def scale(self) -> Array:
        """The factors (p,) that scale columns to norm 1."""
        return self.worst.scale

    @property
    def condition(self) -> float:
        """The largest condition."""
        return self.worst.condition

    @property
    def dropped(self) -> tuple[int, ...]:
        """Columns that are combinations of others."""
        return self.worst.dropped

    @property
    def rank(self) -> int:
        """Columns that are no combinations of others."""
        return self.worst.rank

    def solve(self, right: Array) -> Array:
        """Return the w (p, k) of H_j w_j = right_j for each target j."""
        return np.column_stack([f.solve(right[:, [j]]) for j, f in enumerate(self.targets)])

    def minimum(self, xy: Array) -> Array:
        """Return the w (p, k) of H_j w_j = X.T Y_j for each target j, see `Factor.minimum`."""
        return np.column_stack([f.minimum(xy)[:, j] for j, f in enumerate(self.targets)])


def rank_tolerance(n: int, p: int) -> float:
    """Return what counts as 0 beside 1 in a sum over n rows: some ten times its rounding."""
    return 10.0 * EPS * float(np.sqrt(max(n, p)))


def factor_moments(xx: Array, penalty: Array, n: int) -> Factor:
    """Factor second moments (p, p) of n rows: Cholesky, or the eigenvectors where the rank is short."""
    H = xx + np.diag(penalty)
    scale = _unit(np.sqrt(np.diag(H)))
    G = scale[:, None] * H * scale
    root, failed = dpotrf(G, clean=1)
    reciprocal = 0.0 if failed else float(dpocon(root, np.abs(G).sum(axis=0).max())[0])
    tolerance = rank_tolerance(n, len(xx))
    if reciprocal > tolerance:
        return Factor(scale, root, None, float(np.sqrt(1.0 / reciprocal)), ())
    values, vectors = eigh(G)
    values = np.sqrt(np.maximum(values, 0.0))
    return _smallest(scale, values, vectors, np.sqrt(tolerance) * values.max(initial=0.0))


def factor_triangle(R: Array, penalty: Array, n: int, about: Array | None = None) -> Factor:
    """Factor by the R (p + k, p + k) of n rows [X Y], k may be 0: itself with the penalty (p,) of the columns of X.

    Its singular vectors take its place where the rank is short. about (p,) is the norm of what was taken from each
    column of X to centre it: the numbers of X are rounded beside that.
    """
    p, penalised = len(penalty), penalty.any()
    if penalised:
        R = triangle(np.vstack([R, np.sqrt(penalty)[:, None] * np.eye(p, len(R))]))
    R, projected = R[:p, :p], R[:p, p:]
    scale = _unit(np.linalg.norm(R, axis=0))
    root = np.asfortranarray(R * scale)
    tolerance = rank_tolerance(n, p)
    reciprocal = float(dtrcon(root)[0])
    full = Factor(scale, root, None, 1.0 / reciprocal if reciprocal else np.inf, (), projected)
    rounding = np.zeros(p) if about is None or penalised else tolerance * np.abs(about) * scale
    if reciprocal > max(tolerance, rounding.max(initial=0.0)):
        return full
    _, values, vectors = svd(root)
    least = np.maximum(tolerance * values.max(initial=0.0), np.linalg.norm(vectors * rounding, axis=1))
    if reciprocal > tolerance and np.all(values > least):
        return full
    return _smallest(scale, values, vectors.T, least)


def _smallest(scale: Array, values: Array, vectors: Array, least: Array | float) -> Factor:
    """Return the factor that gives the smallest w, from the singular values and vectors of the scaled X.

    Values up to `least` are rounding.
    """
    kept = values > least
    dense = scale[:, None] * vectors[:, kept] / values[kept]
    null = _basis(scale, vectors[:, ~kept])
    for _ in range(2):  # in columns of small units what is left is as small as the first rounding: twice is enough
        dense = dense - null @ (null.T @ dense)
    free: Sequence[int] = qr(null.T, pivoting=True, mode="r")[1][: null.shape[1]] if null.size else ()
    condition = float(values[kept].max() / values[kept].min()) if kept.any() else 1.0
    return Factor(scale, None, dense, condition, tuple(sorted(int(j) for j in free)))


def _basis(scale: Array, vectors: Array) -> Array:
    """Return an orthonormal basis of unit vectors of the scaled X, in the columns as they are.

    Their entries are then of as many sizes as the units of the columns. Each is exact beside its own size where the
    largest rows come first and columns are exchanged (Cox and Higham, Stability of Householder QR factorization for
    weighted least squares problems (1998)); an entry that is rounding would be multiplied, and is 0.
    """
    rounding = len(scale) * EPS
    clean = np.where(np.abs(vectors) > rounding, vectors, 0.0)
    order = np.argsort(-scale, kind="stable")
    basis = np.empty_like(clean)
    basis[order] = qr((scale[:, None] * clean)[order], mode="economic", pivoting=True)[0]
    return basis


def _unit(norms: Array) -> Array:
    """Return the factors that scale columns of these norms to 1; for a column of zeros that of the smallest other."""
    some = norms[norms > 0]
    return 1.0 / np.where(norms > 0, norms, some.min() if some.size else 1.0)
