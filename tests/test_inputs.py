"""What callers hand in is what it says, or is refused by name: chunks, shapes, masks, labels, array libraries."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import array_api_strict
import dask
import dask.array as da
import fake_cupy
import numpy as np
import pytest
import refusing
import scipy.sparse
from dask import delayed
from problems import dense_block
from sklearn.base import clone

from dist_dot import (
    DataError,
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    Ridge,
    RidgeCV,
    lay_out,
    losses,
)
from dist_dot.errors import InputError
from dist_dot.kernels.device import labels as device_labels
from dist_dot.kernels.passes import Curvature, HessianProduct, ValueAndGradient
from dist_dot.linear_model import labels as host_labels
from dist_dot.linear_model.labels import classes_of, encoded, most_classes
from dist_dot.rounds.layout import make_block, memory
from dist_dot.rows.arrays import Parameters, to_host
from dist_dot.rows.block import cut

# The arrays of these tests travel inside their graph, which is what Dask warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Sending large graph")

N, P = 300, 6


def rows_of(seed=0):
    """X (300, 6), the labels of three classes, counts, and weights."""
    random = np.random.default_rng(seed)
    X = random.standard_normal((N, P))
    return X, np.argmax(X[:, :3] + random.gumbel(size=(N, 3)), axis=1), random.uniform(0.5, 2, N)


def chunked(array, rows=77):
    return da.from_array(array, chunks=(rows, *array.shape[1:]))


def lying(array, chunks):
    """A Dask array with other chunks than it says: the true ones are of 100 rows."""
    return chunked(array, 100).map_blocks(lambda chunk: chunk, dtype=array.dtype, chunks=chunks)


# Fewer rows than there are, more, as many in other chunks, a column less and a column more.
LIES = [((50,) * 3, (P,)), ((120,) * 3, (P,)), ((90, 100, 110), (P,)), ((100,) * 3, (P - 1,)), ((100,) * 3, (P + 1,))]


@pytest.mark.parametrize(
    ("chunks", "block_rows", "workers"),
    [(chunks, block_rows, 0) for chunks in LIES for block_rows in ("auto", 64, 100)] + [(LIES[0], 64, 2)],
)
def test_chunks_of_another_shape_are_refused(clients, chunks, block_rows, workers):
    X, y, weight = rows_of()
    n = sum(chunks[0])
    with clients(workers).as_current() if workers else nullcontext():
        with pytest.raises(
            DataError, match=r"^chunk .* of the Dask array X has shape \(100, 6\), and its chunks say \("
        ):
            lay_out(lying(X, chunks), np.ones(n), block_rows=block_rows)
        if chunks[1] == (P,):
            ones = da.ones((n, P))
            for name, arrays in (
                ("y", (lying(y, chunks[:1]), None)),
                ("sample_weight", (da.ones(n), lying(weight, chunks[:1]))),
            ):
                with pytest.raises(
                    DataError, match=rf"of the Dask array {name} has shape \(100,\), and its chunks say"
                ):
                    lay_out(ones, *arrays, block_rows=block_rows)


@pytest.mark.parametrize(
    "model", [Ridge(), LogisticRegression(class_weight="balanced"), PoissonRegressor(), RidgeCV(cv=3)]
)
def test_estimators_refuse_such_chunks_too(model):
    X, y, weight = rows_of()
    chunks = ((90, 100, 110),)
    for at in range(3):
        arrays = [chunked(X), chunked(y), chunked(weight)]
        arrays[at] = lying(arrays[at].compute(), chunks if at else (*chunks, (P,)))
        with pytest.raises(DataError, match=f"of the Dask array {('X', 'y', 'sample_weight')[at]} has shape"):
            clone(model).fit(*arrays)
    clone(model).fit(chunked(X), chunked(y), chunked(weight))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((15, 3), (16,), (16,)), r"X has shape \(15, 3\) in block 2, which is cut as \(16, 3\)"),
        (((17, 3), (16,), (16,)), r"X has shape \(17, 3\)"),
        (((16, 2), (16,), (16,)), r"X has shape \(16, 2\)"),
        (((16, 3), (8,), (16,)), r"y has shape \(8,\) in block 2, which is cut as \(16,\)"),
        (((16, 3), (16, 2), (16,)), r"y has shape \(16, 2\)"),
        (((16, 3), (1,), (16,)), r"y has shape \(1,\)"),
        (((16, 3), (16,), (1,)), r"sample_weight has shape \(1,\)"),
        (((16, 3), (16,), (16, 1)), r"sample_weight has shape \(16, 1\)"),
    ],
)
@pytest.mark.parametrize("library", [np, array_api_strict, refusing.library])
def test_a_block_is_what_its_cuts_say(shapes, words, library):
    X, y, weight = (library.asarray(np.ones(shape)) for shape in shapes)
    with pytest.raises(DataError, match=words):
        make_block(X, y, cut(48, 3, "float64", 16), 2, {"sample_weight": weight})


def test_the_last_block_is_shorter():
    cuts = cut(40, 3, "float64", 16, n_targets=2, offset=True)
    assert len(make_block(np.ones((8, 3)), np.ones((8, 2)), cuts, 2, {"offset": np.ones(8)})) == 8
    with pytest.raises(DataError, match=r"X has shape \(16, 3\) in block 2, which is cut as \(8, 3\)"):
        make_block(np.ones((16, 3)), np.ones((16, 2)), cuts, 2, {"offset": np.ones(16)})
    with pytest.raises(DataError, match="block 2 has no offset, and its cuts say that it has one"):
        make_block(np.ones((8, 3)), np.ones((8, 2)), cuts, 2)
    with pytest.raises(InputError, match="a block has no column 'weight': .*sample_weight"):
        make_block(np.ones((8, 3)), np.ones((8, 2)), cuts, 2, {"weight": np.ones(8)})
    for fold in (-1.0, 0.5):
        with pytest.raises(DataError, match=f"fold is {fold} in row 3: folds are whole numbers from 0"):
            lay_out(np.ones((8, 3)), np.ones(8), fold=np.array([0.0, 1.0, 2.0, fold, 0.0, 0.0, 0.0, 0.0]))


MODELS = [
    Ridge(),
    LinearRegression(),
    RidgeCV(cv=3),
    LogisticRegression(),
    LogisticRegressionCV(2, cv=3),
    PoissonRegressor(),
    GammaRegressor(),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("wrap", [lambda array: array, chunked], ids=["numpy", "dask"])
def test_masked_values_are_named(model, wrap):
    X, y, weight = (np.ma.array(array) for array in rows_of())
    y = y + 1
    fitted = clone(model).fit(*map(wrap, (X, y, weight)))  # nothing is masked
    expected = clone(model).fit(*(wrap(np.asarray(array)) for array in (X, y, weight)))
    np.testing.assert_array_equal(fitted.coef_, expected.coef_)
    for at, name in enumerate(("X", "y", "sample_weight")):
        arrays = [array.copy() for array in (X, y, weight)]
        arrays[at][(201, 4) if at == 0 else 201] = np.ma.masked
        words = f"{name} is masked in {'column 4, ' if at == 0 else ''}row 201"
        for function in (clone(model).fit, expected.score):
            with pytest.raises(DataError, match=words):
                function(*map(wrap, arrays))
    with pytest.raises(DataError, match="X is masked in column 4, row 201"):
        X[201, 4] = np.ma.masked
        dask.compute(expected.predict(wrap(X)))


@pytest.mark.parametrize("wrap", [lambda array: array, chunked], ids=["numpy", "dask"])
def test_what_is_no_number_is_refused(wrap):
    X, y, _ = rows_of()
    for wrong in (y * 1j, y.astype(str), y.astype("M8[s]")):
        with pytest.raises(DataError, match="y has dtype .*: expected numbers"):
            lay_out(wrap(X), wrap(wrong))
        with pytest.raises(DataError, match="sample_weight has dtype .*: expected numbers"):
            lay_out(wrap(X), wrap(y), wrap(wrong))
        with pytest.raises(DataError, match="X has dtype .*: expected numbers"):
            lay_out(wrap(wrong[:, None]), wrap(y))
    with pytest.raises(DataError, match="y has dtype complex128: expected numbers"):  # which says that it is float64
        lay_out(X, chunked(y).map_blocks(lambda chunk: chunk * 1j, dtype=float))


def test_sparse_chunks_are_named():
    X = chunked(np.eye(N)).map_blocks(scipy.sparse.csr_array, dtype=float)
    with pytest.raises(DataError, match="X is a sparse csr_array: only dense X"):
        lay_out(X, np.ones(N))


@pytest.mark.parametrize("wrap", [chunked, refusing.library.asarray], ids=["dask", "refusing"])
class TestTargetsThatScikitLearnRefuses:
    """What NumPy input gets from scikit-learn's checks, other input gets too."""

    @pytest.mark.parametrize("model", [LogisticRegression(), LogisticRegressionCV(2)])
    def test_one_hot_columns(self, model, wrap):
        X, y, _ = rows_of()
        with pytest.raises(DataError, match=r"y has shape \(300, 3\): expected .* label per row; of one-hot columns"):
            clone(model).fit(wrap(X), wrap(np.eye(3)[y]))

    @pytest.mark.parametrize("model", [PoissonRegressor(), GammaRegressor()])
    def test_several_targets_of_one(self, model, wrap):
        X, y, _ = rows_of()
        y = np.column_stack([y, y]) + 1.0
        with pytest.raises(DataError, match=r"y has shape \(300, 2\): expected \(n_samples,\), one number per row"):
            clone(model).fit(wrap(X), wrap(y))
        fitted = clone(model).fit(wrap(X), wrap(y[:, :1]))  # one column is one target
        assert fitted.predict(X).shape == (N,)
        with pytest.raises(DataError, match="one number per row"):
            fitted.score(wrap(X), wrap(y))

    @pytest.mark.parametrize("wrong", [0.5, np.nan, np.inf])
    def test_labels_that_are_none(self, wrong, wrap):
        X, y, _ = rows_of()
        y = y.astype(float)
        model = LogisticRegression().fit(X, y)
        y[57] = wrong
        with pytest.raises(DataError, match=f"y is {wrong} in row 57: .*label"):
            LogisticRegression().fit(wrap(X), wrap(y))
        if np.isnan(wrong):
            with pytest.raises(DataError, match="y is nan in row 57: a label is missing"):
                model.score(wrap(X), wrap(y))

    def test_targets_of_regressors(self, wrap):
        X, y, _ = rows_of()
        y = y.astype(float)
        y[57] = np.nan
        for model in (Ridge(), PoissonRegressor()):
            with pytest.raises(DataError, match="y is nan, row 57"):
                model.fit(wrap(X), wrap(y))
        with pytest.raises(InputError, match="y has 2 targets: the model was fitted to 1"):
            Ridge().fit(X, X[:, 0]).score(wrap(X), wrap(X[:, :2]))


