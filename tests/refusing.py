"""An array library that behaves as CuPy says it does, on a CPU: it refuses what would copy to the host unasked.

Its arrays do not become NumPy arrays by themselves and do not mix with them; the library counts what crosses.
"""

import numpy as np
from dask.array.dispatch import concatenate_lookup


class Counts:
    into = 0
    out = 0
    tiles = 0


counts = Counts()


class Array:
    __array_ufunc__ = None

    def __init__(self, values):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def __array_namespace__(self, api_version=None):
        return library

    def __dlpack__(self, **options):
        counts.out += 1
        return self._values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._values.__dlpack_device__()

    def _crosses(convert):  # noqa: N805
        def method(self):
            counts.out += 1
            return convert(self._values.item())

        return method

    __bool__, __float__, __int__, __index__ = _crosses(bool), _crosses(float), _crosses(int), _crosses(int)

    def __getitem__(self, key):
        counts.tiles += isinstance(key, tuple)
        return Array(np.asarray(self._values[key]))

    def __iter__(self):
        raise TypeError("a loop over a device array")

    shape = property(lambda self: self._values.shape)
    T = property(lambda self: Array(self._values.T))
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    dtype = property(lambda self: self._values.dtype)
    device = property(lambda self: "the device")
    # What CuPy's arrays have beside the standard, and Dask asks of its chunks.
    nbytes = property(lambda self: self._values.nbytes)

    def astype(self, dtype, copy=True):
        return Array(self._values.astype(dtype, copy=copy))

    def reshape(self, shape):
        return Array(self._values.reshape(shape))


def own(value):
    if isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"unsupported type {type(value)}")
    return value._values if isinstance(value, Array) else value


def operator(name):
    def method(self, *others):
        return Array(np.asarray(getattr(np.ndarray, name)(self._values, *map(own, others))))

    return method


OPERATORS = """add radd sub rsub mul rmul truediv rtruediv floordiv mod pow matmul rmatmul or and lt le gt ge eq ne neg
abs invert"""
for name in OPERATORS.split():
    setattr(Array, f"__{name}__", operator(f"__{name}__"))


class Library:
    """The functions of the standard that are asked for, on `Array` alone."""

    __name__ = "refusing"
    float32, float64, int8, int64 = map(np.dtype, ("float32", "float64", "int8", "int64"))
    isdtype = staticmethod(np.isdtype)

    class linalg:  # noqa: N801
        qr = staticmethod(lambda rows: [Array(factor) for factor in np.linalg.qr(own(rows))])

    finfo = staticmethod(np.finfo)

    def asarray(self, values, dtype=None, device=None):
        if not isinstance(values, Array):
            counts.into += 1
            values = Array(np.array(values, dtype=dtype))
        return values

    def zeros(self, shape, dtype=None, device=None):
        assert device == "the device"
        return Array(np.zeros(shape, dtype))

    def arange(self, start, stop=None, dtype=None, device=None):
        assert device in (None, "the device")
        return Array(np.arange(start, stop, dtype=dtype))

    def __getattr__(self, name):
        function = getattr(np, name)

        def wrapped(*arguments, **options):
            assert all(value != "cpu" for value in options.values())
            plain = [[own(a) for a in value] if isinstance(value, list) else own(value) for value in arguments]
            return Array(np.asarray(function(*plain, **options)))

        return wrapped


library = Library()


@concatenate_lookup.register(Array)
def concatenated(arrays, axis=0):
    """Dask's rechunk, of chunks of this library."""
    return library.concat(list(arrays), axis=axis)
