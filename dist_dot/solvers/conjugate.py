"""Conjugate gradients: a linear system by products with its matrix."""

from collections.abc import Callable

import numpy as np

from dist_dot.typing import Array

LIMIT = 250
EPS = float(np.finfo(np.float64).eps)


@np.errstate(over="ignore", invalid="ignore")  # a curvature that is not finite ends it
def conjugate_gradients(product: Callable[[Array], Array], target: Array, tolerance: float) -> Array:
    """Return d with |H d - target| <= tolerance * |target| for a symmetric positive semi-definite H.

    Nocedal and Wright, Numerical optimization (2006), algorithm 5.2 from d = 0, at most 250 products (rounds). A
    direction whose curvature is rounding beside 1, which it is about in scaled coordinates, ends it early, with what it
    has: for an F that is bounded below, that is rounding.
    """
    d = np.zeros_like(target)
    residual, direction = target, target
    size = float(residual @ residual)
    enough = tolerance**2 * size
    for _ in range(LIMIT):
        image = product(direction)
        curvature = float(direction @ image)
        if not curvature > EPS * np.linalg.norm(direction) * max(np.linalg.norm(image), np.linalg.norm(direction)):
            return d if d.any() else target
        step = size / curvature
        d = d + step * direction
        residual = residual - step * image
        before, size = size, float(residual @ residual)
        if size <= enough:
            break
        direction = residual + size / before * direction
    return d
