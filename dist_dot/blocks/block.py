"""A block of rows, how rows are cut into blocks, and the blocks of this process."""

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np
import xxhash

from dist_dot.blocks import device
from dist_dot.blocks.arrays import Parameters, aligned, itemsize, to_host
from dist_dot.blocks.blas import one_blas_thread
from dist_dot.blocks.device import settle
from dist_dot.blocks.reduce import Node, merge_of, put, quietly, root
from dist_dot.errors import InputError
from dist_dot.typing import Array

log = logging.getLogger("dist_dot")
T = TypeVar("T")
Kernel = Callable[["Block", Parameters], Array]
"""(block, parameters) -> sums over its rows, one flat float64 array of its library. See `dist_dot.blocks.kernels`.

They are added up in the memory of the first, so it returns new memory each time. Where two results do not simply add
up, it has a method `merge`: (left, right) -> the result for the rows of both. Where it can answer for all blocks on a
GPU at once, it has a method `launch`: (rows, blocks, parameters of the host) -> the sums (blocks, width) on the GPU, or
those of each block in order, or None where it cannot after all; rows is a `dist_dot.blocks.device.DeviceRows`. `reads`
is "y" where it reads y alone, and "X" where its sums are finite only if all of X is.
"""
Report = Callable[[Any], bool]
"""What a program calls with its progress; the answer True asks it to stop."""
Program = Callable[["Blocks", Report], T]
"""What runs beside the blocks: a loop of `Blocks.reduce` calls. It must pickle."""


