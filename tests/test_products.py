"""Inner products: their algebra, on arrays and Dask arrays, and the exact search."""

import array_api_strict
import dask
import dask.array as da
import numpy as np
import pytest
import refusing
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics.pairwise import cosine_similarity as reference

from dist_dot import DataError, cosine_similarity, dot, gram, inner, top_k
from dist_dot.errors import InputError
from dist_dot.rows.arrays import to_host

# scikit-learn takes rows shorter than some 1e-15 for rows of zeros in its cosines.
numbers = st.floats(-1e6, 1e6).map(lambda x: 0.0 if abs(x) < 1e-6 else x)
shapes = st.tuples(st.integers(1, 6), st.integers(1, 4))


def pairs(rows=None):
    """X and Y with the same columns; with the same rows too where `rows` is "same"."""

    def draw(shape):
        n, p = shape
        others = st.integers(1, 5) if rows is None else st.just(n)
        return st.tuples(
            arrays(float, (n, p), elements=numbers), others.flatmap(lambda m: arrays(float, (m, p), elements=numbers))
        )

    return shapes.flatmap(draw)


def chunked(array):
    return da.from_array(array, chunks=(2, *array.shape[1:]))


@given(pairs(), st.floats(-10, 10))
@settings(deadline=None)
def test_dot_is_symmetric_and_linear(both, factor):
    X, Y = both
    close = {"rtol": 1e-9, "atol": 1e-9 * (1 + np.abs(X).max()) * (1 + np.abs(Y).max())}
    np.testing.assert_allclose(dot(X, Y), np.einsum("ip,jp->ij", X, Y), **close)
    np.testing.assert_allclose(dot(X, Y), dot(Y, X).T, **close)
    np.testing.assert_allclose(dot(factor * X, Y), factor * dot(X, Y), **close)
    np.testing.assert_allclose(dot(np.vstack([X, X[::-1]]), Y), np.vstack([dot(X, Y), dot(X[::-1], Y)]), **close)
    np.testing.assert_allclose(dot(chunked(X), chunked(Y)).compute(), dot(X, Y), **close)


@given(pairs("same"), st.floats(-10, 10))
@settings(deadline=None)
def test_inner_is_symmetric_linear_and_obeys_cauchy_and_schwarz(both, factor):
    X, Y = both
    sizes = inner(X, X), inner(Y, Y)
    slack = 1e-9 * (1.0 + sum(sizes))
    assert inner(X, Y) == inner(Y, X)
    assert abs(inner(factor * X + Y, Y) - factor * inner(X, Y) - sizes[1]) <= 20 * slack
    assert min(sizes) >= 0
    assert inner(X, Y) ** 2 <= sizes[0] * sizes[1] * (1 + 1e-12)
    assert inner(np.abs(X), np.abs(Y)) >= 0
    assert abs(inner(chunked(X), Y).compute() - inner(X, Y)) <= slack
    assert np.isclose(inner(X, Y), np.trace(dot(X, Y)), rtol=1e-9, atol=slack)


@given(shapes.flatmap(lambda shape: arrays(float, shape, elements=numbers)))
@settings(deadline=None)
def test_gram_is_symmetric_and_positive_semi_definite(X):
    for G in (gram(X), gram(chunked(X)).compute()):
        np.testing.assert_array_equal(G, G.T)
        assert np.linalg.eigvalsh(G)[0] >= -1e-12 * np.trace(G)
        np.testing.assert_allclose(G, X.T @ X, rtol=1e-9, atol=1e-9 * (1 + np.abs(X).max() ** 2))
    assert (gram(np.abs(X)) >= 0).all()


@given(pairs())
@settings(deadline=None)
def test_cosines_are_those_of_scikit_learn_and_at_most_one(both):
    X, Y = both
    C = cosine_similarity(X, Y)
    assert (np.abs(C) <= 1 + 1e-12).all()
    np.testing.assert_allclose(C, reference(X, Y), atol=1e-9)
    np.testing.assert_allclose(cosine_similarity(chunked(X), Y).compute(), C, atol=1e-12)
    np.testing.assert_allclose(np.diag(cosine_similarity(X, X)), np.any(X != 0, axis=1), atol=1e-12)


