"""X, y and weights in any accepted form -> row blocks that are checked, aligned, and where they will be used."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import numpy as np

from dist_dot.blocks.arrays import aligned, cast, dtype_name, is_other, namespace, no_rows, to_host
from dist_dot.blocks.block import BLOCK, Block, Blocks, Cuts, LocalBlocks, block_key, cut, stays_on_device
from dist_dot.blocks.device import places_outside, settle
from dist_dot.blocks.ready import ready_for
from dist_dot.errors import DataError
from dist_dot.typing import Array


def lay_out(
    X: Any, y: Any, sample_weight: Any = None, *, block_rows: int | str = "auto", device: str = settle.AUTO
) -> Blocks:
    """Cut rows into blocks and return where they are.

    X is (n, p), y is (n,), or (n, k) for k targets, sample_weight is (n,) or None: NumPy arrays, anything that NumPy
    makes an array of, Dask arrays, or arrays of a library that speaks the array API, such as CuPy. torch tensors are
    taken as the CuPy or NumPy arrays of the same memory. float32 stays float32, every other number becomes float64.
    NumPy and CuPy rows are used in place where they are C-contiguous and of the right dtype. A Dask collection with a
    `distributed.Client` in force is laid out on that cluster, one task per block, anything else in this process.
    block_rows is "auto", a function of n, p and dtype, or the number of rows.

    device "auto" leaves the rows where they lie, on the host or on a GPU. "cuda" brings rows of the host to the GPU of
    their worker, or of this process, once and block by block; "cpu" brings those of a GPU to the host.

    Cost: one pass over X. Raises DataError for shapes that do not match, for NaN, infinity, a negative weight, each
    with its row and column; DeviceError for "cuda" without a GPU that can be used, and for rows that do not fit in its
    memory, before they are read where that is the GPU of this process; what a Dask task raises, as it is.
    """
    settle.known(device)
    X, y, sample_weight = map(settle.taken, (X, y, sample_weight))
    if any(_is_dask(array) for array in (X, y, sample_weight)):
        return _lay_out_dask(X, y, sample_weight, block_rows, device)
    if hasattr(X, "toarray"):
        raise DataError(f"X is a sparse {type(X).__name__}: only dense X is supported so far; use X.toarray()")
    X, y, weight = (a if a is None or is_other(a) else np.asarray(a) for a in (X, y, sample_weight))
    check_shapes(X.shape, y.shape, None if weight is None else weight.shape)
    cuts = cut(X.shape[0], X.shape[1], float_dtype(X), block_rows, n_targets(y.shape))
    if device == settle.CUDA:
        settle.require(device)
        there = settle.on_device(X) and dtype_name(X) == cuts.dtype
        settle.check_room(0 if there else cuts.memory(weight is not None), str(cuts))
    if settle.on_device(X) and device != settle.CPU:
        X, y, weight = _settled(X, y, weight, cuts.dtype, device)
        settle.settled()  # what has made the rows may still be at work on them
        ready_for(X)
        check_rows(X, y, weight, 0)

        def rows(number: int) -> Block:
            part = slice(*cuts.bounds(number))
            return stays_on_device(Block(X[part], y[part], None if weight is None else weight[part], part.start))

        return LocalBlocks([rows(number) for number in range(cuts.n_blocks)], cuts)

    def make(number: int) -> Block:
        start, stop = cuts.bounds(number)
        weights = None if weight is None else weight[start:stop]
        return make_block(X[start:stop, :], y[start:stop, ...], weights, start, cuts.dtype, device)

    return lay_out_rows(make, cuts, None)


def lay_out_rows(make: Callable[[int], Block], cuts: Cuts, client: Any, source: str = "the rows") -> Blocks:
    """Make each block by its number: here, by as many threads as this process may use, or as tasks of the cluster.

    `make` must pickle, and give the same block each time: Dask calls it again for a block that was lost. A run on
    blocks that it made otherwise ends with a DataError, which names the source.
    """
    numbers = range(cuts.n_blocks)
    if client is None:
        with ThreadPoolExecutor(thread_name_prefix="dist-dot-layout") as pool:
            return LocalBlocks(list(pool.map(make, numbers)), cuts)
    from dask import delayed

    from dist_dot.blocks.cluster import place

    prefix = _new_prefix()
    task = delayed(make, pure=False)
    tasks = [task(number, dask_key_name=block_key(prefix, number)) for number in numbers]
    return place(client, tasks, cuts, prefix, source)


def make_block(X: Array, y: Array, weight: Array | None, start: int, dtype: str, device: str = settle.AUTO) -> Block:
    """Check rows and return them as a block; `start` is the number of the first row, for messages."""
    X, y, weight = _settled(X, y, weight, dtype, device)
    ready_for(X)  # here, so that no round has to wait for it
    if settle.on_device(X):
        settle.settled()
    check_rows(X, y, weight, start)
    return stays_on_device(Block(X, y, weight, start))


def _settled(X: Array, y: Array, weight: Array | None, dtype: str, device: str) -> tuple[Array, Array, Array | None]:
    """Return rows in this dtype, where the wish says: one target is (m,) for every kernel, however it came."""
    X = aligned(settle.settle(X, device, dtype))
    y = aligned(settle.settle(cast(y, dtype, X), settle.AUTO, dtype))
    if y.ndim == 2 and y.shape[1] == 1:
        y = namespace(y).reshape(y, (-1,))
    return X, y, None if weight is None else aligned(settle.settle(cast(weight, dtype, X), settle.AUTO, dtype))


def check_rows(X: Array, y: Array, weight: Array | None, start: int) -> None:
    """Raise DataError for NaN, infinity and a negative weight, with row and column; `start` is the first row."""
    if settle.on_device(X):  # all at once: the host waits for the card once
        arrays = [X, y] if weight is None else [X, y, weight]
        if not any(place >= 0 for place in places_outside(arrays, [-np.inf, -np.inf, 0.0])):
            return
    check_finite("X", X, start)
    check_finite("y", y, start)
    if weight is not None:
        check_finite("sample_weight", weight, start)
        xp = namespace(weight)
        if weight.shape[0] and float(xp.min(weight)) < 0:
            row = int(xp.argmin(weight))
            raise DataError(f"sample_weight is {float(weight[row])} in row {start + row}: weights are >= 0")


def check_shapes(X: tuple[int, ...], y: tuple[int, ...], weight: tuple[int, ...] | None) -> None:
    """Raise DataError unless the shapes are (n, p), (n,) or (n, k), and (n,) or None, with n, p and k at least 1."""
    if len(X) != 2:
        raise DataError(f"X has shape {X}: expected (n_samples, n_features); a single column is X.reshape(-1, 1)")
    if len(y) not in (1, 2) or y[1:] == (0,):
        raise DataError(f"y has shape {y}: expected (n_samples,), or (n_samples, n_targets)")
    if X[0] != y[0]:
        raise DataError(f"X has {X[0]} rows and y has {y[0]}")
    if weight is not None and weight != y[:1]:
        raise DataError(f"sample_weight has shape {weight}: expected {y[:1]}, one weight per row")
    if 0 in X:
        raise DataError(f"X has shape {X}: there is nothing to train on")


def n_targets(y: tuple[int, ...]) -> int:
    """Return the number of targets in a y of this shape."""
    return y[1] if len(y) == 2 else 1


def n_rows(X: Any) -> int:
    """Return the number of rows; of a Dask array that does not know it, by computing the sizes of its chunks."""
    if np.isnan(X.shape[0]):
        X.compute_chunk_sizes()
    return int(X.shape[0])


def beside(y: Any, column: Array) -> Any:
    """Return y (n,) or (n, k) with this column (n,) as its last, in y's own library; lazily for a Dask array."""
    if _is_dask(y):
        import dask.array as da

        n_rows(y)
        y = y[:, None] if y.ndim == 1 else y.rechunk({1: -1})
        last = da.from_array(column[:, None], chunks=(y.chunks[0], 1))
        chunks = (y.chunks[0], (y.shape[1] + 1,))
        meta = no_rows(y._meta, float_dtype(y), 2)
        return da.map_blocks(beside, y, last, dtype=meta.dtype, chunks=chunks, meta=meta)
    column = column.reshape(-1)
    xp, dtype = namespace(y), float_dtype(y)
    return xp.concat([xp.reshape(cast(y, dtype), (y.shape[0], -1)), cast(column[:, None], dtype, y)], axis=1)


