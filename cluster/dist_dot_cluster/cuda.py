"""A cluster of this machine's GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client

from dist_dot_cluster.errors import ClusterWordError
from dist_dot_cluster.local import deaf_to_interrupts, kept, killed_on_interrupt


@contextmanager
def cuda_cluster() -> Iterator[Client]:
    """Yield a client of one worker process per GPU of this machine; all of them are gone afterwards.

    Raises ClusterWordError where dask-cuda or a GPU is missing.
    """
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise ClusterWordError(
            f"the cluster 'cuda' needs dask-cuda ({error}): pip install 'dask-cuda[cu12]', or [cu13]"
        ) from error
    try:
        cluster = deaf_to_interrupts(lambda: LocalCUDACluster(dashboard_address=":0", silence_logs=50))
    except Exception as error:  # of NVML, of CUDA, or a ValueError about devices: dask-cuda raises what it meets
        raise ClusterWordError(
            f"the cluster 'cuda' finds no GPU to work on ({type(error).__name__}: {error}): nvidia-smi lists those "
            "there are; 'local' uses the processors"
        ) from error
    with cluster, killed_on_interrupt(cluster), kept(cluster), Client(cluster) as client:
        yield client
