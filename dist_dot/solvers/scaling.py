"""The coordinates that first-order solvers move in: columns centred and scaled to curvature 1, as algebra on W.

A scaled point v has W = scale * v and b = scale_b * c - mean @ W: the same for each output. Neither X nor F changes.
`scale` is (p + 1,), or (p,) without an intercept, and `mean` is (p,); flat vectors are those of `dist_dot.Objective`.
"""

import numpy as np

from dist_dot.objective import Objective
from dist_dot.typing import Array


def identity(objective: Objective) -> tuple[Array, Array]:
    """Return the scale and the mean of the coordinates of W themselves. No round."""
    return np.ones(objective.n_features + int(objective.fit_intercept)), np.zeros(objective.n_features)


def column_scaling(objective: Objective) -> tuple[Array, Array]:
    """Return the scale of each coordinate and the mean of each column. Two rounds.

    In the scaled coordinates the diagonal of the curvature bound is 1: 1 / scale^2 = c * spread + alpha, for the
    intercept c * sum s. Where no bound exists c is the curvature of the best constant. A column that is constant and
    not penalised keeps its own scale.
    """
    moments = objective.moments()
    bound = objective.loss.curvature
    if bound is None:
        mean_y = float(np.mean(moments.mean_y))
        bound = float(objective.loss.second(np.array(mean_y), np.array(objective.loss.link(mean_y))))
    spread, mean = moments.spread, moments.mean
    if not objective.fit_intercept:
        spread, mean = spread + moments.weight * mean * mean, np.zeros_like(mean)
    penalty = objective.penalty[: objective.n_features * objective.n_outputs : objective.n_outputs]
    diagonal = bound * spread + penalty
    if objective.fit_intercept:
        diagonal = np.append(diagonal, bound * moments.weight)
    return 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), mean


def row_space_scaling(objective: Objective) -> tuple[Array, Array]:
    """Return the scale and the mean of coordinates in which no step leaves the space of the rows. Two rounds.

    Columns are centred, and all scaled by one number over `objective.scale`, where that is penalised. Gradients of the
    losses are then combinations of rows, and so is every point that a first-order method reaches from 0: where columns
    depend on each other it ends at the smallest w, and a small penalty need not take back what other coordinates add.
    """
    scale, mean = column_scaling(objective)
    p = mean.size
    own = np.ones(p)
    if objective.alpha and objective.scale is not None:
        own = 1.0 / np.where(objective.scale > 0, objective.scale, 1.0)
    # The mean of the curvatures in the space of the rows, which has no more dimensions than there are rows.
    total = float(np.sum((own / scale[:p]) ** 2))
    scale[:p] = own * np.sqrt(min(p, objective.blocks.cuts.n_samples) / total)
    return scale, mean


def to_parameters(v: Array, scale: Array, mean: Array) -> Array:
    """Return the flat vector of the scaled point: W = scale * v, b = scale_b * c - mean @ W."""
    full = scale[:, None] * v.reshape(scale.size, -1)
    full[mean.size :] -= _weighted(mean, full)
    return full.ravel()


def to_scaled(parameters: Array, scale: Array, mean: Array) -> Array:
    """Return the scaled point of a flat vector: the inverse of `to_parameters`."""
    centred = parameters.reshape(scale.size, -1).copy()
    centred[mean.size :] += _weighted(mean, centred)
    return np.asarray(centred / scale[:, None]).ravel()


def to_scaled_gradient(gradient: Array, scale: Array, mean: Array) -> Array:
    """Return the gradient in the scaled point: the transpose of `to_parameters` applied to that in [W, b]."""
    centred = gradient.reshape(scale.size, -1).copy()
    if scale.size > mean.size:
        centred[: mean.size] -= mean[:, None] * centred[-1]
    return np.asarray(scale[:, None] * centred).ravel()


def _weighted(mean: Array, full: Array) -> Array:
    """Return mean @ W, output by output: a product with a matrix would have other bits for one output."""
    return np.array([mean @ column for column in np.ascontiguousarray(full[: mean.size].T)])