def float_dtype(X: Any) -> str:
    """Return the dtype that blocks of X hold: float32 or float64. Raises DataError for what are no numbers."""
    xp = namespace(X)
    if not xp.isdtype(X.dtype, ("real floating", "integral", "bool")):
        raise DataError(f"X has dtype {X.dtype}: expected numbers")
    return "float32" if X.dtype == xp.float32 else "float64"


def check_finite(name: str, array: Array, start: int) -> None:
    """Raise DataError for NaN and infinity, with the column and the row, of which `start` is the first."""
    # A finite sum is proof enough, at the speed of memory and without a temporary; else look closer.
    xp = namespace(array)
    with np.errstate(over="ignore", invalid="ignore"):
        if bool(xp.isfinite(xp.sum(array))):
            return
    finite = to_host(xp.isfinite(array))
    if finite.all():
        return
    place = tuple(int(i) for i in np.argwhere(~finite)[0])
    column = f" in column {place[1]}" if array.ndim == 2 else ""
    raise DataError(
        f"{name} is {float(array[place])}{column}, row {start + place[0]}: fill or drop such rows before the fit"
    )


def _new_prefix() -> str:
    return f"{BLOCK}-{uuid4().hex[:12]}"


def _is_dask(array: Any) -> bool:
    return hasattr(array, "__dask_graph__")


