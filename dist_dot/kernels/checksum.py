"""Checksums of blocks: whether rows are the ones they were."""

from collections.abc import Iterable, Iterator

import numpy as np
import xxhash

from dist_dot.kernels import device
from dist_dot.rows.arrays import to_host
from dist_dot.rows.block import Block
from dist_dot.rows.design import Design
from dist_dot.typing import AnyArray

CROSSING = 32 << 20  # bytes that a checksum brings from a device at once


def checksum(block: Block) -> str:
    """Return 128 bits of what a block is made of, at the speed of memory: XXH3; rows of a GPU are read there."""
    digest = xxhash.xxh3_128()
    y, weight, offset, fold = block.columns
    named = (("offset", offset), ("fold", fold))
    beside = [part for name, column in named if column is not None for part in (name, column)]
    for place, array in enumerate((*parts(block.X.parts), y, weight, *beside)):
        if array is None:
            continue
        if isinstance(array, str):
            digest.update(f"{array};".encode())
            continue
        digest.update(repr(tuple(array.shape)).encode())
        if device.on_device(array):
            digest.update(repr(device.digest(array, place)).encode())
            continue
        rows = max(1, CROSSING // max(1, block.nbytes // max(1, len(block))))
        for start in range(0, array.shape[0], rows):
            part = array[start : min(start + rows, array.shape[0]), ...]
            digest.update(np.ascontiguousarray(to_host(part)).data)
    return digest.hexdigest()


def parts(values: Iterable[object]) -> Iterator[AnyArray]:
    """Yield the arrays among values, and the others as text. Raises TypeError for what has no fixed text."""
    for part in values:
        if isinstance(part, Design):
            yield type(part).__name__
            yield from parts(part.parts)
        elif isinstance(part, tuple | list):
            yield from parts(part)
        elif getattr(part, "ndim", 0):
            yield part
        elif isinstance(part, str | int | float | np.generic | None):
            yield repr(part)
        else:
            raise TypeError(f"a design holds a {type(part).__name__}: let its `parts` be arrays, numbers and text")


def combined(checksums: Iterable[str]) -> str:
    """Return one checksum of those of all blocks, in order."""
    return xxhash.xxh3_128("".join(checksums).encode()).hexdigest()
