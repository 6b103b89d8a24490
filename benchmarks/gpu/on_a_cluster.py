"""Rounds and fits over a Dask cluster of one GPU, beside the same rows in this process."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import dist_dot_cluster
import numpy as np

from benchmarks.gpu.clock import Clock, Record, cases, normal
from benchmarks.harness import Times
from dist_dot import LogisticRegression, lay_out, losses
from dist_dot.kernels.passes import ValueAndGradient
from dist_dot.rounds.blocks import Blocks
from dist_dot.rows.block import cut

N, QUICK, P = 10_500_000, 2_000_000, 128
ROUNDS = 51


@dataclass(frozen=True)
class Chunk:
    """Make rows, or labels, of one block, on the card of whoever is asked."""

    rows: int
    labels: bool

    def __call__(self, number: int) -> Any:
        """Return X (rows, p), or y (rows,), the same each time."""
        import cupy

        X = normal(self.rows, P, "float32", number)
        return (X[:, 0] + X[:, 1] > cupy.abs(X[:, 2])).astype("float32") if self.labels else X


def measure(clock: Clock, quick: bool) -> Iterator[Record]:
    """Yield the records in process, then those on a cluster."""
    yield from cases(clock, [(both, {"n": QUICK if quick else N})])


def both(n: int) -> Iterator[Record]:
    """Yield a record of each place."""
    import cupy

    cuts = cut(n, P, "float32")
    sizes = [stop - start for start, stop in map(cuts.bounds, range(cuts.n_blocks))]
    X = cupy.concatenate([Chunk(rows, False)(number) for number, rows in enumerate(sizes)])
    y = cupy.concatenate([Chunk(rows, True)(number) for number, rows in enumerate(sizes)])
    here = one("this process", lay_out(X, y), X, y)
    yield {key: value for key, value in here.items() if key != "coef"}
    del X, y
    cupy.get_default_memory_pool().free_all_blocks()
    with opened() as (word, client):
        X, y = (collection(sizes, labels).persist() for labels in (False, True))
        there = one(word, lay_out(X, y), X, y)
        there["same_bits"] = there["coef"] == here["coef"]
        there["beyond_ms"] = there["round_ms"] - here["round_ms"]
        yield {key: value for key, value in there.items() if key != "coef"}


def one(where: str, blocks: Blocks, X: Any, y: Any) -> dict[str, Any]:
    """Return the median round beside the loop, and the seconds of the first and the second fit."""
    program = Times({"round": ValueAndGradient(losses.Logistic())}, np.full(P + 1, 0.01), ROUNDS)
    seconds = blocks.run(program, lambda progress: False)["round"]
    fits = []
    for _ in range(2):
        begin = perf_counter()
        model = LogisticRegression().fit(X, y)
        fits.append(perf_counter() - begin)
    return {
        "benchmark": "cluster",
        "where": where,
        "n": blocks.cuts.n_samples,
        "p": P,
        "dtype": "float32",
        "round_ms": median(seconds) * 1e3,
        "first_s": fits[0],
        "second_s": fits[1],
        "rounds": model.fit_.rounds,
        "seconds_per_round": model.fit_.seconds_per_round,
        "coef": model.coef_.tobytes(),
    }


def collection(sizes: list[int], labels: bool) -> Any:
    """Return X (n, p) or y (n,) as a Dask array of CuPy chunks, a chunk for each block."""
    import cupy
    import dask.array as da
    from dask import delayed

    shape = (0,) if labels else (0, P)
    parts = [
        da.from_delayed(
            delayed(Chunk(rows, labels))(number), (rows, *shape[1:]), meta=cupy.empty(shape, dtype="float32")
        )
        for number, rows in enumerate(sizes)
    ]
    return da.concatenate(parts)


@contextmanager
def opened() -> Iterator[tuple[str, Any]]:
    """Yield a word and a client: dask-cuda's cluster where it can be had, else one worker process."""
    with ExitStack() as stack:
        try:
            word, client = "cuda", stack.enter_context(dist_dot_cluster.open("cuda"))
        except dist_dot_cluster.ClusterWordError as error:
            print(error, file=sys.stderr)
            word, client = "local:1", stack.enter_context(dist_dot_cluster.open("local:1"))
        client.wait_for_workers(1, timeout=30)
        yield word, client
