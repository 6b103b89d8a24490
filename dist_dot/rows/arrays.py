"""The array library of a block: NumPy, or another that speaks the array API (CuPy is the purpose).

Nothing is converted unasked. What crosses between the host and a device crosses here: the parameters once per process
and round, on their way in, and the sums once, on their way out.
"""

from collections.abc import Iterable
from functools import cache
from threading import Lock
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import DTypeLike

from dist_dot.typing import AnyArray, Array

NUMBERS = "biuf"  # the kinds of NumPy's dtypes that are numbers


@cache
def cores() -> int:
    """Return how many processors this process may use: on any system, and by the quota of its container."""
    from joblib import cpu_count  # takes its time to load

    return int(cpu_count())


def is_lazy(array: AnyArray) -> bool:
    """Whether this is a Dask collection. An xarray.DataArray is one if its data are."""
    graph = getattr(array, "__dask_graph__", None)
    return callable(graph) and graph() is not None


def is_other(array: AnyArray) -> bool:
    """Whether this is an array of another library than NumPy (Dask's are no arrays here, but collections)."""
    if isinstance(array, np.ndarray | np.generic) or is_lazy(array):
        return False
    return bool(array_api_compat.is_array_api_obj(array))


def namespace(array: AnyArray) -> Any:
    """Return the array's library: NumPy itself, or a namespace of the array API standard."""
    return array_api_compat.array_namespace(array) if is_other(array) else np


def dtype_name(array: AnyArray) -> str:
    """Return the name of the array's dtype as NumPy spells it, so far as blocks may have it: else what it is."""
    xp = namespace(array)
    known = (name for name in ("float32", "float64") if array.dtype == getattr(xp, name))
    return next(known, str(array.dtype))


def itemsize(array: AnyArray) -> int:
    """Return the bytes of one number of a floating array."""
    return int(namespace(array).finfo(array.dtype).bits) // 8


def no_rows(like: AnyArray, dtype: DTypeLike, dimensions: int) -> Array:
    """Return an array without rows of the library of `like`, or of NumPy for a dtype that is no number: Dask's meta."""
    shape, dtype = (0,) * dimensions, np.dtype(dtype)
    if not is_other(like) or dtype.kind not in NUMBERS:
        return np.empty(shape, dtype)
    xp = namespace(like)
    none: Array = xp.zeros(shape, dtype=getattr(xp, dtype.name), device=array_api_compat.device(like))
    return none


def aligned(array: Array) -> Array:
    """Return the array itself if it is aligned and C-contiguous, a copy that is otherwise. Only NumPy needs it."""
    return array if is_other(array) else np.require(array, requirements=["C", "A"])


def read_only(array: Array) -> Array:
    """Return a read-only view: blocks that were moved are read-only, and numba would compile each kind on its own."""
    view = array.view()
    view.flags.writeable = False
    return view


def cast(array: AnyArray, dtype: str, like: AnyArray = None) -> Array:
    """Return the array in the library and on the device of `like` (its own by default), in this dtype."""
    like = array if like is None else like
    if not is_other(like):
        return np.asarray(to_host(array), dtype)
    xp = namespace(like)
    there: Array
    if is_other(array):
        there = xp.astype(array, getattr(xp, dtype), copy=False)
    else:
        there = xp.asarray(np.asarray(array, dtype), device=array_api_compat.device(like))
    return there


def like(numbers: Iterable[float], array: AnyArray) -> Array:
    """Return numbers as an array of the dtype and the library of another one, on its device."""
    listed: Array = namespace(array).asarray(list(numbers), dtype=array.dtype, device=array_api_compat.device(array))
    return listed


def to_host(array: AnyArray) -> AnyArray:
    """Return a NumPy array with the numbers of one of any library; what is of no library, as it is."""
    if not is_other(array):
        return array
    if array_api_compat.is_cupy_array(array) or array_api_compat.is_torch_array(array):
        array = array_api_compat.to_device(array, "cpu")
    return np.from_dlpack(array)


class Parameters:
    """The parameters of a round, converted once in a process for each dtype that its kernels ask for."""

    def __init__(self, host: Array) -> None:
        self.host = host
        self._converted: dict[tuple[object, ...], Array] = {}
        self._lock = Lock()

    def like(self, X: Array, dtype: str | None = None) -> Array:
        """Return them in the library of X, by default in its dtype too."""
        key = dtype or X.dtype, str(array_api_compat.device(X)) if is_other(X) else None
        if key not in self._converted:
            with self._lock:
                if key not in self._converted:
                    name = dtype or dtype_name(X)
                    self._converted[key] = cast(np.ascontiguousarray(self.host, name), name, X)
        return self._converted[key]
