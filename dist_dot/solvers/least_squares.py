"""Least squares from its sufficient statistics, beside the loop: nothing in this file is a round."""

from dataclasses import dataclass, field, replace

import numpy as np

from dist_dot.baseline import FAR, ColumnMoments
from dist_dot.errors import DataError, InputError
from dist_dot.kernels.moments import columns, triangle
from dist_dot.objective import Objective
from dist_dot.reference import Reference, Sizes
from dist_dot.solvers.factor import Factor, Factors, factor_moments, factor_triangle
from dist_dot.solvers.needs import LinearRows
from dist_dot.typing import Array

# Of a square that has lost digits.
LEAST = 1e-300
# The sum of weights that cannot be multiplied by a square.
HEAVY = 1e250
# The deviation of a column beside its mean that is all rounding: such a column is constant, and as good as not there.
CONSTANT = 10.0 * float(np.finfo(np.float64).eps)


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


@dataclass(frozen=True)
class Summary:
    """All the rows, summed up in one round: what least squares needs to know, whatever the penalty.

    `flat` is described in `dist_dot.kernels.moments`; it holds an R where it is `triangular`, else second moments.
    Raises DataError for a column of [X, y] whose squares overflow, or are all 0 where its mean is not.
    """

    flat: Array
    triangular: bool
    n_samples: int
    n_targets: int
    fit_intercept: bool

    def __post_init__(self) -> None:
        mean, p = self._mean(), self.n_features
        about = self.flat[1 + mean.size :].reshape(mean.size, mean.size)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            squares = np.sum(about**2, axis=0) if self.triangular else np.diag(about)
            large = ~np.isfinite(squares) | ~np.isfinite(mean * mean)
            small = (squares == 0) & (mean != 0) & (mean * mean < LEAST)
        if not (large | small).any():
            return
        j = int(np.argmax(large | small))
        if large[j] and float(self.flat[0]) > HEAVY:
            raise DataError("the sample weights overflow float64 in sums of squares: divide them by a power of ten")
        name = f"column {j} of X" if j < p else "y" if self.n_targets == 1 else f"target {j - p} of y"
        word, advice = ("overflow", "divide") if large[j] else ("vanish in", "multiply")
        raise DataError(f"{name} is about {mean[j]:.0e}, and its squares {word} float64: {advice} it by a power of ten")

    @property
    def n_features(self) -> int:
        """Columns of X."""
        return columns(self.flat.size) - self.n_targets

    def quadratic(self) -> Quadratic:
        """Return the loss. Raises InputError if the weights sum to zero."""
        p, weight = self.n_features, float(self.flat[0])
        if not weight > 0:
            raise InputError("the sample weights are all zero: no row counts")
        matrix, mean = self._matrix(), self._mean()
        if self.triangular:
            matrix = matrix.T @ matrix
        elif not self.fit_intercept:
            matrix = matrix + weight * np.outer(mean, mean)
        if not self.fit_intercept:
            mean = np.zeros_like(mean)
        return Quadratic(weight, mean[:p], mean[p:], matrix[:p, :p], matrix[:p, p:], np.diag(matrix)[p:].copy())

    def factor(self, penalty: Array) -> Factor:
        """Return the inverse of X.T X with this penalty (p,) on the diagonal."""
        if self.triangular:
            p = self.n_features
            about = self._mean()[:p] * np.sqrt(float(self.flat[0])) if self.fit_intercept else np.zeros(p)
            return factor_triangle(self._matrix(), penalty, self.n_samples, about)
        return factor_moments(self.quadratic().xx, penalty, self.n_samples)

    def factors(self, penalty: Array) -> Factor | Factors:
        """Return the same, for each target where they have penalties of their own (p, k)."""
        if penalty.ndim == 2:
            return Factors(tuple(self.factor(each) for each in penalty.T))
        return self.factor(penalty)

    def decomposed(self) -> tuple[Array, Array, Array, Array]:
        """Return U, s and V of R = U diag(s) V.T, for the columns of X, and the same rows of R for those of y.

        It has an R where it is `triangular`.
        """
        p, matrix = self.n_features, self._matrix()
        U, s, transposed = np.linalg.svd(matrix[:p, :p])
        return U, s, transposed.T, matrix[:p, p:]

    def residual_squares(self) -> Array:
        """Return the weighted sum of squared residuals (k,) of the unpenalised fit."""
        p, k = self.n_features, self.n_targets
        if self.triangular:
            return np.asarray(np.sum(self._matrix()[p:, p:] ** 2, axis=0))
        rows = self.quadratic()
        halves = self.factor(np.zeros(p)).half(rows.xy).reshape(-1, k)
        squares: Array = np.maximum(rows.yy - np.sum(halves**2, axis=0), 0.0)
        return squares

    def reference(self, objective: LinearRows) -> Reference:
        """Return `objective.reference()`. No round."""
        p, mean = self.n_features, self._mean()
        about = self.flat[1 + mean.size :].reshape(mean.size, mean.size)
        about = about.T @ about if self.triangular else about
        spread = np.maximum(np.diag(about), 0.0)
        return reference_of(objective, float(self.flat[0]), mean, spread, about[:p, p:])

    def _mean(self) -> Array:
        return self.flat[1 : 1 + self.n_features + self.n_targets]

    def _matrix(self) -> Array:
        """Return the second moments about the mean, or a triangle; that one about 0 without an intercept."""
        mean = self._mean()
        matrix = self.flat[1 + mean.size :].reshape(mean.size, mean.size)
        if self.triangular and not self.fit_intercept:  # the mean comes back, as one row more
            return triangle(np.vstack([matrix, np.sqrt(self.flat[0]) * mean]))
        if self.fit_intercept:
            spread = np.sum(matrix**2, axis=0) if self.triangular else np.diag(matrix)
            varies = spread > self.flat[0] * (CONSTANT * mean) ** 2
            matrix = matrix * varies if self.triangular else matrix * varies * varies[:, None]
        return matrix


