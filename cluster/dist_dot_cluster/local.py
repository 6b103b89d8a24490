"""A cluster of processes on this machine."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

import dask
from dask.system import CPU_COUNT
from dask.utils import format_bytes
from distributed import Client, LocalCluster, Status
from distributed.system import MEMORY_LIMIT
from tornado.ioloop import PeriodicCallback

from dist_dot_cluster.errors import ClusterWordError

GIB = 1 << 30
USUAL = GIB  # of memory for a worker, at least, where nobody says how many workers there are
SMALLEST = 400 << 20  # a worker that has loaded NumPy, numba and Dask takes half of it before it holds a row
LOOK = 1000.0  # milliseconds between two looks whether nannies are gone
# Dask's nanny has glibc give memory back at once. That also turns off the growth of its threshold for mmap, so that
# each temporary of a kernel above 128 KB is mapped, faulted in page by page, and unmapped. Without it, on 2 workers and
# 400,000 x 100 rows: exact by QR 0.13 s (0.22 s), Newton on the logistic loss 0.87 s (1.36 s), L-BFGS with 8 targets
# 7.4 s (8.4 s, of which 0.9 in the kernel of the system), gradient descent and softmax the same; as much memory held.
TRIM = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}


@contextmanager
def local_cluster(workers: int | None, threads: int = 1) -> Iterator[Client]:
    """Yield a client of `workers` processes with `threads` threads each; all of them are gone afterwards.

    Without a number, as many as the processors and the memory are good for. The scheduler lives in this process; its
    dashboard takes any free port. BLAS has one thread in each worker, which Dask's own nanny sees to. Raises
    ClusterWordError for more workers than the memory holds.
    """
    count, memory = sizes(workers, threads, CPU_COUNT, MEMORY_LIMIT)
    with dask.config.set(TRIM):
        cluster = deaf_to_interrupts(
            lambda: LocalCluster(
                n_workers=count,
                threads_per_worker=threads,
                memory_limit=memory,
                processes=True,
                dashboard_address=":0",
                silence_logs=50,
            )
        )
    with cluster, killed_on_interrupt(cluster), kept(cluster, TRIM), Client(cluster) as client:
        yield client


@contextmanager
def kept(cluster: LocalCluster, config: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """Start a new worker, with its nanny and this Dask configuration, for each one whose nanny is gone.

    A nanny replaces a worker that dies, but ends itself with one that exits or dies while it starts: where many die, in
    the end none is left.
    """

    async def look() -> None:
        for name, nanny in list(cluster.workers.items()):
            if nanny.status in (Status.closed, Status.failed):
                del cluster.workers[name]
        if cluster.status is Status.running and len(cluster.workers) < len(cluster.worker_spec):
            with dask.config.set(config), suppress(Exception):  # one that does not start is met at the next look
                await cluster

    looks = PeriodicCallback(look, LOOK)
    cluster.loop.add_callback(looks.start)
    try:
        yield
    finally:
        cluster.loop.add_callback(looks.stop)


def deaf_to_interrupts(start: Callable[[], LocalCluster]) -> LocalCluster:
    """Start a cluster whose processes do not hear Ctrl-C: it is for this process to say what becomes of them.

    A terminal, and the stop button of a notebook, send SIGINT to all processes of the group. Threads and processes
    inherit what is blocked from the thread that starts them, before they run a line of Python. Where this thread is
    interrupted meanwhile, the cluster is closed once it has started.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # the thread that starts this process has its signals unblocked by it

    def work() -> LocalCluster:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        return start()

    pool = ThreadPoolExecutor(1, "cluster-start")
    future = pool.submit(work)
    pool.shutdown(wait=False)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.add_done_callback(lambda done: None if done.exception() else done.result().close())
        raise


@contextmanager
def killed_on_interrupt(cluster: LocalCluster) -> Iterator[None]:
    """Kill the worker processes where this one is interrupted: they may be at work for long that nobody wants."""
    try:
        yield
    except KeyboardInterrupt:
        for nanny in cluster.workers.values():
            nanny.close_gracefully()  # it brings no other
            with suppress(ProcessLookupError):
                if nanny.pid:
                    os.kill(nanny.pid, signal.SIGKILL)
        raise


def sizes(workers: int | None, threads: int, processors: int, memory: int) -> tuple[int, int]:
    """Return how many workers there are, and the bytes of memory that each may use.

    A tenth of the memory, and at least 1 GiB where that is not more than half, is left to this process, which hosts
    the scheduler and the loop, and to the rest of the machine: Dask's own limits leave nothing.
    """
    room = memory - min(memory // 2, max(GIB, memory // 10))
    count = workers or max(1, min(processors // threads, room // USUAL))
    if workers and room // workers < SMALLEST:
        raise ClusterWordError(
            f"{workers} local workers would have {format_bytes(room // workers)} of memory each, and need "
            f"{format_bytes(SMALLEST)}: this machine holds {max(1, room // SMALLEST)} of them"
        )
    return count, room // count
