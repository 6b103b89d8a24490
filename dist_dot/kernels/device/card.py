"""A card, as this process uses it: one stream, one thread at a time, kernels that are compiled once, room to come back.

CuPy is imported in functions only: the rest of dist_dot runs without it.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.resources import files
from threading import Lock, RLock
from time import perf_counter
from types import TracebackType

import numpy as np
from numpy.typing import DTypeLike

from dist_dot.kernels.tree import Node, put
from dist_dot.typing import Array, CupyObject, DeviceArray

log = logging.getLogger("dist_dot")
OPTIONS = ("-std=c++17",)
SLOW = 1.0  # seconds: what takes longer to compile is worth a word
SCHEDULES = 64  # of which blocks add up to what, as many as are kept
PARTS = {
    "passes": ("common", "copies", "lanes", "losses", "residuals", "by_warps", "by_block"),
    "sums": ("common", "sums"),
    "moments": ("common", "losses", "moments"),
    "checks": ("common", "checks"),
    "tiles": ("common", "tiles"),
    "labels": ("common", "labels"),
}
NUMBER = {"float32": "float", "float64": "double"}
Schedule = tuple[tuple[Node, ...], DeviceArray, DeviceArray]
"""Which nodes blocks add up to, and where in the order of the blocks each begins and how many it has, on the card."""
_making = Lock()


def source(name: str, own_loss: str = "") -> str:
    """Return the CUDA C++ of a part; own_loss is the body of a loss of the user's own, see `dist_dot.losses`."""
    defined = f"#define OWN_LOSS {' '.join(own_loss.split())}\n" if own_loss else ""
    folder = files(__package__) / "cuda"
    return defined + "".join((folder / f"{part}.cuh").read_text(encoding="utf-8") for part in PARTS[name])


def card(number: int) -> "Card":
    """Return the card of this number, the same to every thread: its lock and its stream are there once."""
    with _making:
        return _card(number)


@lru_cache
def _card(number: int) -> "Card":
    return Card(number)


