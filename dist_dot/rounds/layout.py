"""X, y and weights in any accepted form -> row blocks that are checked, aligned, and where they will be used."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

from dist_dot.errors import ClusterError, DataError, InputError, suggestion
from dist_dot.kernels.device import places_outside
from dist_dot.kernels.ready import ready_for
from dist_dot.rounds.blocks import Host
from dist_dot.rounds.local import LocalBlocks
from dist_dot.rows import settle
from dist_dot.rows.arrays import aligned, cast, cores, dtype_name, is_lazy, is_other, namespace, to_host
from dist_dot.rows.block import BLOCK, Block, Cuts, block_key, cut, stays_on_device
from dist_dot.rows.design import Dense
from dist_dot.rows.inputs import as_array, float_dtype, n_targets, rows_of
from dist_dot.typing import AnyArray, Array

if TYPE_CHECKING:
    from distributed import Client

COLUMNS = ("sample_weight", "offset", "fold")
LARGE = 1 << 30  # bytes that any process has, so that nobody asks
MOST_FOLDS = 1 << 24  # numbers of folds that float32 tells apart


def lay_out(
    X: AnyArray,
    y: AnyArray,
    sample_weight: AnyArray = None,
    *,
    offset: AnyArray = None,
    fold: AnyArray = None,
    block_rows: int | str = "auto",
    device: str = settle.AUTO,
) -> Host:
    """Cut rows into blocks and return where they are.

    X is (n, p), y is (n,), or (n, k) for k targets: NumPy arrays, anything that NumPy makes an array of, Dask arrays,
    or arrays of a library that speaks the array API, such as CuPy. torch tensors are taken as the CuPy or NumPy arrays
    of the same memory. The others are (n,) or None: sample_weight, >= 0, or one number for all rows; offset, which is
    added to z, the prediction of a linear model before its link; fold, the number of each row's fold in a
    cross-validation, from 0. float32 stays float32, every other number becomes float64, and all get the dtype of X.
    NumPy and CuPy rows are used in place where they are C-contiguous and of the right dtype. A Dask collection with a
    `distributed.Client` in force is laid out on that cluster, one task per block, anything else in this process.
    block_rows is "auto", a function of n, p and dtype, or the number of rows.

    device "auto" leaves the rows where they lie, on the host or on a GPU. "cuda" brings rows of the host to the GPU of
    their worker, or of this process, once and block by block; "cpu" brings those of a GPU to the host.

    Cost: one pass over X. Raises DataError for shapes that do not match, of a Dask array also those of its chunks, for
    what are no numbers, and for NaN, infinity, masked values and a negative weight, each with its row and column, those
    in an X on the GPU of this process in the first round that reads X;
    DeviceError for "cuda" without a GPU that can be used, and for rows that do not fit in its memory, before they are
    read where that is the GPU of this process; what a Dask task raises, as it is.
    """
    settle.known(device)
    if any(map(is_lazy, (X, y, sample_weight, offset, fold))):
        client_in_force()
    given = {"sample_weight": sample_weight, "offset": offset, "fold": fold}
    columns = {name: settle.taken(values) for name, values in given.items() if values is not None}
    rows = rows_of({"X": settle.taken(X), "y": settle.taken(y), **columns})
    X, y = rows["X"], rows["y"]
    columns = {name: rows[name] for name in columns}
    cuts = cut(
        X.shape[0], X.shape[1], float_dtype(X), block_rows, n_targets(y.shape), "offset" in columns, "fold" in columns
    )
    if any(map(is_lazy, rows.values())):
        return _lay_out_dask(rows, cuts, device)
    if device == settle.CUDA:
        settle.require(device)
        there = settle.on_device(X) and dtype_name(X) == cuts.dtype
        settle.check_room(0 if there else cuts.memory(len(columns)), str(cuts))
    if settle.on_device(X) and device != settle.CPU:
        X, y, columns = _settled(X, y, columns, cuts.dtype, device)
        settle.settled(X)  # what has made the rows may still be at work on them
        ready_for(X)
        check_rows({"y": y, **columns}, 0)
        whole = _block(X, y, columns, 0)
        blocks = [stays_on_device(whole.rows(slice(*cuts.bounds(number)))) for number in range(cuts.n_blocks)]
        # All of X is looked at in the round that reads it first: a pass for that alone would be a tenth of a fit.
        return LocalBlocks(blocks, cuts, lambda: check_rows({"X": X}, 0))

    def make(number: int) -> Block:
        part = slice(*cuts.bounds(number))
        here = {name: values[part] for name, values in columns.items()}
        return make_block(X[part, :], y[part, ...], cuts, number, here, device)

    return lay_out_rows(make, cuts, None)


def lay_out_rows(make: Callable[[int], Block], cuts: Cuts, client: "Client | None", source: str = "the rows") -> Host:
    """Make each block by its number: here, by as many threads as this process may use, or as tasks of the cluster.

    `make` must pickle, and give the same block each time: Dask calls it again for a block that was lost. A run on
    blocks that it made otherwise ends with a DataError, which names the source.
    """
    numbers = range(cuts.n_blocks)
    if client is None:
        with ThreadPoolExecutor(thread_name_prefix="dist-dot-layout") as pool:
            return LocalBlocks(list(pool.map(make, numbers)), cuts)
    from dask import delayed

    from dist_dot.rounds.cluster import place

    prefix = _new_prefix()
    task = delayed(make, pure=False)
    tasks = [task(number, dask_key_name=block_key(prefix, number)) for number in numbers]
    return place(client, tasks, cuts, prefix, source)


def make_block(
    X: Array,
    y: Array,
    cuts: Cuts,
    number: int,
    columns: Mapping[str, Array] | None = None,
    device: str = settle.AUTO,
) -> Block:
    """Check rows, and return them as block `number` of these cuts.

    columns are those of `lay_out` by their names, sample_weight, offset and fold, which are (m,); the cuts say whether
    there are the last two.

    Raises InputError for another name, DataError where X is not (m, p) of as many rows and columns as the cuts say, or
    y and the columns do not have a row each: kernels read as many rows as X has.
    """
    columns = columns or {}
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise InputError(f"a block has no column {unknown[0]!r}: {suggestion(unknown[0], COLUMNS)}")
    for name, said in (("offset", cuts.offset), ("fold", cuts.fold)):
        if said != (name in columns):
            has, says = ("has no", "say that it has one") if said else ("has an", "do not say so")
            raise DataError(f"block {number} {has} {name}, and its cuts {says}: tell `cut` of it")
    start, stop = cuts.bounds(number)
    rows, k = (stop - start,), cuts.n_targets
    _check_shape("X", X, ((*rows, cuts.n_features),), number)
    _check_shape("y", y, (rows, (*rows, 1)) if k == 1 else ((*rows, k),), number)
    for name, values in columns.items():
        _check_shape(name, values, (rows,), number)
    X, y, columns = _settled(X, y, columns, cuts.dtype, device)
    ready_for(X)  # here, so that no round has to wait for it
    if settle.on_device(X):
        settle.settled(X)
    check_rows({"X": X, "y": y, **columns}, start)
    return stays_on_device(_block(X, y, columns, start))


def _block(X: Array, y: Array, columns: Mapping[str, Array], start: int) -> Block:
    weight, offset, fold = (columns.get(name) for name in ("sample_weight", "offset", "fold"))
    return Block(Dense(X), y, weight, start, offset, fold)


def _settled(
    X: Array, y: Array, columns: Mapping[str, Array], dtype: str, device: str
) -> tuple[Array, Array, dict[str, Array]]:
    """Return rows in this dtype, where the wish says: one target is (m,) for every kernel, however it came."""
    X = aligned(settle.settle(X, device, dtype))
    y = aligned(settle.settle(cast(y, dtype, X), settle.AUTO, dtype))
    if y.ndim == 2 and y.shape[1] == 1:
        y = namespace(y).reshape(y, (-1,))
    beside = {name: settle.settle(cast(values, dtype, X), settle.AUTO, dtype) for name, values in columns.items()}
    return X, y, {name: aligned(values) for name, values in beside.items()}


def check_rows(arrays: Mapping[str, Array], start: int) -> None:
    """Raise DataError for NaN, infinity and a negative weight, with row and column; `start` is the first row."""
    if settle.on_device(next(iter(arrays.values()))):  # all at once: the host waits for the card once
        lows = [0.0 if name == "sample_weight" else -np.inf for name in arrays]
        if "fold" not in arrays and not any(place >= 0 for place in places_outside(list(arrays.values()), lows)):
            return
    for name, array in arrays.items():
        check_finite(name, array, start)
    fold = arrays.get("fold")
    if fold is not None:
        xp = namespace(fold)
        wrong = (fold < 0) | (fold != xp.floor(fold)) | (fold > MOST_FOLDS)
        if fold.shape[0] and bool(xp.any(wrong)):
            row = int(xp.argmax(xp.astype(wrong, xp.int8)))
            raise DataError(f"fold is {float(fold[row])} in row {start + row}: folds are whole numbers from 0")
    weight = arrays.get("sample_weight")
    if weight is not None:
        xp = namespace(weight)
        if weight.shape[0] and float(xp.min(weight)) < 0:
            row = int(xp.argmin(weight))
            raise DataError(f"sample_weight is {float(weight[row])} in row {start + row}: weights are >= 0")


def _check_shape(name: str, array: AnyArray, expected: tuple[tuple[int, ...], ...], number: int) -> None:
    """Raise DataError for another shape than the expected ones, and for what are no numbers."""
    float_dtype(array, name)
    if tuple(array.shape) not in expected:
        raise DataError(
            f"{name} has shape {tuple(array.shape)} in block {number}, which is cut as {expected[0]}: the source of "
            "the rows gives another shape than it said, or has changed since"
        )


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


def _lay_out_dask(arrays: Mapping[str, AnyArray], cuts: Cuts, device: str) -> Host:
    """Rechunk to the cuts, and make one block per chunk of rows."""
    from dask import compute, delayed

    lazy = {name: _as_dask(as_array(name, array)) for name, array in arrays.items()}
    X, y = lazy.pop("X"), lazy.pop("y")
    rows = tuple(stop - start for start, stop in map(cuts.bounds, range(cuts.n_blocks)))
    X_parts = X.rechunk((rows, X.shape[1])).to_delayed().ravel()
    y_parts = y.rechunk((rows, *y.shape[1:])).to_delayed().ravel()
    others = {name: array.rechunk((rows,)).to_delayed().ravel() for name, array in lazy.items()}
    make, prefix = delayed(make_block, pure=False), _new_prefix()
    tasks = [
        make(
            X_parts[number],
            y_parts[number],
            cuts,
            number,
            {name: parts[number] for name, parts in others.items()},
            device,
            dask_key_name=block_key(prefix, number),
        )
        for number in range(cuts.n_blocks)
    ]
    client = client_in_force()
    if client is None:
        settle.require(device)
        return LocalBlocks(compute(*tasks, scheduler="threads"), cuts)
    from dist_dot.rounds.cluster import place

    return place(client, tasks, cuts, prefix, f"the Dask array {X.name}")


def _as_dask(array: AnyArray) -> AnyArray:
    """Return a Dask array of an array; of one whose dtypes are not NumPy's, and Dask's are, with its numbers."""
    import dask.array as da

    if is_lazy(array):
        return array
    array = array if isinstance(array.dtype, np.dtype) else to_host(array)
    return da.from_array(array, asarray=not is_other(array))


def memory(lazy: bool) -> tuple[int, int]:
    """Return the bytes of memory and the threads that this process has, or the smallest worker where rows are lazy."""
    from distributed.system import MEMORY_LIMIT

    from dist_dot.rounds.remote import workers_of

    client = client_in_force() if lazy else None
    workers = [] if client is None else workers_of(client).values()
    smallest = min((worker["memory_limit"] or MEMORY_LIMIT for worker in workers), default=MEMORY_LIMIT)
    return int(smallest), max((worker["nthreads"] for worker in workers), default=cores())


def check_memory(shape: tuple[int, ...], what: str, advice: str) -> None:
    """Raise InputError where an array of float64 of this shape is more than the memory that this process may use."""
    needed = 8 * prod(shape)
    if needed > LARGE and needed > (limit := memory(False)[0]):
        sizes = f"{needed / 2**30:,.0f} GiB, and this process may use {limit / 2**30:,.1f} GiB"
        raise InputError(f"{what} are {' x '.join(f'{size:,}' for size in shape)} numbers, {sizes}: {advice}")


def client_in_force() -> "Client | None":
    """Return the client that `dask.compute` would use, None where there is none.

    Raises ClusterError for one that cannot wait in this thread, since its event loop runs here.
    """
    from distributed import default_client

    try:
        client = default_client()
    except ValueError:
        return None
    if client.asynchronous:
        raise ClusterError(
            "the Dask client in force is asynchronous, and a fit waits: open one with asynchronous=False, and fit in "
            "another thread, as by asyncio.to_thread(model.fit, X, y)"
        )
    return client