def _lay_out_dask(X: Any, y: Any, weight: Any, block_rows: int | str, device: str) -> Blocks:
    """Rechunk to the cuts, and make one block per chunk of rows."""
    import dask.array as da
    from dask import compute, delayed

    arrays = [X, y] if weight is None else [X, y, weight]
    for name, array in zip(("X", "y", "sample_weight"), arrays, strict=False):
        if not hasattr(array, "ndim") or hasattr(array, "columns"):
            raise DataError(f"{name} is a {type(array).__name__}: use dask arrays; of a data frame, .to_dask_array()")
    arrays = [array if _is_dask(array) else da.from_array(array, asarray=not is_other(array)) for array in arrays]
    for array in arrays:
        if np.isnan(array.shape[0]):
            array.compute_chunk_sizes()
    X, y, *rest = arrays
    check_shapes(X.shape, y.shape, rest[0].shape if rest else None)
    cuts = cut(X.shape[0], X.shape[1], float_dtype(X), block_rows, n_targets(y.shape))
    rows = tuple(stop - start for start, stop in map(cuts.bounds, range(cuts.n_blocks)))
    X_parts = X.rechunk((rows, X.shape[1])).to_delayed().ravel()
    y_parts = y.rechunk((rows, *y.shape[1:])).to_delayed().ravel()
    weight_parts = rest[0].rechunk((rows,)).to_delayed().ravel() if rest else [None] * cuts.n_blocks
    make, prefix = delayed(make_block, pure=False), _new_prefix()
    tasks = [
        make(
            X_part,
            y_part,
            weight_part,
            cuts.bounds(number)[0],
            cuts.dtype,
            device,
            dask_key_name=block_key(prefix, number),
        )
        for number, (X_part, y_part, weight_part) in enumerate(zip(X_parts, y_parts, weight_parts, strict=True))
    ]
    client = _client_in_force()
    if client is None:
        settle.require(device)
        return LocalBlocks(compute(*tasks, scheduler="threads"), cuts)
    from dist_dot.blocks.cluster import place

    return place(client, tasks, cuts, prefix, f"the Dask array {X.name}")


def _client_in_force() -> Any:
    """Return the client that `dask.compute` would use, None where there is none."""
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None
