"""Least squares from its sufficient statistics, beside the loop: nothing in this file is a round."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from scipy.linalg import eigh, qr, solve_triangular, svd
from scipy.linalg.lapack import dpocon, dpotrf, dtrcon

from dist_dot.blocks.moments import columns, triangle
from dist_dot.errors import InputError, SolverError
from dist_dot.losses import Squared
from dist_dot.objective import ColumnMoments, Objective
from dist_dot.typing import Array


@dataclass(frozen=True)
class Quadratic:
    """The squared loss of all rows as what it is, a polynomial of the second degree in w and b.

    ::

        1/2 sum_j (yy_j - 2 <xy_j, w_j> + <w_j, xx w_j>)  +  weight / 2 * ||y_mean - W.T mean - b||^2

    xx (p, p), xy (p, k) and yy (k,) are second moments about the means (p,) and (k,); without an intercept they are
    about 0, and the means are 0.
    """

    weight: float
    mean: Array
    y_mean: Array
    xx: Array
    xy: Array
    yy: Array

    @property
    def n_features(self) -> int:
        """Columns of X."""
        return self.mean.size

    def value(self, w: Array, b: Array) -> float:
        """Return the loss at w (p, k) and b (k,)."""
        gap = self.y_mean - self.mean @ w - b
        products = np.sum(w * (self.xx @ w - 2.0 * self.xy), axis=0)
        return float(0.5 * np.sum(self.yy + products) + 0.5 * self.weight * (gap @ gap))

    def gradient(self, w: Array, b: Array) -> tuple[Array, Array]:
        """Return the gradients in w (p, k) and in b (k,)."""
        in_b = -self.weight * (self.y_mean - self.mean @ w - b)
        return self.xx @ w - self.xy + self.mean[:, None] * in_b, in_b

    def intercept(self, w: Array) -> Array:
        """Return the best b (k,) for w (p, k)."""
        best: Array = self.y_mean - self.mean @ w
        return best


def quadratic(summary: Array, n_targets: int, fit_intercept: bool, triangular: bool = False) -> Quadratic:
    """Return the loss of the rows of a summary, see `dist_dot.blocks.moments`.

    Raises InputError if the weights sum to zero.
    """
    d = columns(summary.size)
    p = d - n_targets
    weight, mean, matrix = float(summary[0]), summary[1 : 1 + d], summary[1 + d :].reshape(d, d)
    if not weight > 0:
        raise InputError("the sample weights are all zero: no row counts")
    if triangular:
        matrix = matrix.T @ matrix
    if not fit_intercept:
        matrix, mean = matrix + weight * np.outer(mean, mean), np.zeros(d)
    return Quadratic(weight, mean[:p], mean[p:], matrix[:p, :p], matrix[:p, p:], np.diag(matrix)[p:].copy())


def require_squared(objective: Objective, solver: str) -> None:
    """Raise SolverError for a loss whose sum is no polynomial of the second degree."""
    if objective.loss != Squared():
        raise SolverError(f"{solver} needs the squared loss, this is {objective.loss.name}: use another solver")


@dataclass(frozen=True)
class QuadraticObjective(Objective):
    """F of the squared loss, answered from its sufficient statistics: no call is a round."""

    rows: Quadratic = field(kw_only=True)

    def value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """Return F and its gradient at [w, b]."""
        w, b = self.split(parameters)
        in_w, in_b = self.rows.gradient(w, b)
        pull = self.penalty * parameters
        gradient = np.concatenate([in_w.ravel(), in_b])[: self.n_parameters] + pull
        return self.rows.value(w, b) + 0.5 * float(pull @ parameters), gradient

    def curvature_bound_product(self, direction: Array) -> Array:
        """Return H d for the Hessian H of F."""
        w, b = self.split(direction)
        shift = self.rows.weight * (self.rows.mean @ w + b)
        product = np.concatenate([(self.rows.xx @ w + self.rows.mean[:, None] * shift).ravel(), shift])
        result: Array = product[: self.n_parameters] + self.penalty * direction
        return result

    def moments(self) -> ColumnMoments:
        """Return the moments of the columns and of y; about 0 without an intercept."""
        rows = self.rows
        return ColumnMoments(rows.weight, rows.mean, np.diag(rows.xx), rows.y_mean, rows.yy)


def answered_from(summary: Array, objective: Objective) -> QuadraticObjective:
    """Return the same F, answered from the second moments of all its rows."""
    rows = quadratic(summary, objective.n_targets, objective.fit_intercept)
    known = {field.name: getattr(objective, field.name) for field in fields(objective)}
    return QuadraticObjective(**known, rows=rows)


@dataclass(frozen=True)
class Factor:
    """The inverse of H = X.T X + P as half half.T, with a triangular or a dense half; P is the penalty's diagonal (p,).

    Columns are scaled to norm 1 before anything is decided, so units do not matter; `condition` is that of X with the
    penalty's rows below and its columns so scaled, within sqrt(p) of the best scaling (van der Sluis, Condition
    numbers and equilibration of matrices (1969)). It is estimated from the factor in O(p^2) operations. Where the rank
    is short of p by rounding, the inverse is the one that gives the smallest w, and `dropped` names as many columns
    that are combinations of the others.
    """

    scale: Array
    root: Array | None
    dense: Array | None
    condition: float
    dropped: tuple[int, ...]

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
        half = self.half(right)
        if self.root is None:
            return self._dense @ half
        solution: Array = self.scale[:, None] * solve_triangular(self.root, half, check_finite=False)
        return solution

    @property
    def _dense(self) -> Array:
        return self.dense if self.dense is not None else np.empty((self.scale.size, 0))


def rank_tolerance(n: int, p: int) -> float:
    """Return what counts as 0 beside 1 in a sum over n rows: some ten times its rounding."""
    return 10.0 * float(np.finfo(np.float64).eps) * float(np.sqrt(max(n, p)))


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
    return _smallest(scale, np.sqrt(np.maximum(values, 0.0)), vectors, np.sqrt(tolerance))


def factor_triangle(R: Array, penalty: Array, n: int) -> Factor:
    """Factor by the R (p, p) of n rows: itself with the penalty, or its singular vectors where the rank is short."""
    if penalty.any():
        R = triangle(np.vstack([R, np.diag(np.sqrt(penalty))]))
    scale = _unit(np.linalg.norm(R, axis=0))
    root = np.asfortranarray(R * scale)
    tolerance = rank_tolerance(n, len(R))
    reciprocal = float(dtrcon(root)[0])
    if reciprocal > tolerance:
        return Factor(scale, root, None, 1.0 / reciprocal, ())
    _, values, vectors = svd(root)
    return _smallest(scale, values, vectors.T, tolerance)


def _smallest(scale: Array, values: Array, vectors: Array, tolerance: float) -> Factor:
    """Return the factor that gives the smallest w, from the singular values and vectors of the scaled X."""
    kept = values > tolerance * values.max(initial=0.0)
    dense = scale[:, None] * vectors[:, kept] / values[kept]
    null = np.linalg.qr(scale[:, None] * vectors[:, ~kept])[0]  # in the columns as they are
    dense = dense - null @ (null.T @ dense)
    free: Sequence[Any] = qr(null.T, pivoting=True, mode="r")[1][: null.shape[1]] if null.size else ()
    condition = float(values[kept].max() / values[kept].min()) if kept.any() else 1.0
    return Factor(scale, None, dense, condition, tuple(sorted(int(j) for j in free)))


def _unit(norms: Array) -> Array:
    """Return the factors that scale columns of these norms to 1; 1 for a column of zeros."""
    return 1.0 / np.where(norms > 0, norms, 1.0)