@pytest.mark.parametrize(
    ("label", "words"),
    [(None, "y is None in row 123: a label is missing"), (np.nan, "y is nan in row 123"), (7, "several kinds")],
)
def test_words_among_which_is_none(label, words):
    X, y, _ = rows_of()
    y = np.array(["a", "b", "c"], object)[y]
    assert LogisticRegression().fit(chunked(X), chunked(y)).classes_.tolist() == ["a", "b", "c"]
    y[123] = label
    with pytest.raises(DataError, match=words):
        LogisticRegression().fit(chunked(X), chunked(y))


def test_labels_of_any_kind_have_the_classes_that_they_have_here():
    X, y, weight = rows_of()
    expected = LogisticRegression().fit(X, y, weight)
    for kind in (np.int8, np.uint64, np.float32, str, "M8[s]", object):
        y_kind = y.astype(kind)
        for labels in (chunked(y_kind), chunked(y_kind)[:, None], chunked(y_kind, 17)):
            model = LogisticRegression().fit(chunked(X), labels, chunked(weight))
            np.testing.assert_array_equal(model.classes_, np.unique(y_kind))
            np.testing.assert_array_equal(model.coef_, expected.coef_)


def another(chunk):
    return chunk + np.random.default_rng().integers(2**40)


def test_labels_that_change_from_look_to_look_are_refused():
    X, y, _ = rows_of()
    with pytest.raises(DataError, match="y gives other rows each time"):
        LogisticRegression().fit(chunked(X), chunked(y, N).map_blocks(another, dtype=int, meta=np.empty(0, int)))


