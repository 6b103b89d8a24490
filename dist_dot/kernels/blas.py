"""BLAS keeps to one thread while anybody here computes: what it returns depends on how many it takes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from threadpoolctl import LibController, ThreadpoolController


class _Limit:
    """The limit of this process, which the first holder sets and the last one lifts, in whatever threads they are."""

    def __init__(self) -> None:
        self._lock, self._holders, self._modules = Lock(), 0, 0
        self._libraries: list[LibController] = []
        self._before: list[tuple[LibController, int]] = []

    def hold(self) -> None:
        with self._lock:
            if self._holders == 0:
                known = ((library, library.num_threads) for library in self._loaded())
                self._before = [(library, threads) for library, threads in known if threads is not None]
                for library, _ in self._before:
                    _own(library)
                    library.set_num_threads(1)
            self._holders += 1

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                for library, threads in self._before:
                    _own(library)
                    library.set_num_threads(threads)
                    _own(library)

    def _loaded(self) -> list[LibController]:
        """Return the BLAS libraries that are loaded. To look for them takes 2 ms, to limit them some 10 us."""
        import scipy.linalg  # noqa: F401  # it brings a BLAS of its own, which no limit reaches that was set before

        if len(sys.modules) != self._modules:  # a library comes with a module
            self._modules = len(sys.modules)
            self._libraries = [each for each in ThreadpoolController().lib_controllers if each.user_api == "blas"]
        return self._libraries


def _own(library: LibController) -> None:
    """Let this thread set the limit: threadpoolctl 3.8 ignores all threads but the first one that has set one."""
    clear = getattr(library, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


_limit = _Limit()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS at one thread, in the whole process, until the last of all that hold it has left.

    The number of threads is a setting of the process. Two fits that overlap and each put back what they found would
    leave the second with the threads of before, and the process with one.
    """
    _limit.hold()
    try:
        yield
    finally:
        _limit.release()
