"""The coordinates that first-order solvers move in: columns centred and scaled to curvature 1, as algebra on W.

With an intercept a scaled point v has W = scale * v and b = scale_b * c - mean @ W, the same for each output: `scale`
is (p + 1,), and `mean` (p,) are the means of the columns.

Without one no column can be centred, and columns far from 0 all have one direction in common, whose curvature is larger
by far than that of any other. `scale` is (p,), of the columns as if they were centred, and `mean` (p,) is u, with which
the curvature of scale * v is bounded by 1 + u u.T. So W = scale * (1 + u u.T)^(-1/2) v.

Neither X nor F changes. Flat vectors are those of `dist_dot.Objective`.
"""

import numpy as np

from dist_dot.objective import Objective
from dist_dot.typing import Array


def identity(objective: Objective) -> tuple[Array, Array]:
    """Return the scale and the mean of the coordinates of W themselves. No round."""
    return np.ones(objective.n_features + int(objective.fit_intercept)), np.zeros(objective.n_features)


def column_scaling(objective: Objective) -> tuple[Array, Array]:
    """Return the scale of each coordinate and `mean`, see above. Two rounds.

    In the scaled coordinates the diagonal of the curvature bound is 1: 1 / scale^2 = c * spread + alpha, for the
    intercept c * sum s. Where no bound exists c is the curvature of the best constant. A column that is constant and
    not penalised keeps its own scale.
    """
    scale, mean, weight = _measured(objective)
    return scale, mean if objective.fit_intercept else np.sqrt(weight) * scale * mean


def _measured(objective: Objective) -> tuple[Array, Array, float]:
    """Return the scale of each coordinate, the mean of each column, and c * sum s. Two rounds."""
    moments = objective.moments()
    bound = objective.loss.curvature
    if bound is None:
        mean_y = float(np.mean(moments.mean_y))
        bound = float(objective.loss.second(np.array(mean_y), np.array(objective.loss.link(mean_y))))
    penalty = objective.penalty[: objective.n_features * objective.n_outputs : objective.n_outputs]
    diagonal = bound * moments.spread + penalty
    if objective.fit_intercept:
        diagonal = np.append(diagonal, bound * moments.weight)
    return 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), moments.mean, bound * moments.weight


def row_space_scaling(objective: Objective) -> tuple[Array, Array]:
    """Return the scale and the mean of coordinates in which no step leaves the space of the rows. Two rounds.

    Columns are centred, and all scaled by one number over `objective.scale`, where that is penalised. Gradients of the
    losses are then combinations of rows, and so is every point that a first-order method reaches from 0: where columns
    depend on each other it ends at the smallest w, and a small penalty need not take back what other coordinates add.
    """
    scale, mean, weight = _measured(objective)
    p = mean.size
    own = np.ones(p)
    if objective.alpha and objective.scale is not None:
        own = 1.0 / np.where(objective.scale > 0, objective.scale, 1.0)
    # The mean of the curvatures in the space of the rows, which has no more dimensions than there are rows.
    total = float(np.sum((own / scale[:p]) ** 2))
    scale[:p] = own * np.sqrt(min(p, objective.blocks.cuts.n_samples) / total)
    return scale, mean if objective.fit_intercept else np.sqrt(weight) * scale * mean


def to_parameters(v: Array, scale: Array, mean: Array) -> Array:
    """Return the flat vector of the scaled point."""
    point = v.reshape(scale.size, -1)
    if scale.size == mean.size:
        return np.asarray(scale[:, None] * _stretched(point, mean, -0.5)).ravel()
    full = scale[:, None] * point
    full[mean.size :] -= _weighted(mean, full)
    return full.ravel()


def to_scaled(parameters: Array, scale: Array, mean: Array) -> Array:
    """Return the scaled point of a flat vector: the inverse of `to_parameters`."""
    point = parameters.reshape(scale.size, -1)
    if scale.size == mean.size:
        return _stretched(point / scale[:, None], mean, 0.5).ravel()
    centred = point.copy()
    centred[mean.size :] += _weighted(mean, centred)
    return np.asarray(centred / scale[:, None]).ravel()


def to_scaled_gradient(gradient: Array, scale: Array, mean: Array) -> Array:
    """Return the gradient in the scaled point: the transpose of `to_parameters` applied to that in [W, b]."""
    point = gradient.reshape(scale.size, -1)
    if scale.size == mean.size:
        return _stretched(scale[:, None] * point, mean, -0.5).ravel()
    centred = point.copy()
    centred[: mean.size] -= mean[:, None] * centred[-1]
    return np.asarray(scale[:, None] * centred).ravel()


def _stretched(point: Array, u: Array, power: float) -> Array:
    """Return (1 + u u.T)^power times the point (p, k): only its part along u changes."""
    square = float(u @ u)
    if not square:
        return point
    along = (np.exp(power * np.log1p(square)) - 1.0) / square * _weighted(u, point)
    stretched: Array = point + u[:, None] * along
    return stretched


def _weighted(mean: Array, full: Array) -> Array:
    """Return mean @ W, output by output: a product with a matrix would have other bits for one output."""
    return np.array([mean @ column for column in np.ascontiguousarray(full[: mean.size].T)])
