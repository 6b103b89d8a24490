"""Inner products of rows, of columns and of whole arrays.

Of Dask arrays each is a Dask array, not computed yet: block by block, so that a result larger than memory can be
written as it is made. Arrays of a library that speaks the array API, such as CuPy, stay on their device; anything else
becomes a NumPy array.
"""

from typing import Any

import numpy as np

from dist_dot.blocks.arrays import cast, is_other, namespace
from dist_dot.errors import DataError


def dot(X: Any, Y: Any) -> Any:
    """Return X Y.T (n, m), the inner products of the rows of X (n, p) with the rows of Y (m, p).

    Linear in both, and dot(Y, X) is its transpose. Raises DataError for shapes that do not match.
    """
    X, Y = _rows("X", X), _rows("Y", Y)
    if X.shape[1] != Y.shape[1]:
        raise DataError(f"X has {X.shape[1]} columns and Y has {Y.shape[1]}: their rows have no inner product")
    return X @ Y.T


def inner(X: Any, Y: Any) -> Any:
    """Return the sum of the elementwise product of X and Y, of one shape: Frobenius' inner product, in float64.

    Symmetric, linear in both, and inner(X, Y)^2 <= inner(X, X) inner(Y, Y). Raises DataError for shapes that differ.
    """
    X, Y = _array(X), _array(Y)
    if X.shape != Y.shape:
        raise DataError(f"X has shape {X.shape} and Y has shape {Y.shape}: they have no inner product")
    if is_lazy(X) or is_lazy(Y):
        return (X.astype("float64") * Y).sum()
    return namespace(X).sum(cast(X, "float64") * cast(Y, "float64"))


def gram(X: Any) -> Any:
    """Return X.T X (p, p), the inner products of the columns of X (n, p): symmetric, positive semi-definite."""
    X = _rows("X", X)
    return X.T @ X


def cosine_similarity(X: Any, Y: Any) -> Any:
    """Return the cosines (n, m) of the angles between the rows of X (n, p) and of Y (m, p).

    A row of zeros has the cosine 0 with every other. Raises DataError for shapes that do not match.
    """
    return dot(*(_directions(_rows(name, array)) for name, array in (("X", X), ("Y", Y))))


def directions(X: Any) -> Any:
    """Return the rows of X scaled to length 1; a row of zeros as it is. Neither overflows nor underflows."""
    xp = namespace(X)
    largest = xp.max(xp.abs(X), axis=1)[:, None]
    X = X / xp.where(largest > 0, largest, xp.ones_like(largest))
    length = xp.sqrt(xp.sum(X * X, axis=1))[:, None]
    return X / xp.where(length > 0, length, xp.ones_like(length))


def is_lazy(array: Any) -> bool:
    """Whether this is a Dask collection."""
    return hasattr(array, "__dask_graph__")


def _directions(X: Any) -> Any:
    return X.map_blocks(directions, dtype=np.result_type(X.dtype, np.float32)) if is_lazy(X) else directions(X)


def _array(array: Any) -> Any:
    return array if is_lazy(array) or is_other(array) else np.asarray(array)


def _rows(name: str, array: Any) -> Any:
    """Return rows of floating numbers, each in one piece where they are lazy."""
    array = _array(array)
    if array.ndim != 2:
        raise DataError(f"{name} has shape {array.shape}: expected rows, (n, p); a single row is {name}.reshape(1, -1)")
    if is_lazy(array):
        return array.rechunk({1: -1})
    return array
