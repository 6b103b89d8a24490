"""The word kubernetes: a cluster that the Dask operator makes for as long as it is needed, or one that exists."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

from distributed import Client

from dist_dot_cluster.address import workers_of
from dist_dot_cluster.errors import KubernetesError
from dist_dot_cluster.manifests import DASK_COMPONENT, Manifest, Pods, dask_cluster, network_policy, owned_by, run_name
from dist_dot_cluster.namespace import Namespace

WAIT = 900.0  # seconds for the pods to run: a node may have to be started for them, and the image pulled
JOIN = 60.0  # seconds for workers that run to find the scheduler
LOOK = 0.2


@contextmanager
def operator_cluster(pods: Pods, namespace: str | None) -> Iterator[Client]:
    """Yield a client of a cluster that is made now and deleted afterwards, once all its workers are there.

    Raises KubernetesError for pods that do not come to run, with the reason that Kubernetes gives.
    """
    where = Namespace(namespace)
    name = run_name("dist-dot")
    owner = where.create(dask_cluster(name, pods))
    try:
        where.create(owned_by(owner, network_policy(name, pods)))
        where.wait_for(f"{pods.workers} workers of {name}", name, lambda found: _run(found, pods.workers), WAIT)
        with existing_cluster(name, where.name) as client:
            _wait_for_workers(client, pods.workers)
            yield client
    finally:
        where.delete("DaskCluster", name)
        where.wait_until_gone(name)


@contextmanager
def existing_cluster(name: str, namespace: str | None) -> Iterator[Client]:
    """Yield a client of a DaskCluster that exists, and stays. From outside, its ports are forwarded."""
    where = Namespace(namespace)
    if where.get("DaskCluster", name) is None:
        raise KubernetesError(f"there is no DaskCluster {name} in namespace {where.name}")
    from dask_kubernetes.operator import KubeCluster

    outside = "KUBERNETES_SERVICE_HOST" not in os.environ  # or names of Services are looked up for 10 s

    with (
        KubeCluster.from_name(name, namespace=where.name, port_forward_cluster_ip=outside, quiet=True) as found,
        Client(found) as client,
    ):
        yield client


def _run(pods: list[Manifest], workers: int) -> bool:
    """Return whether the scheduler and so many workers run."""
    ready = [pod["metadata"]["labels"].get(DASK_COMPONENT) for pod in pods if _is_ready(pod)]
    return "scheduler" in ready and ready.count("worker") >= workers


def _is_ready(pod: Manifest) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _wait_for_workers(client: Client, workers: int) -> None:
    deadline = monotonic() + JOIN
    while (there := len(workers_of(client))) < workers:
        if monotonic() > deadline:
            raise KubernetesError(f"{workers} worker pods run, but {there} have found the scheduler after {JOIN:.0f} s")
        sleep(LOOK)