def test_cosines_of_huge_and_tiny_rows():
    rows = np.array([[3e200, 4e200], [3e-300, 4e-300], [0.0, 0.0]])
    np.testing.assert_allclose(cosine_similarity(rows, rows), [[1, 1, 0], [1, 1, 0], [0, 0, 0]], atol=1e-15)


def test_nothing_is_computed_before_it_is_asked_for():
    def explode(block):
        raise AssertionError("computed")

    X = da.zeros((8, 3), chunks=(2, 3)).map_blocks(explode, dtype=float)
    for lazy in (dot(X, X), gram(X), inner(X, X), cosine_similarity(X, X), *top_k(X, np.ones((2, 3)), 2)):
        assert isinstance(lazy, da.Array)
    assert dot(X, X).chunks == ((2, 2, 2, 2),) * 2


def brute(X, queries, k):
    """Of equal scores the first row is better."""
    scores = queries @ X.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


# Whole numbers: their products are exact in float32, and many scores are equal.
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 7), (250, 50), (1000, 1), (1000, 50)])
@pytest.mark.parametrize("library", [np, array_api_strict, refusing.library])
def test_top_k_is_exact(n, k, dtype, library, monkeypatch):
    monkeypatch.setattr("dist_dot.products.search.BLOCK", 300)
    random = np.random.default_rng(n + k)
    X, queries = random.integers(-2, 3, (n, 6)).astype(dtype), random.integers(-2, 3, (4, 6)).astype(dtype)
    index, score = brute(X, queries, k)
    found = top_k(library.asarray(X), queries, k)
    np.testing.assert_array_equal(found.score, score)
    np.testing.assert_array_equal(found.index, index)
    if library is np:
        found = dask.compute(*top_k(da.from_array(X, chunks=(17, 3)), queries, k))
        np.testing.assert_array_equal(found[1], score)
        np.testing.assert_array_equal(found[0], index)


def test_top_k_by_cosine():
    random = np.random.default_rng(0)
    X, queries = random.standard_normal((500, 6)), random.standard_normal((3, 6))
    X[7] = 0.0
    index, score = top_k(X, 5.0 * queries, 10, metric="cosine")
    expected = reference(queries, X)
    np.testing.assert_array_equal(index, np.argsort(-expected, axis=1)[:, :10])
    np.testing.assert_allclose(score, -np.sort(-expected, axis=1)[:, :10])


def test_mistakes_are_named():
    X = np.ones((5, 3))
    X[4, 1] = np.nan
    for call, words in (
        (lambda: dot(X, np.ones((2, 4))), "X has 3 columns and Y has 4"),
        (lambda: dot(X, np.ones(3)), r"Y has shape \(3,\): expected rows"),
        (lambda: inner(X, X[:2]), "they have no inner product"),
        (lambda: top_k(X, np.ones((2, 4)), 1), r"expected \(n, p\) and \(q, p\)"),
        (lambda: top_k(X, np.ones((2, 3)), 1), "X is nan in column 1, row 4"),
        (lambda: top_k(np.ones((5, 3)), X, 1), "queries is nan in column 1, row 4"),
    ):
        with pytest.raises(DataError, match=words):
            call()
    with pytest.raises(InputError, match="k is 6: give a number from 1 to the 5 rows"):
        top_k(X, np.ones((2, 3)), 6)
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        top_k(X, np.ones((2, 3)), 1, metric="cosin")


def in_pieces(array):
    """A Dask array in chunks of rows and of columns."""
    return da.from_array(array, chunks=(15, 2))


NARROW = [np.bool_, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.float16, np.float32]


@pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("wrap", [np.asarray, in_pieces, array_api_strict.asarray], ids=["numpy", "dask", "strict"])
def test_products_of_narrow_numbers_do_not_overflow(dtype, wrap):
    # Numbers whose sums of products no integer of this dtype holds; each fits float64, and float32 to its rounding.
    kind = np.dtype(dtype)
    top = 1 if kind.kind == "b" else 200.0 if kind.kind == "f" else min(np.iinfo(kind).max, 2**20)
    bottom = 0 if kind.kind in "bu" else -top - 1
    random = np.random.default_rng(0)
    X, Y = (random.choice([bottom, top - 1, top], (40, 3)).astype(dtype) for _ in range(2))
    if wrap is array_api_strict.asarray and dtype is np.float16:
        pytest.skip("not a dtype of the standard")
    A, B = X.astype(np.longdouble), Y.astype(np.longdouble)
    lengths = [np.sqrt((rows**2).sum(axis=1)) for rows in (A, B)]
    result, close = (np.float32, 1e-5) if dtype is np.float32 else (np.float64, 1e-14)
    cosines = A @ B.T / np.where(lengths[0] > 0, lengths[0], 1)[:, None] / np.where(lengths[1] > 0, lengths[1], 1)
    for function, operands, expected in (
        (dot, (X, Y), A @ B.T),
        (gram, (X,), A.T @ A),
        (cosine_similarity, (X, Y), cosines),
        (inner, (X, Y), (A * B).sum()),
    ):
        found = function(*map(wrap, operands))
        found = np.asarray(to_host(dask.compute(found)[0]))
        assert found.dtype == (np.float64 if function is inner else result)
        np.testing.assert_allclose(found, expected.astype(float), rtol=close, atol=close * np.abs(expected).max())
    found = dask.compute(*top_k(wrap(X), Y[:2], 5))
    np.testing.assert_allclose(found[1], np.sort((B[:2] @ A.T).astype(float))[:, :-6:-1], rtol=close)


def test_inner_is_in_float64():
    x = np.full((1, 2), 3e38, np.float32)
    assert inner(x, x) == 2 * float(x[0, 0]) ** 2


@pytest.mark.parametrize("wrap", [np.asarray, chunked, array_api_strict.asarray, refusing.library.asarray])
@pytest.mark.parametrize("metric", ["dot", "cosine"])
def test_a_search_whose_scores_overflow_says_so(wrap, metric):
    # A score of the first row is beyond float32, and of the second one a part of the sum, which is 0.
    X = np.array([[3e38, 3e38], [3e38, -3e38], [1, 1]], np.float32)
    queries = np.array([[1.0, 2.0], [3e38, 3e38]])
    for rows, row in ((X[2:], None), (X[1:2], 0), (-X[:1], 0), (X, 0), (-X[[2, 2, 0]], 2)):
        if metric == "cosine":
            best = dask.compute(*top_k(wrap(rows), queries, len(rows), metric))
            assert sorted(best[0][0]) == list(range(len(rows))) and (np.abs(best[1]) < 1.000001).all()
        elif row is None:
            np.testing.assert_array_equal(dask.compute(*top_k(wrap(rows), queries[:1], 1))[1], [[3.0]])
        else:
            # Each of these rows has a score that overflows. Of chunks, Dask raises the first error that it meets.
            row = r"\d" if wrap is chunked else row
            with pytest.raises(DataError, match=rf"query [01] and row {row} of X overflows float32: use X.astype"):
                dask.compute(*top_k(wrap(rows), queries, 1))
    best = dask.compute(*top_k(wrap(X.astype(float)), queries, 3))
    np.testing.assert_array_equal(best[0], [[0, 2, 1], [0, 2, 1]])
    with pytest.raises(DataError, match="overflows float32"):
        dask.compute(*top_k(wrap(X[2:]), [[1e39, 1.0]], 1, metric))
    with pytest.raises(DataError, match="overflows float64: divide X"):
        dask.compute(*top_k(wrap(np.full((3, 2), 1e200)), [[1e200, 1.0]], 1))


