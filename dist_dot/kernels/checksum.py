"""Checksums of blocks: whether rows are the ones they were."""

from collections.abc import Iterable

import numpy as np
import xxhash

from dist_dot.kernels import device
from dist_dot.rows.arrays import to_host
from dist_dot.rows.block import Block
from dist_dot.typing import AnyArray

CROSSING = 32 << 20  # bytes that a checksum brings from a device at once


def checksum(block: Block) -> str:
    """Return 128 bits of what a block is made of, at the speed of memory: XXH3; rows of a GPU are read there."""
    digest = xxhash.xxh3_128()
    parts: tuple[AnyArray, ...] = (*block.X.parts, *block.columns)
    for place, array in enumerate(parts):
        if array is None:
            continue
        if not hasattr(array, "shape"):
            digest.update(repr(array).encode())
            continue
        digest.update(repr(tuple(array.shape)).encode())
        if device.on_device(array):
            digest.update(repr(device.digest(array, place)).encode())
            continue
        rows = max(1, CROSSING // max(1, block.nbytes // max(1, len(block))))
        for start in range(0, array.shape[0], rows):
            part = array[start : start + rows, ...] if array.ndim > 1 else array[start : start + rows]
            digest.update(np.ascontiguousarray(to_host(part)).data)
    return digest.hexdigest()


def combined(checksums: Iterable[str]) -> str:
    """Return one checksum of those of all blocks, in order."""
    return xxhash.xxh3_128("".join(checksums).encode()).hexdigest()