@dataclass(frozen=True)
class QuadraticObjective(Objective):
    """F of the squared loss, answered from its sufficient statistics: no call is a round."""

    rows: Quadratic = field(kw_only=True)
    summary: Summary = field(kw_only=True)

    def reference(self) -> Reference:
        """Return what a gradient is small beside."""
        return self.summary.reference(self)

    def value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """Return F and its gradient at [w, b]."""
        w, b = self.split(parameters)
        pull = self.penalty * parameters
        gradient = self.join(*self.rows.gradient(w, b)) + pull
        return self.rows.value(w, b) + 0.5 * float(pull @ parameters), gradient

    def first_value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """Return the same."""
        return self.value_and_gradient(parameters)

    def curvature_bound_product(self, direction: Array) -> Array:
        """Return H d for the Hessian H of F."""
        w, b = self.split(direction)
        shift = self.rows.weight * (self.rows.mean @ w + b)
        product = self.join(self.rows.xx @ w + self.rows.mean[:, None] * shift, shift)
        result: Array = product + self.penalty * direction
        return result

    def moments(self) -> ColumnMoments:
        """Return the moments of the columns."""
        rows = replace(self.summary, fit_intercept=True).quadratic()
        spread = np.diag(rows.xx)
        return ColumnMoments(rows.weight, rows.mean, spread, spread * FAR**2 < rows.weight * rows.mean**2)

    def curvature(self) -> float:
        """Return the curvature of the squared loss."""
        return 1.0


def reference_of(objective: LinearRows, weight: float, mean: Array, spread: Array, xy: Array) -> Reference:
    """Return `objective.reference()` of the squared loss from moments about the means. No round.

    weight is sum_i s_i, mean (p + k) and spread (p + k) are those of the columns of [X, y], xy (p, k) is of X and y:
    minus the gradient at w = 0 and the best constant.
    """
    p = len(xy)
    raw = spread + weight * mean * mean
    # The parts of z - y are z and y, by the sums of their squares.
    parts = np.sqrt(spread[p:]) + np.sqrt(raw[p:]) + np.sqrt(weight) * np.abs(mean[p:])
    largest = spread[p:].max(), (parts * parts).max()
    if objective.fit_intercept:
        sizes = Sizes(np.append(raw[:p], weight), np.append(spread[:p], weight), mean[:p], *largest)
    else:
        sizes = Sizes(raw[:p], spread[:p], mean[:p], *largest)
    return Reference.of(objective.join(-xy, np.zeros(xy.shape[1])), sizes, objective.blocks.cuts)


def answered_from(flat: Array, objective: LinearRows) -> QuadraticObjective:
    """Return the same F, answered from the second moments of all its rows."""
    summary = Summary(flat, False, objective.blocks.cuts.n_samples, objective.n_targets, objective.fit_intercept)
    of_f = objective.blocks, objective.loss, objective.alpha, objective.fit_intercept, objective.scale
    return QuadraticObjective(*of_f, rows=summary.quadratic(), summary=summary)
