"""A block of rows, how rows are cut into blocks, and the blocks of this process."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from operator import iadd
from typing import Any, Protocol, TypeVar

import numpy as np
import xxhash

from dist_dot.blocks.arrays import Parameters, aligned, itemsize, to_host
from dist_dot.blocks.blas import one_blas_thread
from dist_dot.blocks.reduce import Merge, Node, put, root
from dist_dot.errors import InputError
from dist_dot.typing import Array

log = logging.getLogger("dist_dot")
T = TypeVar("T")
Kernel = Callable[["Block", Parameters], Array]
"""(block, parameters) -> sums over its rows, one flat float64 array of its library. See `dist_dot.blocks.kernels`.

They are added up in the memory of the first, so it returns new memory each time. Where two results do not simply add
up, it has a method `merge`: (left, right) -> the result for the rows of both.
"""
Report = Callable[[Any], bool]
"""What a program calls with its progress; the answer True asks it to stop."""
Program = Callable[["Blocks", Report], T]
"""What runs beside the blocks: a loop of `Blocks.reduce` calls. It must pickle."""


@dataclass(frozen=True, eq=False)
class Block:
    """Rows `start` .. `start + len(block)` of the data.

    X is (m, p), y is (m,), or (m, k) for k > 1 targets, both of one library and float dtype, aligned and C-contiguous
    where that is NumPy; weight is (m,) or None where every row counts once.
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

    def __sizeof__(self) -> int:  # what Dask's memory manager asks for
        return self.nbytes

    def __reduce__(self) -> tuple[Callable[..., "Block"], tuple[Array, Array, Array | None, int]]:
        return _aligned_block, (self.X, self.y, self.weight, self.start)


def block_key(prefix: str, number: int) -> str:
    """Return Dask's key of a block, so that a message names ranges of blocks and not each of them."""
    return f"{prefix}-{number}"


def checksum(block: Block) -> str:
    """Return 128 bits of the bytes of X, y and weight: XXH3, at the speed of memory. Device arrays cross in tiles."""
    digest = xxhash.xxh3_128()
    for array in (block.X, block.y, block.weight):
        if array is None:
            continue
        digest.update(repr(tuple(array.shape)).encode())
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


def merge_of(kernel: Kernel) -> Merge:
    """Return how two results of a kernel become one: its own `merge`, or addition in place."""
    merge: Merge = getattr(kernel, "merge", iadd)
    return merge


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

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the sum of kernel(block, parameters) over all blocks, merged as the kernel says. One round."""

    def notice(self, words: str) -> None:
        """Tell the owner of the run what happened to it: a warning of the logger "dist_dot", where the client is."""

    def run(self, program: Program[T], report: Report) -> T:
        """Run program(blocks, report) as close to the rows as a loop can be, and return what it returns."""


class LocalBlocks:
    """The blocks of this process, worked on by as many threads as it may use."""

    def __init__(self, blocks: Sequence[Block], cuts: Cuts) -> None:
        self.blocks = tuple(blocks)
        self.cuts = cuts
        self.rounds = 0
        self.recovery = Recovery()
        self._threads = min(len(self.blocks), len(os.sched_getaffinity(0)))

    @property
    def where(self) -> str:
        """Where the rows live, in words."""
        return f"this process, {self._threads} thread{'s' if self._threads > 1 else ''}"

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
        at = Parameters(parameters)
        one = len(self.blocks) == 1 or self._threads == 1
        nodes: dict[Node, Array] = {}
        leaves, merge = len(self.blocks), merge_of(kernel)
        with one_blas_thread():
            sums = (map if one else self._pool.map)(lambda block: kernel(block, at), self.blocks)
            for number, total in enumerate(sums):
                put(nodes, (0, number), total, leaves, merge)
        return np.asarray(to_host(nodes[root(leaves)]))

    def notice(self, words: str) -> None:
        """Log a warning."""
        log.warning("%s", words)

    def run(self, program: Program[T], report: Report) -> T:
        """Run the program in this thread."""
        with one_blas_thread():
            return program(self, report)
