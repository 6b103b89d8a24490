"""What dist_dot asks of CuPy, on a CPU: arrays that refuse what CuPy refuses, and copies that take their time.

A copy from the host is done when somebody waits for it, and not before: whoever fills a buffer anew whose copy has not
been waited for copies the wrong rows.
"""

import ctypes
import sys
from collections import namedtuple
from threading import Lock
from types import ModuleType, SimpleNamespace

import array_api_compat
import numpy as np
import refusing

Flags = namedtuple("Flags", "c_contiguous")


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class Stream:
    """Copies in the order in which they were asked for, each once; none is done before somebody waits."""

    def __init__(self):
        self.queue, self.done, self.lock = [], 0, Lock()

    def synchronize(self, upto=None):
        with self.lock:
            upto = len(self.queue) if upto is None else upto
            for copy in self.queue[self.done : upto]:
                copy()
            self.done = max(self.done, upto)


def module(driver=13000, devices=1, free=1 << 30, pooled=0):
    """Return (cupy, cupyx, the namespace of its arrays): a machine with such a driver and such GPUs."""
    stream = Stream()

    class ndarray(refusing.Array):  # noqa: N801
        def __array_namespace__(self, api_version=None):
            return namespace

        @property
        def flags(self):
            return Flags(self._values.flags.c_contiguous)

        device = property(lambda self: SimpleNamespace(id=0))
        nbytes = property(lambda self: self._values.nbytes)

        @property
        def data(self):
            def copy_from_host_async(pointer, nbytes, on):
                assert isinstance(pointer, int) and nbytes == self._values.nbytes and on is stream
                target = self._values
                assert target.flags.c_contiguous
                on.queue.append(lambda: ctypes.memmove(target.ctypes.data, pointer, nbytes))

            return SimpleNamespace(copy_from_host_async=copy_from_host_async)

        def set(self, values):
            assert values.flags.c_contiguous and values.dtype == self.dtype
            self._values[...] = values

        def get(self):
            stream.synchronize()
            return self._values.copy()

        def __getitem__(self, key):  # a view, as there
            return wrap(np.asarray(self._values[key]))

    def wrap(array):
        array = array._values if isinstance(array, refusing.Array) else array
        result = ndarray(array)
        return result

    for name in refusing.OPERATORS.split():
        plain = getattr(refusing.Array, f"__{name}__")
        setattr(ndarray, f"__{name}__", lambda self, *others, plain=plain: wrap(plain(self, *others)))
    ndarray.T = property(lambda self: wrap(self._values.T))

    class Library(refusing.Library):
        __name__ = "cupy"

        class linalg:  # noqa: N801
            qr = staticmethod(lambda rows: [wrap(factor) for factor in np.linalg.qr(refusing.own(rows))])

        def asarray(self, values, dtype=None, device=None):
            return values if isinstance(values, ndarray) else wrap(np.array(values, dtype=dtype))

        def zeros(self, shape, dtype=None, device=None):
            return wrap(np.zeros(shape, dtype))

        def arange(self, start, stop=None, dtype=None, device=None):
            return wrap(np.arange(start, stop, dtype=dtype))

        def __getattr__(self, name):
            function = refusing.Library.__getattr__(self, name)
            return lambda *arguments, **options: wrap(function(*arguments, **options))

    namespace = Library()

    class Event:
        def __init__(self, disable_timing=False):
            self.upto = 0

        def record(self, on):
            self.upto = len(on.queue)

        def synchronize(self):
            stream.synchronize(self.upto)

    def empty(shape, dtype):
        if np.prod(shape) * np.dtype(dtype).itemsize > free:
            raise OutOfMemoryError
        return wrap(np.full(shape, np.nan, dtype))

    def device_count():
        if not devices or driver < 13000:
            name = "cudaErrorNoDevice" if driver >= 13000 else "cudaErrorInsufficientDriver"
            raise CUDARuntimeError(f"{name}: no CUDA-capable device is detected")
        return devices

    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=device_count,
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: 13000,
        memGetInfo=lambda: (free, 2 * free),
        getDevice=lambda: 0,
        getDeviceProperties=lambda number: {"name": b"NVIDIA H100", "uuid": b"0" * 16},
    )
    cupy, cupyx = ModuleType("cupy"), ModuleType("cupyx")
    cupy.__version__ = "14.2.0"
    cupy.ndarray, cupy.empty = ndarray, empty
    cupy.ascontiguousarray = lambda array: wrap(np.ascontiguousarray(array._values))
    cupy.from_dlpack = lambda tensor: wrap(tensor.memory)
    cupy.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: pooled)
    cupy.cuda = SimpleNamespace(
        runtime=runtime,
        Event=Event,
        get_current_stream=lambda: stream,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        Device=lambda number: refusing_context(),
    )
    cupyx.empty_pinned = lambda shape, dtype: np.empty(shape, dtype)
    cupy.asarray = namespace.asarray
    return cupy, cupyx, namespace


class refusing_context:  # noqa: N801
    def __enter__(self):
        return self

    def __exit__(self, *failure):
        return None


def install(monkeypatch, **machine):
    """Have this process find such a CuPy; return it."""
    from dist_dot.rows import settle

    cupy, cupyx, namespace = module(**machine)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", cupyx)
    monkeypatch.setattr(array_api_compat, "cupy", namespace, raising=False)
    settle._ferry.cache_clear()
    settle._name.cache_clear()
    return cupy
