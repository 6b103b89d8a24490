"""Inner products of rows, of columns and of whole arrays.

Of Dask arrays each is a Dask array, not computed yet: block by block, so that a result larger than memory can be
written as it is made. Arrays of a library that speaks the array API, such as CuPy, stay on their device; anything else
becomes a NumPy array. float32 stays float32, every other number becomes float64 before it is multiplied.

Each raises InputError for a result that this process has no memory for, DataError for what are no numbers, for sparse
matrices and masked values, and for chunks of a Dask array that have another shape than it says.
"""

from functools import partial
from typing import Any

import array_api_compat

from dist_dot.errors import DataError
from dist_dot.rounds.layout import check_memory
from dist_dot.rows.arrays import cast, is_lazy, is_other, namespace
from dist_dot.rows.inputs import as_array, check_collection, differ, float_dtype


def dot(X: Any, Y: Any) -> Any:
    """Return X Y.T (n, m), the inner products of the rows of X (n, p) with the rows of Y (m, p).

    Linear in both, and dot(Y, X) is its transpose. Raises DataError for shapes that do not match.
    """
    X, Y = _rows("X", X), _rows("Y", Y)
    _check_kinds(X, Y)
    if differ(X.shape[1], Y.shape[1]):
        raise DataError(f"X has {X.shape[1]} columns and Y has {Y.shape[1]}: their rows have no inner product")
    if not (is_lazy(X) or is_lazy(Y)):
        check_memory((X.shape[0], Y.shape[0]), "the products", "give Dask arrays, fewer rows, or ask top_k")
    return X @ Y.T


def inner(X: Any, Y: Any) -> Any:
    """Return the sum of the elementwise product of X and Y, of one shape: Frobenius' inner product, in float64.

    Symmetric, linear in both, and inner(X, Y)^2 <= inner(X, X) inner(Y, Y). Raises DataError for shapes that differ.
    """
    X, Y = as_numbers("X", X, "float64"), as_numbers("Y", Y, "float64")
    _check_kinds(X, Y)
    if len(X.shape) != len(Y.shape) or any(map(differ, X.shape, Y.shape)):
        raise DataError(f"X has shape {X.shape} and Y has shape {Y.shape}: they have no inner product")
    product = X * Y
    return product.sum() if is_lazy(product) else namespace(product).sum(product)


def gram(X: Any) -> Any:
    """Return X.T X (p, p), the inner products of the columns of X (n, p): symmetric, positive semi-definite."""
    X = _rows("X", X)
    if not is_lazy(X):
        check_memory((X.shape[1],) * 2, "the products", "give fewer columns")
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


def as_numbers(name: str, values: Any, dtype: str | None = None) -> Any:
    """Return an array of this floating dtype, float32 or float64 by default: products of integers would overflow."""
    if values is None:
        raise DataError(f"{name} is None: give an array of it")
    if is_lazy(values):
        check_collection(name, values)
    else:
        values = as_array(name, values)
    own = float_dtype(values, name)
    floats = partial(_floats, name=name, dtype=dtype or own)
    return as_array(name, values, floats, floats(values._meta, 0) if is_lazy(values) else None)


def _floats(rows: Any, start: int, *, name: str, dtype: str) -> Any:
    float_dtype(rows, name)
    return cast(rows, dtype)


def _check_kinds(X: Any, Y: Any) -> None:
    """Raise DataError for arrays of two libraries or devices: nothing is converted unasked."""
    kinds = [_kind(array._meta if is_lazy(array) else array) for array in (X, Y)]
    if kinds[0] != kinds[1]:
        raise DataError(f"X is an array of {kinds[0]}, and Y of {kinds[1]}: convert one of them to the other")


def _kind(array: Any) -> str:
    """Return the library of an array, and its device where that is not NumPy."""
    if not is_other(array):
        return "NumPy"
    return f"{namespace(array).__name__.rpartition('.')[2]} on {array_api_compat.device(array)}"


def _directions(X: Any) -> Any:
    return X.map_blocks(directions, dtype=X.dtype) if is_lazy(X) else directions(X)


def _rows(name: str, array: Any) -> Any:
    """Return rows of floating numbers, each in one piece where they are lazy."""
    array = as_numbers(name, array)
    if array.ndim != 2:
        raise DataError(f"{name} has shape {array.shape}: expected rows, (n, p); a single row is {name}.reshape(1, -1)")
    return array.rechunk({1: -1}) if is_lazy(array) else array
