"""The losses of the rows of a tile: from z to residuals and curvatures, with the weights of the rows."""

from typing import Any

import numpy as np

from dist_dot.kernels.elementwise import (
    GAMMA,
    LOGISTIC,
    LOWEST,
    OWN,
    POISSON,
    SQUARED,
    LossCode,
    curvature_of_gamma,
    curvature_of_huber,
    curvature_of_logistic,
    curvature_of_poisson,
    exp,
    gamma,
    huber,
    in_place,
    log,
    logistic,
    poisson,
    squared,
)
from dist_dot.kernels.unlocked import call_tile
from dist_dot.kernels.vectors import ROWS, absolute, load_rows, store_rows, total, where_greater, zero_rows
from dist_dot.typing import Array


@in_place
def room(rows: int, dtype: Any) -> Array:
    """Return zeros for so many rows, and for what a vector of eight reaches beyond them."""
    return np.zeros(-(-rows // ROWS) * ROWS, dtype)


@in_place
def own_room(loss: LossCode, rows: int) -> Array:
    """Return room for y, z, loss, slope and bend of so many rows, for a loss of the user's own."""
    return np.zeros(5 * (-(-rows // ROWS) * ROWS) if loss.kind == OWN else 0)


@in_place
def call_own(loss: LossCode, m: int, y: Array, start: int, z: Array, at: int, own: Array, order: int) -> None:
    """Set the loss and the slope (order 0) or the bend (order 1) of m rows in `own`."""
    apart = own.size // 5
    for i in range(m):
        own[i] = y[start + i]
        own[apart + i] = z[at + i]
    call_tile(loss.address, m, own, apart, order)


@in_place
def add_losses(
    loss: LossCode,
    m: int,
    y: Array,
    s: Array,
    start: int,
    mask: Array,
    z: Array,
    residual: Array,
    at: int,
    own: Array,
) -> Any:
    """Set the residuals s d loss / dz of m rows at their z, and return the sums of s loss and of the residuals.

    y and s, if there is an s, are read from `start`, z and the residuals lie from `at`; mask (m,) is 0 for what is no
    row. After each there is room for eight. `own` is `own_room` of the loss and as many rows.
    """
    values = zero_rows()
    slopes = zero_rows()
    if loss.kind == OWN:
        call_own(loss, m, y, start, z, at, own, 0)
    for i in range(0, m, ROWS):
        t, target, weight = load_rows(z, at + i), load_rows(y, start + i), load_rows(mask, i)
        if s.size:
            weight = weight * load_rows(s, start + i)
        if loss.kind == SQUARED:
            value, slope = squared(t, target)
        elif loss.kind == LOGISTIC:
            value, slope = logistic(t, target)
        elif loss.kind == POISSON:
            value, slope = poisson(t, target, 80.0 if z.itemsize == 4 else 300.0)
        elif loss.kind == GAMMA:
            value, slope = gamma(t, target, 80.0 if z.itemsize == 4 else 300.0)
        elif loss.kind == OWN:  # what it makes of a row that does not count may not be a number
            value = where_greater(weight, 0.0, load_rows(own, 2 * own.size // 5 + i), 0.0)
            slope = where_greater(weight, 0.0, load_rows(own, 3 * own.size // 5 + i), 0.0)
        else:
            value, slope = huber(t, target, loss.number)
        slope = slope * weight
        store_rows(residual, at + i, slope)
        values = values + value * weight
        slopes = slopes + slope
    return total(values), total(slopes)


@in_place
def set_curvatures(
    loss: LossCode, m: int, y: Array, mask: Array, z: Array, at: int, curvature: Array, to: int, own: Array
) -> None:
    """Set the curvatures s d2 loss / dz2 of m rows, from `to`, at their z, from `at`; s is in the mask (m,)."""
    if loss.kind == OWN:
        call_own(loss, m, y, 0, z, at, own, 1)
    for i in range(0, m, ROWS):
        t, target = load_rows(z, at + i), load_rows(y, i)
        if loss.kind == SQUARED:
            second = t * 0.0 + 1.0
        elif loss.kind == LOGISTIC:
            second = curvature_of_logistic(t)
        elif loss.kind == POISSON:
            second = curvature_of_poisson(t, 80.0 if z.itemsize == 4 else 300.0)
        elif loss.kind == GAMMA:
            second = curvature_of_gamma(t, target, 80.0 if z.itemsize == 4 else 300.0)
        elif loss.kind == OWN:
            second = where_greater(load_rows(mask, i), 0.0, load_rows(own, 4 * own.size // 5 + i), 0.0)
        else:
            second = curvature_of_huber(t, target, loss.number)
        store_rows(curvature, to + i, second * load_rows(mask, i))


@in_place
def set_probabilities(classes: int, i: int, z: Array, at: int, rows: int, q: Array, to: int, apart: int) -> Any:
    """Set the probabilities of the classes of eight rows, from q[to], `apart` numbers from class to class.

    z of a class lies `rows` numbers behind that of the class before, from z[at + i]. Return the largest z of each row,
    and the logarithm of sum_c exp(z_c - largest).
    """
    top = load_rows(z, at + i)
    for c in range(1, classes):
        other = load_rows(z, at + c * rows + i)
        top = where_greater(other - top, 0.0, other, top)
    norm = zero_rows()
    for c in range(classes):
        below = load_rows(z, at + c * rows + i) - top
        e = exp(where_greater(0.0 - below, -LOWEST, LOWEST, below))
        store_rows(q, to + c * apart, e)
        norm = norm + e
    for c in range(classes):
        store_rows(q, to + c * apart, load_rows(q, to + c * apart) / norm)
    return top, log(norm)


@in_place
def set_products(
    loss: LossCode, rows: int, y: Array, mask: Array, z: Array, at: int, along: int, residual: Array, own: Array
) -> Any:
    """Set the residuals s d2 loss / dz2 u of the rows of a tile, and return their sum.

    z and the residuals lie from `at`, u from `along`; s is in the mask (rows,).
    """
    set_curvatures(loss, rows, y, mask, z, at, residual, at, own)
    sums = zero_rows()
    for i in range(0, rows, ROWS):
        product = load_rows(residual, at + i) * load_rows(z, along + i)
        store_rows(residual, at + i, product)
        sums = sums + product
    return total(sums)


@in_place
def add_softmax(
    classes: int,
    rows: int,
    y: Array,
    mask: Array,
    z: Array,
    residual: Array,
    at: int,
    q: Array,
    slopes: Array,
    first: int,
) -> Any:
    """Set the residuals s (q_c - [y = c]) of the rows of a tile and all classes, and return the sum of s loss.

    z and the residuals lie from `at`, `rows` numbers from class to class; s is in the mask (rows,); q has room for
    eight rows of all classes. The sums of the residuals are added to slopes[first : first + classes].
    """
    values = zero_rows()
    for i in range(0, rows, ROWS):
        top, log_norm = set_probabilities(classes, i, z, at, rows, q, 0, ROWS)
        target, weight = load_rows(y, i), load_rows(mask, i)
        chosen = zero_rows()
        for c in range(classes):
            is_c = where_greater(0.5 - absolute(target - float(c)), 0.0, 1.0, 0.0)
            chosen = chosen + is_c * load_rows(z, at + c * rows + i)
            store_rows(residual, at + c * rows + i, (load_rows(q, c * ROWS) - is_c) * weight)
        values = values + (log_norm + (top - chosen)) * weight
    add_totals(classes, rows, residual, at, slopes, first)
    return total(values)


@in_place
def set_softmax_products(
    classes: int, rows: int, mask: Array, z: Array, along: int, residual: Array, q: Array, slopes: Array
) -> None:
    """Set the residuals s q_c (u_c - sum_d q_d u_d) of the rows of a tile, and add their sums to slopes (classes,).

    z and the residuals lie from 0, u from `along`, `rows` numbers from class to class; otherwise as above.
    """
    for i in range(0, rows, ROWS):
        set_probabilities(classes, i, z, 0, rows, q, 0, ROWS)
        mean, weight = zero_rows(), load_rows(mask, i)
        for c in range(classes):
            mean = mean + load_rows(q, c * ROWS) * load_rows(z, along + c * rows + i)
        for c in range(classes):
            apart = load_rows(z, along + c * rows + i) - mean
            store_rows(residual, c * rows + i, load_rows(q, c * ROWS) * apart * weight)
    add_totals(classes, rows, residual, 0, slopes, 0)


@in_place
def add_totals(classes: int, rows: int, residual: Array, at: int, slopes: Array, first: int) -> None:
    """Add the sum of the rows of a tile, class by class, to slopes[first : first + classes]."""
    for c in range(classes):
        sums = zero_rows()
        for i in range(0, rows, ROWS):
            sums = sums + load_rows(residual, at + c * rows + i)
        slopes[first + c] += total(sums)
