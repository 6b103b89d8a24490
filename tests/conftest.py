import logging
import os
from collections.abc import Callable, Iterator

import dist_dot_cluster
import numpy as np
import pytest
from distributed import Client

# scikit-learn's check of array API inputs does not run without it; scipy reads it when it is imported.
os.environ["SCIPY_ARRAY_API"] = "1"


@pytest.fixture(scope="session")
def clients() -> Iterator[Callable[[int], Client]]:
    """Return a client of a local cluster with this many worker processes, started when first asked for."""
    open_clusters, started = [], {}

    def start(workers: int) -> Client:
        if workers not in started:
            opened = dist_dot_cluster.open("local", workers)
            started[workers] = opened.__enter__()
            open_clusters.append(opened)
        return started[workers]

    yield start
    for opened in reversed(open_clusters):
        opened.__exit__(None, None, None)


@pytest.fixture(scope="session")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """600 rows of 7 differently scaled, correlated columns: (X, y)."""
    random = np.random.default_rng(1)
    X = random.standard_normal((600, 7)) @ random.standard_normal((7, 7)) * 10.0 ** np.linspace(-1, 1, 7) + 1.0
    return X, X @ random.standard_normal(7) + random.standard_normal(600)


@pytest.fixture
def notices():
    """What the owner of a run is told. (LocalCluster silences the handlers of the root logger.)"""
    words = []
    handler = logging.Handler()
    handler.emit = lambda record: words.append(record.getMessage())
    for name in ("dist_dot", "dist_dot_cluster"):
        logging.getLogger(name).addHandler(handler)
    yield words
    for name in ("dist_dot", "dist_dot_cluster"):
        logging.getLogger(name).removeHandler(handler)
