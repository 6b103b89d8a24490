"""The objective F, and what is known about it: each method call is one round, unless it says otherwise."""

from dataclasses import dataclass

import numpy as np

from dist_dot.blocks.block import Blocks
from dist_dot.blocks.kernels import CheckTarget, Curvature, GramProduct, Moments, ValueAndGradient
from dist_dot.errors import InputError, SolverError
from dist_dot.losses import Loss
from dist_dot.typing import Array


@dataclass(frozen=True)
class ColumnMoments:
    """Weighted means and central second moments of the columns of X, and of y.

    weight is sum_i s_i; mean (p,) and mean_y are weighted means; spread (p,) is sum_i s_i (x_ij - mean_j)^2 and
    spread_y the same of y.
    """

    weight: float
    mean: Array
    spread: Array
    mean_y: float
    spread_y: float


@dataclass(frozen=True)
class Objective:
    """The regularised sum of losses over the rows of `blocks`.

    ::

        F(w, b) = sum_i s_i * loss(y_i, z_i)  +  alpha / 2 * ||w||^2          z_i = <x_i, w> + b

    X is (n, p), w is (p,), b is a number that is never penalised and is 0 without `fit_intercept`; s_i >= 0 are the
    sample weights, 1 where none were given. Solvers see one flat vector, [w, b] or w alone: `n_parameters` numbers.
    For k targets F is the sum over them; w is then (p, k), row by row in the flat vector, and b is (k,).

    Raises InputError for an alpha that is negative or not finite.
    """

    blocks: Blocks
    loss: Loss
    alpha: float = 0.0
    fit_intercept: bool = True

    def __post_init__(self) -> None:
        if not (np.isfinite(self.alpha) and self.alpha >= 0):
            raise InputError(f"alpha is {self.alpha!r}: the L2 strength is a finite number >= 0")

    @property
    def n_features(self) -> int:
        """Columns of X."""
        return self.blocks.cuts.n_features

    @property
    def n_targets(self) -> int:
        """Columns of y."""
        return self.blocks.cuts.n_targets

    @property
    def n_parameters(self) -> int:
        """Length of the flat vector [w, b] or w."""
        return (self.n_features + int(self.fit_intercept)) * self.n_targets

    def split(self, parameters: Array) -> tuple[Array, Array]:
        """Return w (p, k) and b (k,), which is 0 without an intercept, of a flat vector of k targets."""
        count = self.n_features * self.n_targets
        w = parameters[:count].reshape(self.n_features, self.n_targets)
        return w, parameters[count:] if self.fit_intercept else np.zeros(self.n_targets)

    @property
    def penalty(self) -> Array:
        """Alpha for each coefficient, 0 for the intercept: the Hessian of the penalty, as its diagonal."""
        diagonal = np.full(self.n_parameters, float(self.alpha))
        diagonal[self.n_features * self.n_targets :] = 0.0
        return diagonal

    def check_target(self) -> None:
        """Raise DataError if a y is outside of the loss's domain. One round that reads y alone; none for squared."""
        if any(map(np.isfinite, self.loss.domain)):
            self.blocks.reduce(CheckTarget(self.loss), np.zeros(0))

    def value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """Return F and its gradient at the flat vector [w, b]. One round; reads X once."""
        sums = self.blocks.reduce(ValueAndGradient(self.loss), self._pad(parameters))
        pull = self.penalty * parameters
        return float(sums[0] + 0.5 * (pull @ parameters)), sums[1 : 1 + self.n_parameters] + pull

    def values_and_gradients(self, points: Array) -> tuple[Array, Array]:
        """Return F (k,) and its gradients (k, n_parameters) at k points (k, n_parameters). One round; reads X once.

        Raises InputError for points of another shape.
        """
        if points.ndim != 2 or not len(points):
            raise InputError(f"points have shape {points.shape}, expected (k, {self.n_parameters})")
        padded = np.concatenate([self._pad(point) for point in points])
        sums = self.blocks.reduce(ValueAndGradient(self.loss, len(points)), padded).reshape(len(points), -1)
        pull = self.penalty * points
        values: Array = sums[:, 0] + 0.5 * np.einsum("ij,ij->i", pull, points)
        return values, sums[:, 1 : 1 + self.n_parameters] + pull

    def hessian(self, parameters: Array) -> Array:
        """Return the Hessian of F (n_parameters, n_parameters) at [w, b]. One round; n p^2 operations."""
        p = self.n_features
        sums = self.blocks.reduce(Curvature(self.loss), self._pad(parameters))
        full = np.empty((p + 1, p + 1))
        full[:p, :p] = sums[: p * p].reshape(p, p)
        full[p, :p] = full[:p, p] = sums[p * p : -1]
        full[p, p] = sums[-1]
        hessian: Array = full[: self.n_parameters, : self.n_parameters] + np.diag(self.penalty)
        return hessian

    def curvature_bound_product(self, direction: Array) -> Array:
        """Return H d for an H that is no smaller than the Hessian of F at any point. One round; reads X once.

        H = c * X.T S X + alpha I with c the supremum of d2 loss / dz2: the Hessian itself for the squared loss.
        Raises SolverError for a loss whose curvature has no bound.
        """
        if self.loss.curvature is None:
            raise SolverError(f"the curvature of the {self.loss.name} loss has no bound: use a solver with line search")
        sums = self.blocks.reduce(GramProduct(), self._pad(direction))
        product: Array = self.loss.curvature * sums[: self.n_parameters] + self.penalty * direction
        return product

    def moments(self) -> ColumnMoments:
        """Return the moments of the columns and of y. Two rounds: the second is centred, so that nothing cancels.

        Raises InputError if the weights sum to zero, SolverError for several targets.
        """
        self._require_one_target()
        p = self.n_features
        first = self.blocks.reduce(Moments(), np.zeros(p + 1))
        weight = float(first[0])
        if not weight > 0:
            raise InputError("the sample weights are all zero: no row counts")
        centre = first[1 : p + 2] / weight
        second = self.blocks.reduce(Moments(), centre)
        correction = second[1 : p + 2]  # what rounding left of the first moments: E[d^2] - E[d]^2
        spread = np.maximum(second[p + 2 :] - correction * correction / weight, 0.0)
        mean = centre + correction / weight
        return ColumnMoments(weight, mean[:p], spread[:p], float(mean[p]), float(spread[p]))

    def explained(self, parameters: Array) -> float:
        """Return D2 = 1 - loss(model) / loss(best constant): R2 for the squared loss. Four rounds.

        Without a penalty, on these blocks, which may hold other rows than the model was trained on. It is 1.0 for a
        constant y that is met exactly and -inf for one that is not.
        """
        kernel = ValueAndGradient(self.loss)
        constant = np.zeros(self.n_features + 1)
        constant[-1] = self.loss.link(self.moments().mean_y)
        model, null = (float(self.blocks.reduce(kernel, at)[0]) for at in (self._pad(parameters), constant))
        if null == 0.0:
            return 1.0 if model == 0.0 else -np.inf
        return 1.0 - model / null

    def _pad(self, parameters: Array) -> Array:
        """Return [w, b], with b = 0 where there is no intercept. Raises SolverError for several targets."""
        self._require_one_target()
        if parameters.shape != (self.n_parameters,):
            raise InputError(f"parameters have shape {parameters.shape}, expected ({self.n_parameters},)")
        return parameters if self.fit_intercept else np.append(parameters, 0.0)

    def _require_one_target(self) -> None:
        if self.n_targets > 1:
            raise SolverError(f"y has {self.n_targets} targets, which only the solver 'exact' fits together")
