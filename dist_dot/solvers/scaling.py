"""The coordinates that first-order solvers move in: columns centred and scaled to curvature 1, as algebra on W.

With an intercept a scaled point v has W = scale * v and b = scale_b * c - mean @ W, the same for each output: `scale`
is (p + 1,), and `mean` (p,) are the means of the columns.

Without one no column can be centred, and columns far from 0 all have one direction in common, whose curvature is larger
by far than that of any other. `scale` is (p,), of the columns as if they were centred, and `mean` (p,) is u, with which
the curvature of scale * v is bounded by 1 + u u.T. So W = scale * (1 + u u.T)^(-1/2) v.

Neither X nor F changes. Flat vectors are those of `dist_dot.Objective`.
"""

import numpy as np

from dist_dot.objective import deviations
from dist_dot.problem import Function
from dist_dot.solvers.needs import Columns, Curved, columns
from dist_dot.typing import Array

EPS = float(np.finfo(np.float64).eps)


def coordinates(preconditioner: str | None, function: Function, start: Array) -> tuple[Array, Array]:
    """Return the scale and the mean of the coordinates that a solver with this preconditioner moves in.

    Rounds as for `Objective.moments`; none without a preconditioner. Raises SolverError for one and an F whose columns
    cannot be measured.
    """
    if preconditioner is None:
        return identity(function)
    return PRECONDITIONERS[preconditioner](columns(function, preconditioner), start)


def identity(function: Function) -> tuple[Array, Array]:
    """Return the scale and the mean of the coordinates of the flat vector itself. No round."""
    if isinstance(function, Columns):
        return np.ones(function.n_features + int(function.fit_intercept)), np.zeros(function.n_features)
    return np.ones(function.n_parameters), np.zeros(function.n_parameters)


def far_scaling(objective: Curved, start: Array) -> tuple[Array, Array, Array]:
    """Return the scale and the mean of W's own coordinates, but that columns far from 0 are centred.

    The third (n_parameters,) is the curvature below which a coordinate has none. A column far from 0 that is constant
    is held where the start is 0, see `column_scaling`. Rounds as for `Objective.moments`.
    """
    scale, _ = identity(objective)
    mean, spread = objective.far_columns()
    constant = (mean != 0) & (spread == 0)
    held = constant & ~_moved(objective, start)
    scale[: mean.size][held] = 0.0
    weight = [objective.null_model()[0]] * int(objective.fit_intercept)
    least = np.outer(np.append(spread, weight), objective.least_curvature())
    return scale, np.where(constant & ~held, 0.0, mean), least.ravel()


def column_scaling(objective: Columns, start: Array) -> tuple[Array, Array]:
    """Return the scale of each coordinate and `mean`, see above. Rounds as for `Objective.moments`.

    In the scaled coordinates the diagonal of the curvature bound is 1: 1 / scale^2 = c * spread + alpha, for the
    intercept c * sum s. Where no bound exists c is the curvature of the best constant. A column of zeros that is not
    penalised keeps its own scale. The coefficients of a constant column stay at a start of 0: beside an intercept they
    are 0 at the minimum, and the gradient there would be rounding alone.
    """
    scale, mean, weight = _measured(objective, start)
    return scale, mean if objective.fit_intercept else np.sqrt(weight) * scale * mean


def _measured(objective: Columns, start: Array) -> tuple[Array, Array, float]:
    """Return the scale of each coordinate, the mean of each column, and c * sum s."""
    moments = objective.moments()
    mean, bound = moments.mean, objective.curvature()
    penalty = (
        objective.penalty[: objective.n_features * objective.n_outputs].reshape(objective.n_features, -1).min(axis=1)
    )
    spread, constant = moments.spread, (mean != 0) & (deviations(mean, moments.spread / moments.weight) == 0)
    least = np.zeros_like(mean)
    if not objective.fit_intercept:  # nothing takes its place, but a penalty holds it
        raw = moments.weight * mean * mean
        spread = np.where(constant & (penalty == 0), raw, spread)
        # Beside a smaller penalty the sums of such columns are rounding: the same scale for all finds the smallest w.
        largest, eps = bound * raw[constant].max(initial=0.0), float(np.finfo(objective.blocks.cuts.dtype).eps)
        least = np.where(constant & (penalty > 0) & (penalty <= eps * largest), largest, 0.0)
    diagonal = np.maximum(bound * spread + penalty, least)
    if objective.fit_intercept:
        diagonal = np.append(diagonal, bound * moments.weight)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    if objective.fit_intercept:
        scale[: mean.size][constant & ~_moved(objective, start)] = 0.0
    return scale, mean, bound * moments.weight


