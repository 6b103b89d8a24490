"""What callers hand in, as arrays that are what they say: nothing is computed with others."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np

from dist_dot.errors import DataError
from dist_dot.rows.arrays import is_lazy, is_other, to_host
from dist_dot.typing import AnyArray

FAN_IN = 16  # results that are merged at a time
T = TypeVar("T")
Then = Callable[[AnyArray, int], AnyArray]
"""(rows, the number of the first of them) -> an array of as many rows."""


def as_array(name: str, values: AnyArray, then: Then | None = None, meta: AnyArray = None) -> AnyArray:
    """Return an array of what was given: NumPy's, that of another library as it is, or a Dask array.

    The chunks of a Dask array are looked at when they are computed, each in its own task. `then` is applied to the
    rows, of a Dask array chunk by chunk, and gives arrays of the same shape that are like `meta`.

    Raises DataError for a sparse matrix, for a value that is masked, with its row and column, for a Dask collection
    that is no array, and for a chunk of another shape than the chunks of its array say.
    """
    if not is_lazy(values):
        plain = _plain(name, values, (0, 0))
        return plain if then is None else then(plain, 0)
    check_collection(name, values)
    look = partial(_chunk, name=name, then=then)
    like = values._meta if meta is None else meta
    return values.map_blocks(look, dtype=like.dtype, meta=like)


def on_host(name: str, values: AnyArray) -> AnyArray:
    """Return an array of NumPy's with the numbers of one of any library; lazily, chunk by chunk, of a Dask array."""
    return as_array(name, values, _to_host, np.empty((0,) * values.ndim, values.dtype) if is_lazy(values) else None)


def computed(name: str, values: AnyArray) -> AnyArray:
    """Return an array of any library on the host, computed where it is lazy; what is of no library, as it is."""
    return on_host(name, values).compute() if is_lazy(values) else to_host(values)


def _to_host(rows: AnyArray, start: int) -> AnyArray:
    return to_host(rows)


def merged(name: str, values: AnyArray, find: Callable[[AnyArray, int], T], merge: Callable[[list[T]], T]) -> T:
    """Return what is found in the rows: of a Dask array in each chunk, in its own task, and merged in a tree."""
    if not is_lazy(values):
        return find(as_array(name, values), 0)
    from dask import compute, delayed

    values = as_array(name, values)
    starts = np.cumsum([0, *values.chunks[0][:-1]]).tolist()
    chunks = values.to_delayed().ravel()
    parts = [delayed(find)(chunk, start) for chunk, start in zip(chunks, starts, strict=True)]
    while len(parts) > 1:
        parts = [delayed(merge)(parts[at : at + FAN_IN]) for at in range(0, len(parts), FAN_IN)]
    found: T = compute(parts[0])[0]
    return found


def check_collection(name: str, values: AnyArray) -> None:
    """Raise DataError for a Dask collection that is no array."""
    import dask.array as da

    if not isinstance(values, da.Array):
        raise DataError(f"{name} is a {type(values).__name__}: use dask arrays; of a data frame, .to_dask_array()")


def _chunk(chunk: AnyArray, block_info: Any = None, *, name: str, then: Then | None) -> AnyArray:
    """Return a chunk if it has the shape that its array says; sizes that an array does not know are NaN."""
    place = block_info[0]["array-location"]
    chunk = _plain(name, chunk, tuple(start for start, _ in place))
    said = tuple(stop - start for start, stop in place)
    known = [(there, size) for there, size in zip(chunk.shape, said, strict=False) if size == size]
    if len(chunk.shape) != len(said) or any(there != size for there, size in known):
        number = block_info[0]["chunk-location"]
        raise DataError(
            f"chunk {number} of the Dask array {name} has shape {tuple(chunk.shape)}, and its chunks say {said}: where "
            "map_blocks changes the shape, tell it the new one by chunks=..."
        )
    return chunk if then is None else then(chunk, place[0][0])


def _plain(name: str, values: AnyArray, origin: tuple[int, ...]) -> AnyArray:
    """Return an array of values; origin is the place of the first one in the whole."""
    if hasattr(values, "toarray"):
        kind = type(values).__name__
        raise DataError(f"{name} is a sparse {kind}: only dense {name} is supported so far; use {name}.toarray()")
    check_unmasked(name, values, origin)
    return values if is_other(values) else np.asarray(values)


def check_unmasked(name: str, values: AnyArray, origin: tuple[int, ...] = (0, 0)) -> None:
    """Raise DataError for a value that is masked; origin is the place of the first value in the whole."""
    if np.ma.is_masked(values):
        mask = np.atleast_1d(np.ma.getmaskarray(values))
        at = [start + int(i) for start, i in zip(origin, np.unravel_index(np.argmax(mask), mask.shape), strict=False)]
        place = f"in column {at[1]}, row {at[0]}" if len(at) == 2 else f"in row {at[0]}"
        raise DataError(f"{name} is masked {place}: fill or drop such rows first")
