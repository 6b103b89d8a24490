"""Where rows lie: whether this process has a GPU, what fits in its memory, and the way there and back.

CuPy is imported in functions only: everything else of dist_dot runs without it, and with it but without a driver.
"""

import socket
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from queue import SimpleQueue
from threading import Lock

import array_api_compat
import numpy as np

from dist_dot.errors import DataError, DeviceError, InputError
from dist_dot.rows.arrays import NUMBERS, cast, cores, to_host
from dist_dot.typing import AnyArray, Array, DeviceArray

AUTO, CPU, CUDA = "auto", "cpu", "cuda"
WISHES = (AUTO, CPU, CUDA)
INSTALL = 'pip install "dist-dot[gpu-cuda13]", or [gpu-cuda12] for a driver of CUDA 12'
# A thread copies some 5 GB/s to pinned memory, the bus takes 55 from there: each of several fills a tile of its own
# while those of others are on their way. From 1 MB on the threads are worth waking.
TILE = 8 << 20
SMALL = 1 << 20
FILLERS = 8


def known(wish: str) -> None:
    """Raise InputError unless this is a word for where rows are to lie."""
    if wish not in WISHES:
        raise InputError(f"device is {wish!r}: give 'cpu', 'cuda', or 'auto' for where the rows lie")


def require(wish: str) -> None:
    """Raise DeviceError where the wish is "cuda" and this process has no GPU that it can use."""
    known(wish)
    if wish == CUDA and (reason := unusable()):
        raise DeviceError(f"device 'cuda' is asked for, and on {socket.gethostname()} {reason}")


def unusable() -> str | None:
    """Return why CUDA cannot be used in this process, and what to do about it; None where it can."""
    try:
        import cupy
    except Exception as error:  # an ImportError, or whatever half an installation raises
        return f"CuPy cannot be imported ({error}): {INSTALL}"
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        driver = runtime.driverGetVersion()
        if not driver:
            return "there is no NVIDIA driver: install one, so that `nvidia-smi` lists the GPUs"
        return (
            f"CUDA finds no GPU to work on ({error}; CuPy is built for CUDA {_version(runtime.runtimeGetVersion())}, "
            f"the driver for {_version(driver)}): `nvidia-smi` lists the GPUs there are, CUDA_VISIBLE_DEVICES says "
            f"which of them this process may use; an older driver takes an older CuPy, {INSTALL}"
        )
    return None if count else "CUDA finds no GPU: `nvidia-smi` lists those there are"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def on_device(array: AnyArray) -> bool:
    """Whether this is a CuPy array."""
    return bool(array_api_compat.is_cupy_array(array))


def device_name(array: AnyArray) -> str:
    """Return the name of the GPU that an array is on, such as "NVIDIA H100 80GB HBM3"; "" for one on the host."""
    return _name(array.device.id) if on_device(array) else ""


@lru_cache
def _name(device: int) -> str:
    import cupy

    return str(cupy.cuda.runtime.getDeviceProperties(device)["name"].decode())


