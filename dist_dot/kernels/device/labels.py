"""Class labels that lie on a card: which there are, and which each row has. CuPy's `unique` compiles for seconds."""

import numpy as np

from dist_dot.kernels.device.card import card
from dist_dot.rows.settle import settled
from dist_dot.typing import Array, DeviceArray

# The types of labels, as C++ has them.
LABELS = {
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned int",
    "int64": "long long",
    "uint64": "unsigned long long",
    "float32": "float",
    "float64": "double",
}
# Most whole numbers from the smallest label to the largest, and the largest that float64 has all below.
RANGE, EXACT = 1 << 20, 2.0**53
THREADS = 256


def classes_of(y: DeviceArray) -> Array | None:
    """Return the distinct labels (k,) of y (n,), in order, on the host. Reads y twice.

    None where they are no whole numbers that lie close together: then y has to be sorted.
    """
    flags = y.dtype.kind == "b"
    y = _contiguous(y.view(np.uint8) if flags else y)
    kind = LABELS.get(y.dtype.name)
    if kind is None or not y.size:
        return None
    settled(y)
    with card(y.device.id) as here:
        grid = min(-(-y.size // THREADS), 4 * here.processors)
        ends = here.empty((grid, 3))
        here.function("labels", f"extent<{kind}>")((grid,), (THREADS,), (y, np.int64(y.size), ends))
        low, high, whole = here.to_host(ends).T
        first, last = float(low.min()), float(high.max())
        if not (whole.all() and last - first < RANGE and max(abs(first), abs(last)) < EXACT):
            return None
        seen = here.zeros(int(last - first) + 1, np.uint8)
        here.function("labels", f"present<{kind}>")((grid,), (THREADS,), (y, np.int64(y.size), np.float64(first), seen))
        found = np.flatnonzero(here.to_host(seen)) + int(first)
    return np.asarray(found, bool if flags else y.dtype.name)


def codes_of(y: DeviceArray, classes: Array) -> DeviceArray:
    """Return the place of each label of y (n,) among the classes (k,), which are of its dtype, as float32 on its card.

    It is k for a label that is none of them.
    """
    if y.dtype.kind == "b":
        y, classes = y.view(np.uint8), classes.view(np.uint8)
    y = _contiguous(y)
    settled(y)
    with card(y.device.id) as here:
        codes = here.empty(y.shape, np.float32)
        grid = max(1, min(-(-y.size // THREADS), 8 * here.processors))
        kernel = here.function("labels", f"codes_of<{LABELS[y.dtype.name]}, float>")
        kernel((grid,), (THREADS,), (y, np.int64(y.size), here.upload(classes), np.int32(classes.size), codes))
        here.stream.synchronize()
    return codes


def takes(y: DeviceArray, classes: Array) -> bool:
    """Whether `codes_of` takes such labels and classes."""
    return bool(y.ndim == 1 and y.dtype.name == classes.dtype.name and (y.dtype.kind == "b" or y.dtype.name in LABELS))


def _contiguous(y: DeviceArray) -> DeviceArray:
    import cupy

    return cupy.ascontiguousarray(y)