class Card:
    """One GPU of this process: a context in which its memory and its one stream are used, by a thread at a time."""

    def __init__(self, number: int) -> None:
        import cupy

        self.cupy = cupy
        self.number = number
        self.device = cupy.cuda.Device(number)
        attributes = self.device.attributes
        self.processors = int(attributes["MultiProcessorCount"])
        self.shared_bytes = int(attributes["MaxSharedMemoryPerBlockOptin"])
        self._lock = RLock()
        self._functions: dict[tuple[str, str, str], CupyObject] = {}
        self._room: Array = np.empty(0, np.uint8)
        self._schedules: dict[tuple[tuple[int, ...], int], Schedule] = {}
        with self.device:
            self.stream = cupy.cuda.Stream(non_blocking=True)

    def __enter__(self) -> "Card":
        self._lock.acquire()
        try:
            self.device.__enter__()
            self.stream.__enter__()
        except BaseException:  # of a card that has failed: the other threads are to see the error, and not to wait
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:  # what is under way still uses memory that goes back to CuPy with the error
                with suppress(Exception):  # of a card that has failed
                    self.stream.synchronize()
            self.stream.__exit__(kind, error, trace)
            self.device.__exit__(kind, error, trace)
        finally:
            self._lock.release()

    def function(self, part: str, expression: str, own_loss: str = "") -> CupyObject:
        """Return a kernel by its C++ name: the first time in a process compiled, or read from CuPy's cache."""
        key = part, expression, own_loss
        if key not in self._functions:
            begin = perf_counter()
            with self.device:
                template = "<" in expression
                module = self.cupy.RawModule(
                    code=source(part, own_loss), options=OPTIONS, name_expressions=[expression] if template else None
                )
                self._functions[key] = module.get_function(expression)
            if (seconds := perf_counter() - begin) > SLOW:
                log.info("compiled %s for the GPU in %.1f s: CuPy keeps it for later runs", expression, seconds)
        return self._functions[key]

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike = np.float64) -> DeviceArray:
        """Return an array of this card that nobody has written to."""
        return self.cupy.empty(shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: DTypeLike = np.float64) -> DeviceArray:
        """Return zeros, set without a kernel."""
        array = self.cupy.empty(shape, dtype)
        array.data.memset_async(0, array.nbytes, self.stream)
        return array

    def unset(self, size: int) -> DeviceArray:
        """Return so many whole numbers with all bits set, which no place is larger than."""
        places = self.cupy.empty(size, np.uint64)
        places.data.memset_async(255, places.nbytes, self.stream)
        return places

    def add_products(self, tile: DeviceArray, rows: int, sums: DeviceArray) -> None:
        """Add to sums (batches, m, m) the products x.T x of batches of so many rows of the tile (rows, m), in float64.

        They are right below the diagonal, and on it.
        """
        from cupy.cuda import get_cublas_handle
        from cupy_backends.cuda.libs import cublas

        batches, m, _ = sums.shape
        one = np.array(1.0)
        # cuBLAS works on squares of 64 columns: a few columns beyond those are multiplied by themselves.
        square = m // 64 * 64 if m > 64 and m % 64 <= 8 else m
        for columns, first, last in ((square, 0, square), (m, square, m)):
            if first == last:
                continue
            # As cuBLAS has it, column by column, the tile is its transpose.
            cublas.dgemmStridedBatched(
                get_cublas_handle(),
                cublas.CUBLAS_OP_N,
                cublas.CUBLAS_OP_T,
                columns,
                last - first,
                rows,
                one.ctypes.data,
                tile.data.ptr,
                m,
                rows * m,
                tile.data.ptr + 8 * first,
                m,
                rows * m,
                one.ctypes.data,
                sums.data.ptr + 8 * first * m,
                m,
                m * m,
                batches,
            )

    def upload(self, array: Array) -> DeviceArray:
        """Return a copy of a NumPy array on this card."""
        array = np.ascontiguousarray(array)
        there = self.cupy.empty(array.shape, array.dtype)
        self.write(there, array)
        self.stream.synchronize()  # the caller's array may be gone before the copy is done
        return there

    def write(self, there: DeviceArray, array: Array) -> None:
        """Set an array of this card to the numbers of a NumPy array of the same dtype."""
        self._copy(there.data.ptr, array.ctypes.data, array.nbytes, self.cupy.cuda.runtime.memcpyHostToDevice)

    def _copy(self, target: int, source: int, nbytes: int, kind: int) -> None:
        """Copy in the order of the stream. CuPy's own methods refuse what is to become a graph."""
        if nbytes:
            self.cupy.cuda.runtime.memcpyAsync(target, source, nbytes, kind, self.stream.ptr)

    def pinned(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return memory of the host that the card reaches by itself."""
        import cupyx

        memory: Array = cupyx.empty_pinned(shape, dtype)
        return memory

    def read(self, array: DeviceArray, on_host: Array) -> None:
        """Ask for the numbers of a C-contiguous array of this card: they are there once the stream has come so far."""
        self._copy(on_host.ctypes.data, array.data.ptr, array.nbytes, self.cupy.cuda.runtime.memcpyDeviceToHost)

    def to_host(self, array: DeviceArray) -> Array:
        """Return a C-contiguous array of this card as a NumPy array, once all that was asked of the stream is done."""
        if self._room.nbytes < array.nbytes:
            self._room = self.pinned(1 << max(16, (array.nbytes - 1).bit_length()), np.uint8)
        room = self._room[: array.nbytes].view(array.dtype).reshape(array.shape)
        self.read(array, room)
        self.stream.synchronize()
        host: Array = room.copy()
        return host

    def together(self, nodes: Mapping[Node, DeviceArray]) -> dict[Node, Array]:
        """Return flat arrays of this card as NumPy arrays: one transfer."""
        sizes = [int(total.size) for total in nodes.values()]
        room = self.empty(sum(sizes))
        start = 0
        for total, size in zip(nodes.values(), sizes, strict=True):
            room.data.__add__(8 * start).copy_from_device_async(total.data, 8 * size, self.stream)
            start += size
        host = self.to_host(room)
        return dict(zip(nodes, np.split(host, np.cumsum(sizes)[:-1]), strict=True))

    def folded(self, totals: DeviceArray, numbers: Sequence[int], leaves: int) -> dict[Node, Array]:
        """Return the nodes that blocks of these numbers, in order, add up to, from their sums (blocks, width)."""
        names, first, count = self.spans(tuple(numbers), leaves)
        nodes = self.empty((len(names), totals.shape[1]))
        self.fold(totals, first, count, nodes)
        return dict(zip(names, self.to_host(nodes), strict=True))

    def fold(self, totals: DeviceArray, first: DeviceArray, count: DeviceArray, nodes: DeviceArray) -> None:
        """Set the nodes (nodes, width) from the sums of blocks (blocks, width), see `spans`."""
        width = totals.shape[1]
        grid = -(-width // 128), nodes.shape[0]
        self.function("sums", "fold_pieces")(grid, (128,), (totals, np.int32(width), first, count, nodes))

    def spans(self, numbers: tuple[int, ...], leaves: int) -> Schedule:
        """Return the schedule of blocks of these numbers, of `leaves` in all."""
        key = numbers, leaves
        if key not in self._schedules:
            spans: dict[Node, Array] = {}
            for place, number in enumerate(numbers):
                put(spans, (0, number), np.array([place, 1]), leaves, lambda left, right: left + right * [0, 1])
            ends = np.array(list(spans.values()), np.int32).reshape(-1, 2).T
            if len(self._schedules) >= SCHEDULES:
                self._schedules.clear()
            self._schedules[key] = tuple(spans), self.upload(ends[0]), self.upload(ends[1])
        return self._schedules[key]