def lying(array, chunks):
    """A Dask array whose chunks are not what it says they are."""
    return da.from_array(array, chunks=(-1, *array.shape[1:])).map_blocks(lambda x: x, dtype=float, chunks=chunks)


def test_chunks_of_another_shape_are_refused():
    X = np.random.default_rng(0).standard_normal((80, 3))
    for wrong in (((100,), (3,)), ((60,), (3,)), ((80,), (4,))):
        A = lying(X, wrong)
        n, p = A.shape
        for function in (
            lambda A=A: gram(A),
            lambda A=A, p=p: dot(A, np.ones((2, p))),
            lambda A=A, p=p: dot(np.ones((2, p)), A),
            lambda A=A, n=n, p=p: inner(A, np.ones((n, p))),
            lambda A=A, p=p: cosine_similarity(A, np.ones((2, p))),
            lambda A=A, p=p: top_k(A, np.ones((2, p)), 1).index,
        ):
            with pytest.raises(DataError, match=r"chunk \(0, 0\) of the Dask array [XY] has shape \(80, 3\), and its"):
                function().compute()


@pytest.mark.parametrize("wrap", [lambda X: X, chunked], ids=["numpy", "dask"])
def test_products_of_masked_values_are_refused(wrap):
    X = np.ma.array(np.ones((5, 3)))
    np.testing.assert_array_equal(dask.compute(gram(wrap(X)))[0], np.full((3, 3), 5.0))  # nothing is masked
    X[3, 1] = np.ma.masked
    Y = np.ones((5, 3))
    for function in (
        lambda: gram(wrap(X)),
        lambda: dot(wrap(X), Y),
        lambda: inner(Y, wrap(X)),
        lambda: cosine_similarity(Y, wrap(X)),
        lambda: top_k(wrap(X), Y, 1).index,
    ):
        with pytest.raises(DataError, match="[XY] is masked in column 1, row 3: fill or drop"):
            dask.compute(function())
    with pytest.raises(DataError, match="queries is masked in column 1, row 3"):
        top_k(Y, X, 1)


def test_what_is_no_number_is_refused():
    for wrong in (np.ones((2, 2)) * 1j, np.array([["a", "b"]] * 2), np.array([[None, 1], [2, 3]])):
        for wrap in (np.asarray, chunked):
            for function in (gram, lambda X: inner(X, X), lambda X: top_k(X, np.ones((1, 2)), 1)):
                with pytest.raises(DataError, match="X has dtype .*: expected numbers"):
                    function(wrap(wrong))
    with pytest.raises(DataError, match="queries has dtype complex128"):
        top_k(np.ones((2, 2)), np.ones((1, 2)) * 1j, 1)
    with pytest.raises(DataError, match="Y is a sparse csr_array: only dense Y"):
        dot(np.ones((2, 2)), scipy.sparse.csr_array(np.eye(2)))


@pytest.mark.parametrize("library", [array_api_strict, refusing.library])
def test_products_stay_in_their_library(library):
    random = np.random.default_rng(0)
    X, Y = random.standard_normal((5, 3)), random.standard_normal((5, 3))
    A, B = library.asarray(X), library.asarray(Y)
    for function, operands in ((dot, (A, B)), (gram, (A,)), (inner, (A, B)), (cosine_similarity, (A, B))):
        found = function(*operands)
        assert type(found) is type(A)
        np.testing.assert_allclose(to_host(found), function(*(X, Y)[: len(operands)]), rtol=1e-12)


@pytest.mark.parametrize("wrap", [np.asarray, lambda X: da.from_array(X, chunks=(6, 3)), array_api_strict.asarray])
def test_of_equal_scores_the_first_row_is_better(wrap):
    index, score = top_k(wrap(np.ones((20, 3))), np.ones((2, 3)), 5)
    np.testing.assert_array_equal(index, [[0, 1, 2, 3, 4]] * 2)
    np.testing.assert_array_equal(score, np.full((2, 5), 3.0))