def card() -> tuple[str, str]:
    """Return what tells the current GPU of this process from others, and its name, with the versions that use it."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(runtime.getDevice())
    versions = f"CuPy {cupy.__version__}, CUDA {_version(runtime.runtimeGetVersion())}"
    return properties["uuid"].hex(), f"{properties['name'].decode()} ({versions})"


def free_memory() -> int:
    """Return the bytes that CuPy can still take on the current GPU: what is free, and what it keeps for later use."""
    import cupy

    return int(cupy.cuda.runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())


def check_room(needed: int, rows: str) -> None:
    """Raise DeviceError where so many bytes do not fit in the memory of the current GPU; `rows` says what they are."""
    free = free_memory()
    if needed > free:
        raise DeviceError(
            f"{rows} take {needed / 2**30:,.2f} GiB, and the GPU of {socket.gethostname()} has {free / 2**30:,.2f} GiB "
            "free: use float32, fewer columns, more GPUs (a cluster), or device='cpu'"
        )


def taken(array: AnyArray) -> AnyArray:
    """Return a torch tensor as the CuPy or NumPy array of the same memory (by DLPack), anything else as it is.

    A tensor that is on neither (of the "mps" device, say) stays what it is. Raises DeviceError for a CUDA tensor where
    CuPy cannot be used, DataError for one of a dtype that CuPy and NumPy do not have.
    """
    if not array_api_compat.is_torch_array(array) or array.device.type not in ("cpu", "cuda"):
        return array
    array = array.detach()
    try:
        if array.device.type == "cpu":
            return np.from_dlpack(array)
        require(CUDA)
        import cupy

        with cupy.cuda.Device(array.device.index):
            return cupy.from_dlpack(array)
    except (TypeError, BufferError, RuntimeError) as error:
        raise DataError(f"a torch tensor of {array.dtype} cannot be used: {error}; convert it to float32") from error


def given_back(array: AnyArray, like: AnyArray) -> AnyArray:
    """Return numbers as a torch tensor of the same memory if `like` is one; else the array as it is."""
    if not array_api_compat.is_torch_array(like) or (isinstance(array, np.ndarray) and array.dtype.kind not in NUMBERS):
        return array
    import torch

    return torch.from_dlpack(array)


def settle(array: AnyArray, wish: str, dtype: str) -> Array:
    """Return rows in this dtype, where the wish says: "auto" is where they are. Rows that are there are not copied.

    On a GPU they are C-contiguous. Raises DeviceError where there is none, or its memory is full.
    """
    if wish == CPU:
        return cast(to_host(array), dtype)
    there: Array
    if wish == CUDA and not on_device(array):
        there = to_device(np.asarray(to_host(array)), dtype)
        return there
    there = cast(array, dtype)
    if on_device(there) and not there.flags.c_contiguous:
        import cupy

        there = cupy.ascontiguousarray(there)
    return there


def settled(rows: DeviceArray) -> None:
    """Wait for what this thread has asked of the GPU of these rows, so that any thread and stream may read them."""
    import cupy

    with cupy.cuda.Device(rows.device.id):
        cupy.cuda.get_current_stream().synchronize()


def to_device(array: Array, dtype: str) -> DeviceArray:
    """Return NumPy rows (m,) or (m, p) as a C-contiguous CuPy array of this dtype on the current GPU.

    They are cast on the way, through pinned tiles: some are filled while others are copied. The copy is over when this
    returns. Raises DeviceError without a usable GPU, and where its memory is full.
    """
    require(CUDA)
    import cupy

    try:
        rows = cupy.empty(array.shape, np.dtype(dtype))
    except cupy.cuda.memory.OutOfMemoryError:
        rows = None
    if rows is None:
        needed = array.size * np.dtype(dtype).itemsize
        raise DeviceError(
            f"a block of {needed / 2**20:,.0f} MiB does not fit in the memory of the GPU of {socket.gethostname()}, "
            f"which has {free_memory() / 2**20:,.0f} MiB free: use float32, more GPUs (a cluster), or device='cpu'"
        )
    with _lock:
        _ferry().carry(array, rows)
    return rows


class _Ferry:
    """Pinned tiles of this process, one for each of the threads that fill them."""

    def __init__(self) -> None:
        import cupyx

        threads = min(FILLERS, cores())
        self._free: SimpleQueue[Array] = SimpleQueue()
        for _ in range(threads):
            self._free.put(cupyx.empty_pinned(TILE, np.uint8))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="dist-dot-settle")

    def carry(self, array: Array, rows: DeviceArray) -> None:
        """Copy rows of the host into rows of the device, of the same shape, on the current stream."""
        import cupy

        row = max(1, int(np.prod(array.shape[1:])) * rows.dtype.itemsize)
        if row > TILE:
            rows.set(np.ascontiguousarray(array, rows.dtype))
            return
        stream, step = cupy.cuda.get_current_stream(), TILE // row

        def ferry(start: int) -> None:
            part, pinned = array[start : start + step], self._free.get()
            try:
                with cupy.cuda.Device(rows.device.id):
                    tile = pinned[: len(part) * row].view(rows.dtype).reshape(part.shape)
                    np.copyto(tile, part, casting="unsafe")
                    copied = cupy.cuda.Event(disable_timing=True)
                    try:
                        rows[start : start + step].data.copy_from_host_async(tile.ctypes.data, tile.nbytes, stream)
                    finally:
                        copied.record(stream)
                        copied.synchronize()  # others fill their tiles meanwhile; whoever is next may fill this one
            finally:
                self._free.put(pinned)

        starts, asked = range(0, len(array), step), list[Future[None]]()
        try:
            if rows.nbytes >= SMALL:
                for start in starts:
                    asked.append(self._pool.submit(ferry, start))
            for start in starts[len(asked) :]:
                ferry(start)
            for future in asked:
                future.result()
        finally:  # after Ctrl-C too
            for future in asked:
                future.cancel()
            wait(asked)


_lock = Lock()


@lru_cache(maxsize=1)
def _ferry() -> _Ferry:
    return _Ferry()
