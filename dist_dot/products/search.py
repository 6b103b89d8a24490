"""The rows with the largest inner products: exact, by looking at every row once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numba import njit

from dist_dot import checks
from dist_dot.errors import DataError, InputError, suggestion
from dist_dot.kernels.blas import one_blas_thread
from dist_dot.products.pairs import directions
from dist_dot.rounds.layout import check_finite
from dist_dot.rows.arrays import cast, is_lazy, is_other, namespace, to_host
from dist_dot.rows.inputs import as_array, check_collection, float_dtype, n_rows
from dist_dot.typing import Array

# Scores of a tile of rows: they stay in the L2 cache for the search. At least ROWS rows, whatever the queries.
TILE, ROWS = 1 << 20, 64
BLOCK = 1 << 16  # rows that one thread looks at before it takes others
FAN_IN = 16  # results that are merged at a time


class Best(NamedTuple):
    """For each of q queries the numbers of the k best rows and their scores, both (q, k), best first."""

    index: Any
    score: Any


def top_k(X: Any, queries: Any, k: int, metric: Literal["dot", "cosine"] = "dot") -> Best:
    """Return the k rows of X (n, p) with the largest inner products with each of the queries (q, p), or cosines.

    Of equal scores the first row counts as better. Scores are those of X's own precision. NumPy rows are searched now,
    by all threads that this process may use; of a Dask array the result is two Dask arrays that are not computed yet,
    one task per block. A block needs memory for q k results and a tile of scores, whatever its size.

    Cost: reads X once; n q p multiplications. Raises DataError for shapes that do not match, for NaN, infinity and
    masked values, with row and column, and for an inner product that X's precision cannot hold; InputError for k and
    for another metric.
    """
    if metric not in ("dot", "cosine"):
        raise InputError(f"unknown metric {metric!r}: {suggestion(metric, ('dot', 'cosine'))}")
    if is_lazy(X):
        check_collection("X", X)
        n_rows(X)  # before each chunk is asked whether it has as many as its array says
    X, queries = as_array("X", X), np.asarray(as_array("queries", to_host(queries)))
    if queries.ndim != 2 or X.ndim != 2 or X.shape[1] != queries.shape[1]:
        raise DataError(f"X has shape {X.shape} and queries have shape {queries.shape}: expected (n, p) and (q, p)")
    if not checks.whole("k", k, 1) <= n_rows(X):
        raise InputError(f"k is {k!r}: give a number from 1 to the {n_rows(X)} rows of X")
    float_dtype(queries, "queries")
    check_finite("queries", queries, 0)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows here is found in the scores
        queries = queries.astype(float_dtype(X))
        queries = directions(queries) if metric == "cosine" else queries
    search = partial(_search, queries=queries, k=k, metric=metric)
    if is_lazy(X):
        return _lazily(X, search, len(queries), k)
    starts = range(0, X.shape[0], BLOCK)
    if is_other(X):
        return _merge([search(X[start : min(start + BLOCK, X.shape[0]), :], start) for start in starts])
    with one_blas_thread(), ThreadPoolExecutor(thread_name_prefix="dist-dot-search") as pool:
        return _merge(list(pool.map(lambda start: search(X[start : start + BLOCK], start), starts)))


def _lazily(X: Any, search: Any, q: int, k: int) -> Best:
    """Search each block in a task, and merge the results in a tree."""
    import dask.array as da
    from dask import delayed

    X = X.rechunk({1: -1})
    starts = np.cumsum([0, *X.chunks[0][:-1]]).tolist()
    find, merge = delayed(search), delayed(_merge)
    parts = [find(block, start) for block, start in zip(X.to_delayed().ravel(), starts, strict=True)]
    while len(parts) > 1:
        parts = [merge(parts[at : at + FAN_IN]) for at in range(0, len(parts), FAN_IN)]
    kinds = (np.dtype(np.int64), np.dtype(float_dtype(X)))
    return Best(*(da.from_delayed(parts[0][at], (q, k), dtype=kind) for at, kind in enumerate(kinds)))


def _search(block: Any, start: int, *, queries: Array, k: int, metric: str) -> Best:
    """Return the best rows of one block; where it has fewer than k, the rest are number -1 with the score -inf."""
    dtype = float_dtype(block)
    block = cast(block, dtype)
    q, large = len(queries), _may_overflow(block, queries)
    if large:
        check_finite("X", block, start)
    rows = max(ROWS, TILE // max(1, q * queries.itemsize))
    index, score = np.full((q, k), -1), np.full((q, k), -np.inf, dtype)
    asked = cast(queries, dtype, block)
    for at in range(0, block.shape[0], rows):
        tile = block[at : min(at + rows, block.shape[0]), :]
        with np.errstate(over="ignore", invalid="ignore"):
            scores = asked @ (directions(tile) if metric == "cosine" else tile).T
        if large:
            _check_scores(scores, start + at)
        if is_other(block):
            index, score = _merge([Best(index, score), _best(scores, start + at, k)])
        else:
            _insert(scores, start + at, index, score)
    return Best(index, score)


def _may_overflow(block: Any, queries: Array) -> bool:
    """Whether an inner product may be too large for its dtype. False also says that the block is finite.

    No sum of products, nor a part of it, is larger than the norm of the query times that of all rows together. This
    norm is read faster than each score could be looked at.
    """
    if is_other(block):
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        largest = np.linalg.norm(queries.astype(np.float64), axis=1).max(initial=0.0)
        return not float(np.linalg.norm(block)) * float(largest) < float(np.finfo(block.dtype).max) / 2


def _check_scores(scores: Any, start: int) -> None:
    """Raise DataError for a score that its dtype cannot hold."""
    xp = namespace(scores)
    if not bool(xp.all(xp.isfinite(scores))):
        query, row = np.argwhere(~to_host(xp.isfinite(scores)))[0]
        dtype = float_dtype(scores)
        advice = "use X.astype('float64')" if dtype == "float32" else "divide X or the queries by their size"
        raise DataError(f"the inner product of query {query} and row {start + row} of X overflows {dtype}: {advice}")


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _insert(scores: Array, start: int, index: Array, score: Array) -> None:
    """Put scores (q, m) of the rows from start among the best so far, which are sorted: few of them get in."""
    k = score.shape[1]
    for i in range(scores.shape[0]):
        least = score[i, k - 1]
        for j in range(scores.shape[1]):
            found = scores[i, j]
            if found > least:
                place = k - 1
                while place > 0 and found > score[i, place - 1]:
                    score[i, place] = score[i, place - 1]
                    index[i, place] = index[i, place - 1]
                    place -= 1
                score[i, place] = found
                index[i, place] = start + j
                least = score[i, k - 1]


def _best(scores: Any, start: int, k: int) -> Best:
    """Return the best of scores (q, m) of another library, on the host."""
    xp = namespace(scores)
    order = xp.argsort(-scores, axis=1, stable=True)[:, : min(k, scores.shape[1])]
    return Best(to_host(order) + start, to_host(xp.take_along_axis(scores, order, axis=1)))


def _merge(parts: Sequence[Best]) -> Best:
    """Return the best k of several results."""
    index, score = (np.concatenate([part[at] for part in parts], axis=1) for at in (0, 1))
    k = max(part[0].shape[1] for part in parts)
    order = np.lexsort((index, -score), axis=1)[:, :k]
    return Best(np.take_along_axis(index, order, axis=1), np.take_along_axis(score, order, axis=1))
