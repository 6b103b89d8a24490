"""From a word to a client: one branch for each kind of word."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client
from distributed.utils import silence_logging_cmgr

from cluster.errors import ClusterWordError
from cluster.local import local_cluster

WORDS = "'none', 'local', 'local:4', 'tcp://host:8786' or 'tls://host:8786'"
TIMEOUT = 30.0


@contextmanager
def open(word: str, workers: int | None = None, threads: int = 1) -> Iterator[Client | None]:
    """Yield a client of the cluster that the word names; what the word has started is gone afterwards.

    "none" is this process, without a cluster: it yields None. "local" and "local:N" start N worker processes on this
    machine, `workers` or one per processor where no N is given, with `threads` threads each. An address is that of a
    running scheduler; workers and threads are then its own affair. Raises ClusterWordError for another word, and for a
    scheduler that does not answer within 30 s.
    """
    kind, _, rest = word.partition(":")
    if word == "none":
        yield None
    elif kind == "local":
        with local_cluster(_count(word, rest, workers), threads) as client:
            yield client
    elif kind in ("tcp", "tls") and rest.startswith("//"):
        with silence_logging_cmgr(logging.CRITICAL):  # what goes wrong is raised here; Dask logs stack traces too
            try:
                client = Client(word, timeout=TIMEOUT)
            except (OSError, ValueError) as error:
                raise ClusterWordError(f"no Dask scheduler answers at {word}: {error}") from error
            with client:
                yield client
    else:
        raise ClusterWordError(f"unknown cluster {word!r}: give {WORDS}")


def _count(word: str, rest: str, workers: int | None) -> int:
    if rest and not (rest.isdigit() and int(rest) > 0):
        raise ClusterWordError(f"unknown cluster {word!r}: give {WORDS}")
    return int(rest) if rest else workers or len(os.sched_getaffinity(0))