@dataclass(frozen=True, eq=False)
class Block:
    """Rows `start` .. `start + len(block)` of the data.

    X is (m, p), y is (m,), or (m, k) for k > 1 targets, both of one library and float dtype, C-contiguous where that is
    NumPy or CuPy, and aligned; weight is (m,) or None where every row counts once.
    """

    X: Array
    y: Array
    weight: Array | None
    start: int

    def __len__(self) -> int:
        return int(self.X.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of X, y and weight."""
        targets = self.y.shape[1] if self.y.ndim == 2 else 1
        columns = self.X.shape[1] + targets + (self.weight is not None)
        return len(self) * int(columns) * itemsize(self.X)

    @property
    def on_device(self) -> bool:
        """Whether the rows are on a GPU."""
        return settle.on_device(self.X)

    @property
    def device(self) -> str:
        """The name of the GPU that the rows are on; "" for those of the host."""
        return settle.device_name(self.X)

    def __sizeof__(self) -> int:  # what Dask's memory manager asks for: bytes of the host
        return OF_A_DEVICE if self.on_device else self.nbytes

    def __reduce__(self) -> tuple[Callable[..., "Block"], tuple[Array, Array, Array | None, int]]:
        arrays = (self.X, self.y, self.weight)
        if self.on_device:
            X, y, weight = map(to_host, arrays)
            return _settled_block, (X, y, weight, self.start)
        return _aligned_block, (*arrays, self.start)


def block_key(prefix: str, number: int) -> str:
    """Return Dask's key of a block, so that a message names ranges of blocks and not each of them."""
    return f"{prefix}-{number}"


def checksum(block: Block) -> str:
    """Return 128 bits of the bytes of X, y and weight, at the speed of memory: XXH3; rows of a GPU are read there."""
    digest = xxhash.xxh3_128()
    for place, array in enumerate((block.X, block.y, block.weight)):
        if array is None:
            continue
        digest.update(repr(tuple(array.shape)).encode())
        if device.on_device(array):
            digest.update(repr(device.digest(array, place)).encode())
            continue
        rows = max(1, CROSSING // max(1, block.nbytes // max(1, len(block))))
        for start in range(0, len(block), rows):
            part = array[start : start + rows, ...] if array.ndim > 1 else array[start : start + rows]
            digest.update(np.ascontiguousarray(to_host(part)).data)
    return digest.hexdigest()


def combined(checksums: Iterable[str]) -> str:
    """Return one checksum of those of all blocks, in order."""
    return xxhash.xxh3_128("".join(checksums).encode()).hexdigest()


def _aligned_block(X: Array, y: Array, weight: Array | None, start: int) -> Block:
    """Rebuild a block that was moved or spilled.

    Buffers that come off the network may be unaligned (1 block in 12 was): NumPy then takes other code paths, slower
    and with other bits. So a block is aligned when it arrives, whoever moved it and with whatever serializer.
    """
    return Block(aligned(X), aligned(y), None if weight is None else aligned(weight), start)


def _settled_block(X: Array, y: Array, weight: Array | None, start: int) -> Block:
    """Rebuild a block that came from a GPU, on the GPU of this process. Raises DeviceError where there is none."""
    X, y = (settle.to_device(array, array.dtype.name) for array in (X, y))
    weight = None if weight is None else settle.to_device(weight, weight.dtype.name)
    return stays_on_device(Block(X, y, weight, start))


def stays_on_device(block: Block) -> Block:
    """Return the block; have dask-cuda, if it is here, keep such blocks where they are.

    It takes for rows of a GPU only what has CUDA's array interface: a block would count as host memory, and be written
    to disk with what else is spilled.
    """
    if block.on_device and (spilling := sys.modules.get("dask_cuda.is_spillable_object")) is not None:
        # What says that it is spillable is left alone: it is to do its own spilling.
        spilling.is_spillable_object.register(Block, lambda block: block.on_device)
    return block


@dataclass(frozen=True)
class Cuts:
    """Where n_samples rows of n_features columns, and of n_targets in y, are cut: every `block_rows` rows."""

    n_samples: int
    n_features: int
    dtype: str
    block_rows: int
    n_targets: int = 1

    @property
    def n_blocks(self) -> int:
        """At least one, so that a sum over no rows is a sum."""
        return max(1, -(-self.n_samples // self.block_rows))

    @property
    def nbytes(self) -> int:
        """Bytes of X: what one round reads."""
        return self.n_samples * self.n_features * np.dtype(self.dtype).itemsize

    def memory(self, weights: bool) -> int:
        """Return the bytes of X, y and the weights, if there are any."""
        return self.n_samples * (self.n_features + self.n_targets + weights) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.n_samples:,} rows of {self.n_features:,} columns ({self.dtype})"

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the first row of block `number` and the row after its last."""
        return number * self.block_rows, min(self.n_samples, (number + 1) * self.block_rows)


# Some 64 blocks spread well over a few workers; from 2 MB a block's own cost (some 20 us) is below 10 % of its pass;
# up to 128 MB it is quickly rebuilt after a loss, and a terabyte is 8,000 tasks.
BLOCKS = 64
SMALLEST, LARGEST = 2 << 20, 128 << 20
ROW_MULTIPLE = 16
BLOCK = "dist-dot-block"  # what the keys of blocks begin with on a cluster
CROSSING = 32 << 20  # bytes that a checksum brings from a device at once
OF_A_DEVICE = 400  # bytes that a block on a device takes of the host: its Python objects


def cut(n_samples: int, n_features: int, dtype: Any, block_rows: int | str = "auto", n_targets: int = 1) -> Cuts:
    """Return the cuts: a function of n, p and dtype only, never of the cluster, so that the bits of a sum are.

    The number of targets does not count: a target fitted beside others has the rows of one fitted alone.

    Raises InputError if block_rows is neither "auto" nor a positive number.
    """
    dtype = np.dtype(dtype)
    if block_rows == "auto":
        row = max(1, n_features * dtype.itemsize)
        size = min(max(n_samples * row // BLOCKS, SMALLEST), LARGEST)
        rows = max(1, -(-size // row))
        block_rows = -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE
    if isinstance(block_rows, str) or block_rows < 1:
        raise InputError(f"block_rows is {block_rows!r}: give a positive number of rows, or 'auto'")
    return Cuts(n_samples, n_features, dtype.name, int(block_rows), n_targets)


def named(devices: Iterable[str]) -> str:
    """Return the GPUs of blocks in words, such as ", on NVIDIA H100"; "" for those of the host."""
    names = sorted(set(devices) - {""})
    return f", on {' and '.join(names)}" if names else ""


@dataclass(frozen=True)
class Recovery:
    """What the deaths of workers have cost: the numbers so far.

    lost counts the workers that left the cluster, repeated the rounds that had to be asked for again (for the missing
    blocks alone), seconds the time that those took beyond an undisturbed one.
    """

    lost: int = 0
    repeated: int = 0
    seconds: float = 0.0


class Blocks(Protocol):
    """Rows cut into blocks, wherever they live."""

    cuts: Cuts
    rounds: int
    """How many rounds were asked for so far."""
    recovery: Recovery

    @property
    def checksum(self) -> str:
        """A checksum of all rows, in their cuts. No round."""

    @property
    def where(self) -> str:
        """Where the rows live, in words."""

    @property
    def on_device(self) -> bool:
        """Whether the rows are on GPUs."""

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the sum of kernel(block, parameters) over all blocks, merged as the kernel says. One round."""

    def notice(self, words: str) -> None:
        """Tell the owner of the run what happened to it: a warning of the logger "dist_dot", where the client is."""

    def run(self, program: Program[T], report: Report) -> T:
        """Run program(blocks, report) as close to the rows as a loop can be, and return what it returns."""


class LocalBlocks:
    """The blocks of this process, worked on by as many threads as it may use."""

    def __init__(self, blocks: Sequence[Block], cuts: Cuts, look: Callable[[], None] | None = None) -> None:
        """`look` raises DataError for an X that is not finite, where nobody has looked yet."""
        self.blocks = tuple(blocks)
        self._look = look
        self.cuts = cuts
        self.rounds = 0
        self.recovery = Recovery()
        self.on_device = all(block.on_device for block in self.blocks)
        self._threads = 1 if self.on_device else min(len(self.blocks), len(os.sched_getaffinity(0)))

    @property
    def where(self) -> str:
        """Where the rows live, in words."""
        devices = named(block.device for block in self.blocks)
        return f"this process{devices or f', {self._threads} thread' + 's' * (self._threads > 1)}"

    @cached_property
    def tables(self) -> device.Tables:
        """Where the rows lie on GPUs."""
        return device.Tables(self.blocks)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="dist-dot")

    @cached_property
    def checksum(self) -> str:
        """A checksum of all rows, in their cuts. Reads them once."""
        return combined(self._pool.map(checksum, self.blocks))

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the sum of kernel(block, parameters) over all blocks. One round; reads X once."""
        self.rounds += 1
        leaves, merge = len(self.blocks), merge_of(kernel)
        if self.on_device:
            reads = getattr(kernel, "reads", "")
            if self._look is not None and not reads:
                self._looked()
            sums = self.tables.reduce(self.blocks, range(leaves), leaves, kernel, parameters)[root(leaves)]
            if self._look is not None and reads == "X":
                self._looked(np.isfinite(sums).all())
            return sums
        at, nodes, lock = Parameters(parameters), dict[Node, Array](), Lock()
        numbers = iter(range(leaves))

        @quietly
        def work() -> None:
            """Take the next block until there is none: a future for each would cost 15 us, a tenth of a small one."""
            for number in numbers:
                total = kernel(self.blocks[number], at)
                with lock:
                    put(nodes, (0, number), total, leaves, merge)

        with one_blas_thread():
            others = [self._pool.submit(work) for _ in range(self._threads - 1)]
            try:
                work()
            finally:
                deque(numbers, 0)  # after an error, or Ctrl-C, nobody takes another one
                wait(others)
            for other in others:
                other.result()
        return np.asarray(to_host(nodes[root(leaves)]))

    def _looked(self, finite: bool | np.bool = False) -> None:
        """Raise DataError for an X that is not finite, unless it is known to be; once is enough."""
        if not finite and self._look is not None:
            self._look()
        self._look = None

    def notice(self, words: str) -> None:
        """Log a warning."""
        log.warning("%s", words)

    def run(self, program: Program[T], report: Report) -> T:
        """Run the program in this thread."""
        with one_blas_thread():
            return program(self, report)
