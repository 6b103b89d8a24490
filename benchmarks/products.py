"""The search for the largest inner products, beside NumPy's argpartition. `python -m benchmarks.products`.

Both look at the same float32 rows, with as many threads as there are cores and one BLAS thread in each. Rows and
queries hold whole numbers, so that every score is exact and the two must agree to the last bit.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.exact import seconds
from benchmarks.harness import environment, save
from dist_dot import top_k
from dist_dot.typing import Array

ROWS = 16_384  # of NumPy's blocks: 4,096 and 65,536 were slower


def argpartition(X: Array, queries: Array, k: int) -> Array:
    """Return the k largest scores of each query, in order: plain NumPy, block by block."""

    def best(start: int) -> Array:
        scores = queries @ X[start : start + ROWS].T
        return np.take_along_axis(scores, np.argpartition(-scores, k, axis=1)[:, :k], axis=1)

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = np.concatenate(list(pool.map(best, range(0, len(X), ROWS))), axis=1)
    return -np.sort(-found, axis=1)[:, :k]


def measure(n: int, p: int, q: int, k: int, repeats: int) -> dict[str, Any]:
    """Return the record of one search."""
    random = np.random.default_rng(0)
    X, queries = (random.integers(-50, 51, (rows, p)).astype(np.float32) for rows in (n, q))
    taken = seconds(
        {"top_k": lambda: top_k(X, queries, k), "NumPy argpartition": lambda: argpartition(X, queries, k)}, repeats
    )
    exact = np.array_equal(top_k(X, queries, k).score, argpartition(X, queries, k))
    return {"benchmark": "top_k", "n": n, "p": p, "queries": q, "k": k, "seconds": taken, "exact": exact}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    record = measure(options.rows, 128, 1000, 10, options.repeats)
    print(record)
    print(save("products", [environment() | record]))


if __name__ == "__main__":
    main()
