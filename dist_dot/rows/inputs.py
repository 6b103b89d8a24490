"""What callers hand in, as arrays that are what they say: nothing is computed with others."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np

from dist_dot.errors import DataError
from dist_dot.rows.arrays import is_lazy, is_other, namespace, to_host
from dist_dot.typing import AnyArray

# What to do about dtypes that are none of numbers, by the kinds of NumPy's dtypes.
ADVICE = dict.fromkeys("mM", "turn dates and durations into numbers, such as days")
ADVICE |= dict.fromkeys("SUT", "where words are numbers use {}.astype(float), else encode them, as by OneHotEncoder")
ADVICE |= {
    "O": "if all of them are, use {}.astype(float)",
    "V": "take its fields, and stack them as columns",
    "c": "take {0}.real, or the columns {0}.real and {0}.imag",
}
ONE = "sample_weight"  # the column that may be one number for all rows
FAN_IN = 16  # results that are merged at a time
T = TypeVar("T")
Then = Callable[[AnyArray, int], AnyArray]
"""(rows, the number of the first of them) -> an array of as many rows."""


def rows_of(named: Mapping[str, AnyArray], labels: Collection[str] = ()) -> dict[str, AnyArray]:
    """Return X, y and the columns of rows, by their names, as arrays that belong together.

    Dask arrays are given back as they are, with the sizes of their chunks: these are computed where they are not known,
    after all that can be looked at without them. A single number as sample_weight becomes the weight of each row.
    `labels` names what may be of another dtype than numbers.

    Raises DataError for what is None or no array, for what are no numbers, and for shapes that do not match.
    """
    for name, values in named.items():
        if values is None:
            raise DataError(f"{name} is None: give an array of it")
        if is_lazy(values):
            check_collection(name, values)
    rows = {name: values if is_lazy(values) else as_array(name, values) for name, values in named.items()}
    for name, array in rows.items():
        if name not in labels:
            float_dtype(array, name)
    _check_shapes(rows)
    for array in rows.values():
        n_rows(array)
    _check_shapes(rows)
    if ONE in rows and rows[ONE].ndim == 0:
        rows[ONE] = np.full(rows["X"].shape[:1], float(rows[ONE]))
    return rows


def _check_shapes(rows: Mapping[str, AnyArray]) -> None:
    """Raise DataError unless the shapes are (n, p), (n,) or (n, k), and (n,), with n, p and k at least 1.

    Sizes that a Dask array does not know are taken for the right ones.
    """
    X, y = rows["X"].shape, rows["y"].shape
    if len(X) != 2:
        raise DataError(f"X has shape {X}: expected (n_samples, n_features); a single column is X.reshape(-1, 1)")
    if len(y) not in (1, 2) or y[1:] == (0,):
        raise DataError(f"y has shape {y}: expected (n_samples,), or (n_samples, n_targets)")
    if differ(X[0], y[0]):
        raise DataError(f"X has {X[0]} rows and y has {y[0]}: give a y for each row of X")
    for name, array in rows.items():
        if name == ONE and array.shape == ():
            continue
        if name not in ("X", "y") and (len(array.shape) != 1 or differ(array.shape[0], y[0])):
            raise DataError(f"{name} has shape {array.shape}: expected {y[:1]}, one number for each row")
    if 0 in X:
        raise DataError(f"X has shape {X}: there is nothing to train on")


def differ(size: float, other: float) -> bool:
    """Whether two sizes are known, and not the same."""
    return size == size and other == other and size != other


def n_targets(y: tuple[int, ...]) -> int:
    """Return the number of targets in a y of this shape."""
    return y[1] if len(y) == 2 else 1


def n_rows(X: AnyArray) -> int:
    """Return the number of rows; of a Dask array that does not know it, by computing the sizes of its chunks."""
    if np.isnan(X.shape).any():
        X.compute_chunk_sizes()
    return int(X.shape[0]) if X.shape else 0


def float_dtype(X: AnyArray, name: str = "X") -> str:
    """Return the dtype that blocks of X hold: float32 or float64. Raises DataError for what are no numbers."""
    xp = namespace(X)
    if not xp.isdtype(X.dtype, ("real floating", "integral", "bool")):
        raise DataError(no_numbers(name, X.dtype))
    return "float32" if X.dtype == xp.float32 else "float64"


def no_numbers(name: str, dtype: Any) -> str:
    """Return the words for what is of a dtype that is none of numbers, with what to do about it."""
    kind = getattr(dtype, "kind", "c")  # the dtypes of other libraries are of numbers, and some of these are complex
    return f"{name} has dtype {dtype}: expected numbers; {ADVICE[kind].format(name)}"


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
    from dask.delayed import Delayed

    if isinstance(values, da.Array):
        return
    advice = "such as those of dask.array.from_delayed"
    if not isinstance(values, Delayed):
        if hasattr(values, "to_dask_array"):
            advice = f"of a data frame, {name}.to_dask_array(lengths=True)"
        elif hasattr(values, "data"):
            advice = f"here {name}.data"
    raise DataError(f"{name} is a {type(values).__name__}: use dask arrays; {advice}")


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
