"""A cluster of processes on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster


@contextmanager
def local_cluster(workers: int, threads: int = 1) -> Iterator[Client]:
    """Yield a client of `workers` processes with `threads` threads each; both are gone afterwards.

    The scheduler lives in this process; its dashboard takes any free port.
    """
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=True,
            dashboard_address=":0",
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
