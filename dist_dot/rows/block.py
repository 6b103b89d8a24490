"""A block of rows, and how rows are cut into blocks."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dist_dot.errors import InputError
from dist_dot.rows import settle
from dist_dot.rows.arrays import aligned, itemsize, to_host
from dist_dot.typing import Array


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