class Workers:
    """A client of some workers."""

    status = "running"

    def scheduler_info(self, n_workers):
        assert n_workers == -1  # all of them
        limits = {"a": 2 << 30, "b": 1 << 30, "c": 0}  # 0 is no limit
        return {"workers": {name: {"memory_limit": limit, "nthreads": 4} for name, limit in limits.items()}}


def test_more_classes_than_the_memory_holds_are_refused(monkeypatch):
    # A class has 8 (p + 1) bytes, in the smallest worker some hundred arrays of them.
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 8 << 30)
    monkeypatch.setattr("dist_dot.rounds.layout.client_in_force", Workers)
    assert memory(True) == (1 << 30, 4) and memory(False)[0] == 8 << 30
    most = most_classes(99, 1, 1 << 30, 4)
    assert 2**30 / (8 * 100) / 150 < most < 2**30 / (8 * 100) / 70
    assert most_classes(99, 50, 1 << 30, 4) == pytest.approx(most / 50, abs=1)
    X, y = np.ones((5000, 10)), np.arange(5000) // 3
    monkeypatch.setattr("dist_dot.rounds.layout.client_in_force", lambda: None)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 10 << 20)
    monkeypatch.setattr("dist_dot.linear_model.labels.FEW", 1000)
    for wrap in (np.asarray, lambda array: chunked(array, 1700)):
        with pytest.raises(InputError, match=r"y has .* classes or more, and the memory holds a model of [\d,]+:"):
            LogisticRegression().fit(wrap(X), wrap(y))
        with pytest.raises(InputError, match="memory holds a model of"):
            LogisticRegressionCV(10, cv=5).fit(wrap(X), wrap(y // 10))


@pytest.fixture
def on_a_card(monkeypatch):
    """Labels -> such ones on a card, by kernels that are stood in for; and the labels that came to the host."""
    cupy, crossed = fake_cupy.install(monkeypatch), []

    def find(y):
        whole = y._values.dtype.kind != "f" or np.all(y._values == np.floor(y._values))
        return np.unique(y._values) if whole else None

    def encode(y, classes):
        places = np.minimum(np.searchsorted(classes, y._values), classes.size - 1)
        codes = np.where(classes[places] == y._values, places, classes.size)
        return cupy.asarray(codes.astype(np.float32))

    def cross(array):
        crossed.append(array.shape[0])
        return to_host(array)

    monkeypatch.setattr(device_labels, "classes_of", find)
    monkeypatch.setattr(device_labels, "codes_of", encode)
    monkeypatch.setattr(host_labels, "to_host", cross)
    return cupy.asarray, crossed


@pytest.mark.parametrize("lazy", [False, True], ids=["plain", "dask"])
def test_labels_on_a_card_stay_there_and_get_the_checks_of_those_of_the_host(on_a_card, monkeypatch, lazy):
    asarray, crossed = on_a_card
    monkeypatch.setattr(dask.base, "get_scheduler", lambda **kwargs: dask.get)  # here, whatever cluster is in force

    def wrap(y):
        make = delayed(asarray, pure=False)
        parts = [da.from_delayed(make(part), part.shape, part.dtype) for part in np.split(y, [77, 200])]
        return da.concatenate(parts) if lazy else asarray(y)

    def computed(codes):
        parts = dask.compute(*codes.to_delayed().ravel()) if lazy else [codes]
        assert all(type(part) is type(asarray(np.ones(1))) for part in parts)
        return np.concatenate([part._values for part in parts])

    codes = rows_of()[1]
    for names in (np.array([3, 5, 9]), np.array([-1.0, 0.0, 4.0]), np.array([3, 5, 9], np.int8)):
        y = names[codes]
        for labels in (wrap(y), wrap(y[:, None])):
            classes = classes_of(labels, P)
            np.testing.assert_array_equal(classes, names, strict=True)
            np.testing.assert_array_equal(computed(encoded(labels, classes, known=True)), codes)
        y[157] = 100
        assert computed(encoded(wrap(y), classes))[157] == 3
        assert not crossed
        with pytest.raises(DataError, match=f"y is {y[157]} in row 157: it was not there when the classes were looked"):
            computed(encoded(wrap(y), classes, known=True))
        assert crossed == [123 if lazy else N]  # the rows of its chunk, to say which one it is
        crossed.clear()
    for wrong, words in ((np.nan, "a label is missing"), (0.5, "labels are words or whole numbers")):
        y = codes.astype(float)
        y[157] = wrong
        with pytest.raises(DataError, match=f"y is {wrong} in row 157: {words}"):
            classes_of(wrap(y), P)
    y[157] = np.nan
    with pytest.raises(DataError, match="y is nan in row 157: a label is missing"):
        computed(encoded(wrap(y), np.arange(3.0)))
    monkeypatch.setattr("dist_dot.rounds.layout.client_in_force", lambda: None)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 10 << 20)
    monkeypatch.setattr("dist_dot.linear_model.labels.FEW", 1000)
    with pytest.raises(InputError, match="memory holds a model of"):
        classes_of(wrap(np.arange(N)), 10_000)


@dataclass(frozen=True)
class Watched(losses.Softmax):
    """Softmax that tells how large the arrays are that it makes."""

    sizes: ClassVar[list[int]] = []

    def value(self, y, z):
        return self._seen(super().value(y, z), z)

    def second(self, y, z):
        return self._seen(super().second(y, z), z)

    def _seen(self, found, z):
        self.sizes.append(max(found.size, z.size))
        return found


@pytest.mark.parametrize("points", [1, 4])
@pytest.mark.parametrize("kernel", [ValueAndGradient, HessianProduct, Curvature], ids=lambda kernel: kernel.__name__)
def test_many_classes_take_few_rows_at_a_time(kernel, points, monkeypatch):
    random, k = np.random.default_rng(0), 9
    block = dense_block(random.standard_normal((700, 2)), random.integers(0, k, 700).astype(float))
    pass_ = kernel is ValueAndGradient
    at = Parameters(random.standard_normal(3 * k * (points if pass_ else 1 + (kernel is HessianProduct))))
    kernels = [kernel(loss, points) if pass_ else kernel(loss) for loss in (losses.Softmax(k), Watched(k))]
    expected = kernels[0](block, at)
    monkeypatch.setattr("dist_dot.kernels.passes.WIDEST", 1000)
    Watched.sizes.clear()
    np.testing.assert_allclose(kernels[1](block, at), expected, rtol=1e-11, atol=1e-11)
    assert 500 < max(Watched.sizes) <= 1000
