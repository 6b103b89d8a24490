"""A block of rows, and how rows are cut into blocks."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import DTypeLike

from dist_dot.errors import InputError
from dist_dot.rows import settle
from dist_dot.rows.arrays import itemsize, namespace
from dist_dot.rows.design import Design
from dist_dot.rows.travel import Travels
from dist_dot.typing import Array


@dataclass(frozen=True, eq=False)
class Block(Travels):
    """Rows `start` .. `start + len(block)` of the data: a design X, y, and what else a row carries, each in a column.

    X is (m, p), y is (m,), or (m, k) for k > 1 targets, of one library and float dtype, and aligned. The other columns
    are (m,) of the same library and dtype, or None: `weight`, 1 where there is none; `offset`, which is added to the z
    of every output; `fold`, the number of a fold of a cross-validation.
    """

    X: Design
    y: Array
    weight: Array | None
    start: int
    offset: Array | None = None
    fold: Array | None = None

    def __len__(self) -> int:
        return self.X.shape[0]

    @property
    def columns(self) -> tuple[Array, Array | None, Array | None, Array | None]:
        """What stands beside X: y, and the columns that may be None, in a fixed order."""
        return self.y, self.weight, self.offset, self.fold

    @property
    def nbytes(self) -> int:
        """Bytes of X and of what stands beside it."""
        columns = sum(1 if c.ndim == 1 else int(c.shape[1]) for c in self.columns if c is not None)
        return self.X.nbytes + len(self) * columns * itemsize(self.y)

    @property
    def on_device(self) -> bool:
        """Whether the rows are one array on a GPU."""
        return settle.on_device(self.X.array)

    @property
    def device(self) -> str:
        """The name of the GPU that the rows are on; "" for those of the host."""
        return settle.device_name(self.X.array)

    def rows(self, part: slice) -> "Block":
        """Return the rows of a range of those here, without a copy."""
        y, weight, offset, fold = self.y, self.weight, self.offset, self.fold
        return Block(
            self.X.rows(part),
            y[part] if y.ndim == 1 else y[part, :],
            None if weight is None else weight[part],
            self.start + part.start,
            None if offset is None else offset[part],
            None if fold is None else fold[part],
        )

    def take(self, numbers: Array) -> "Block":
        """Return the rows of these numbers; they have no place of their own any more, and keep the `start`."""
        xp = namespace(self.y)
        y = xp.take(self.y, numbers, axis=0)
        weight, offset, fold = (None if c is None else xp.take(c, numbers, axis=0) for c in self.columns[1:])
        return Block(self.X.take(numbers), y, weight, self.start, offset, fold)

    def __sizeof__(self) -> int:  # what Dask's memory manager asks for: bytes of the host
        return OF_A_DEVICE if self.on_device else self.nbytes

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        stays_on_device(self)


def block_key(prefix: str, number: int) -> str:
    """Return Dask's key of a block, so that a message names ranges of blocks and not each of them."""
    return f"{prefix}-{number}"


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
    """Where n_samples rows of n_features columns, and of n_targets in y, are cut: every `block_rows` rows.

    `offset` and `fold` are whether the rows have such columns.
    """

    n_samples: int
    n_features: int
    dtype: str
    block_rows: int
    n_targets: int = 1
    offset: bool = False
    fold: bool = False

    @property
    def n_blocks(self) -> int:
        """At least one, so that a sum over no rows is a sum."""
        return max(1, -(-self.n_samples // self.block_rows))

    @property
    def nbytes(self) -> int:
        """Bytes of X as one array: what one round reads."""
        return self.n_samples * self.n_features * np.dtype(self.dtype).itemsize

    def memory(self, columns: int) -> int:
        """Return the bytes of X, as one array, of y, and of so many columns of weights and the like."""
        return self.n_samples * (self.n_features + self.n_targets + columns) * np.dtype(self.dtype).itemsize

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


def cut(
    n_samples: int,
    n_features: int,
    dtype: DTypeLike,
    block_rows: int | str = "auto",
    n_targets: int = 1,
    offset: bool = False,
    fold: bool = False,
) -> Cuts:
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
    if isinstance(block_rows, bool) or not isinstance(block_rows, Integral) or block_rows < 1:
        raise InputError(f"block_rows is {block_rows!r}: give a positive number of rows, or 'auto'")
    return Cuts(n_samples, n_features, dtype.name, int(block_rows), n_targets, offset, fold)


def named(devices: Iterable[str]) -> str:
    """Return the GPUs of blocks in words, such as ", on NVIDIA H100"; "" for those of the host."""
    names = sorted(set(devices) - {""})
    return f", on {' and '.join(names)}" if names else ""
