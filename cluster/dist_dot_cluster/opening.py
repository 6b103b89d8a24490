"""From a word to a client: a branch for each kind of word."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client

from dist_dot_cluster.address import scheduler_at
from dist_dot_cluster.cuda import cuda_cluster
from dist_dot_cluster.errors import ClusterWordError
from dist_dot_cluster.kubernetes import existing_cluster, operator_cluster
from dist_dot_cluster.local import local_cluster
from dist_dot_cluster.manifests import Pods

WORDS = "'none', 'local', 'local:4', 'cuda', 'tcp://host:8786', 'tls://host:8786', 'kubernetes' or 'kubernetes:NAME'"

COUNT = re.compile("[0-9]{1,9}")


@contextmanager
def open(
    word: str,
    workers: int | None = None,
    threads: int = 1,
    *,
    security: Any = None,
    patience: float = 60.0,
    pods: Pods | None = None,
    namespace: str | None = None,
) -> Iterator[Client | None]:
    """Yield a client of the cluster that the word names; what the word has started is gone afterwards.

    - "none" is this process, without a cluster: it yields None.
    - "local" and "local:N" start worker processes on this machine with `threads` threads each: N, or `workers`, or as
      many as processors and memory are good for.
    - "cuda" starts one worker for each GPU of this machine, with the package dask-cuda.
    - "tcp://..." and "tls://..." are the address of a running scheduler, whoever has started it. It is waited for until
      it has `workers` workers, 1 where no number is given, up to `patience` seconds; 0 waits for none. security is
      Dask's `Security` for tls:// (see `certificates`); without, Dask's configuration has the certificates.
    - "kubernetes" has the Dask operator make a cluster of `pods`, and deletes it afterwards; "kubernetes:NAME" is a
      DaskCluster that exists. namespace is that of the kubeconfig where none is given.

    Raises ClusterWordError for another word, for a cluster that cannot be started, and for a scheduler that does not
    answer within 30 s, has no workers or refuses the certificates.
    """
    kind, _, rest = word.partition(":")
    if security is not None and kind not in ("tcp", "tls"):
        raise ClusterWordError(f"certificates are given, but the cluster {word!r} uses none: write tls://host:8786")
    if word == "none":
        yield None
    elif kind == "local":
        with local_cluster(_count(word, rest) or workers, threads) as client:
            yield client
    elif word == "cuda":
        with cuda_cluster() as client:
            yield client
    elif kind in ("tcp", "tls") and rest.startswith("//"):
        with scheduler_at(word, security, 1 if workers is None else workers, patience) as client:
            yield client
    elif word == "kubernetes":
        if pods is None:
            raise ClusterWordError("kubernetes needs pods: give their image, pods=dist_dot_cluster.Pods(image=...)")
        with operator_cluster(pods, namespace) as client:
            yield client
    elif kind == "kubernetes" and rest:
        with existing_cluster(rest, namespace) as client:
            yield client
    else:
        raise ClusterWordError(f"unknown cluster {word!r}: give {WORDS}")


def _count(word: str, rest: str) -> int | None:
    """Return the N of local:N."""
    if word == "local":
        return None
    if not (COUNT.fullmatch(rest) and int(rest) > 0):
        raise ClusterWordError(f"unknown cluster {word!r}: give {WORDS}")
    return int(rest)