def _moved(objective: Columns, start: Array) -> Array:
    """Return whether a start is not 0 for each column."""
    return np.asarray(objective.split(start)[0].any(axis=1))


def row_space_scaling(objective: Columns, start: Array) -> tuple[Array, Array]:
    """Return the scale and the mean of coordinates in which no step leaves the space of the rows.

    Columns are centred, and all scaled by one number over `objective.scale`, where that is penalised. Gradients of the
    losses are then combinations of rows, and so is every point that a first-order method reaches from 0: where columns
    depend on each other it ends at the smallest w, and a small penalty need not take back what other coordinates add.
    """
    scale, mean, weight = _measured(objective, start)
    p = mean.size
    own = np.ones(p)
    if objective.penalty.any() and objective.scale is not None:
        own = 1.0 / np.where(objective.scale > 0, objective.scale, 1.0)
    # The mean of the curvatures in the space of the rows, which has no more dimensions than there are rows.
    held = scale[:p] == 0
    total = float(np.sum((own / np.where(held, np.inf, scale[:p])) ** 2)) or 1.0
    scale[:p] = np.where(held, 0.0, own) * np.sqrt(min(p, objective.blocks.cuts.n_samples) / total)
    return scale, mean if objective.fit_intercept else np.sqrt(weight) * scale * mean


PRECONDITIONERS = {"diagonal": column_scaling, "row_space": row_space_scaling}


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
    scale = np.where(scale > 0, scale, np.inf)
    if scale.size == mean.size:
        return _stretched(point / scale[:, None], mean, 0.5).ravel()
    centred = point.copy()
    centred[mean.size :] += _weighted(mean, centred)
    return np.asarray(centred / scale[:, None]).ravel()


def to_scaled_gradient(gradient: Array, scale: Array, mean: Array) -> Array:
    """Return the gradient in the scaled point: the transpose of `to_parameters` applied to that in [W, b]."""
    point = gradient.reshape(scale.size, -1)
    with np.errstate(invalid="ignore", over="ignore"):  # where F is not finite, its gradient is not
        if scale.size == mean.size:
            return _stretched(scale[:, None] * point, mean, -0.5).ravel()
        centred = point.copy()
        centred[: mean.size] -= mean[:, None] * centred[-1]
        return np.asarray(scale[:, None] * centred).ravel()


def _stretched(point: Array, u: Array, power: float) -> Array:
    """Return (1 + u u.T)^power times the point (p, k): only its part along u changes.

    Columns far from 0 have a long u, and the rounding of the subtraction that takes that part apart would be more than
    what is left of it after a division by |u|. So numbers that may be that rounding alone are 0, and the part is taken
    apart twice.
    """
    size = float(np.linalg.norm(u))
    if not size:
        return point
    unit = u / size
    along = _weighted(unit, point)
    across = point - unit[:, None] * along
    across[np.abs(across) <= 4.0 * EPS * np.abs(point)] = 0.0
    left = _weighted(unit, across)
    across -= unit[:, None] * left
    stretched: Array = across + unit[:, None] * ((along + left) * np.hypot(1.0, size) ** (2.0 * power))
    return stretched


def _weighted(mean: Array, full: Array) -> Array:
    """Return mean @ W, output by output: a product with a matrix would have other bits for one output."""
    return np.array([mean @ column for column in np.ascontiguousarray(full[: mean.size].T)])
