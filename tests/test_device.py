"""Where rows lie, without a GPU: what is asked of CuPy, what is refused, and in which words."""

import builtins
import pickle
import sys
from types import ModuleType, SimpleNamespace

import array_api_strict
import dask.array as da
import fake_cupy
import numpy as np
import pytest
import refusing
from distributed.sizeof import sizeof
from problems import dense_block
from sklearn.base import clone

from dist_dot import DataError, LinearRegression, LogisticRegression, PoissonRegressor, Ridge, lay_out
from dist_dot.errors import DeviceError, InputError
from dist_dot.kernels import device
from dist_dot.kernels.passes import GramProduct
from dist_dot.kernels.tree import fold, root
from dist_dot.linear_model import LogisticRegressionCV, RidgeCV
from dist_dot.linear_model.labels import class_weights, classes_of, encoded, weighted
from dist_dot.rounds import layout
from dist_dot.rounds.local import LocalBlocks
from dist_dot.rows import settle
from dist_dot.rows.arrays import to_host
from dist_dot.rows.block import OF_A_DEVICE, Block

ESTIMATORS = [LinearRegression, Ridge, RidgeCV, LogisticRegression, LogisticRegressionCV, PoissonRegressor]


@pytest.fixture
def cupy(monkeypatch):
    return fake_cupy.install(monkeypatch)


@pytest.fixture
def no_cupy(monkeypatch):
    real = builtins.__import__

    def absent(name, *others):
        if name.partition(".")[0] == "cupy":
            raise ImportError("No module named 'cupy'")
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", absent)


def rows_of(n=60, p=5, dtype="float64"):
    random = np.random.default_rng(n + p)
    return random.standard_normal((n, p)).astype(dtype), random.standard_normal(n).astype(dtype)


# What is missing.


def test_without_cupy_the_error_says_what_to_install(no_cupy):
    X, y = rows_of()
    for ask in (
        lambda: lay_out(X, y, device="cuda"),
        lambda: Ridge(device="cuda").fit(X, y),
        lambda: lay_out(da.from_array(X, chunks=30), da.from_array(y, chunks=30), device="cuda"),
    ):
        with pytest.raises(DeviceError, match=r'device .cuda. is asked for.* pip install "dist-dot\[gpu-cuda13\]"'):
            ask()
    assert lay_out(X, y).where.startswith("this process, ")


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({"driver": 0, "devices": 0}, "there is no NVIDIA driver"),
        ({"driver": 12040}, r"cudaErrorInsufficientDriver.* CuPy is built for CUDA 13\.0, the driver for 12\.4"),
        ({"devices": 0}, "cudaErrorNoDevice.*CUDA_VISIBLE_DEVICES says which"),
    ],
)
def test_cupy_without_a_driver_or_a_card_is_one_error_and_breaks_nothing_else(machine, words, monkeypatch):
    fake_cupy.install(monkeypatch, **machine)
    X, y = rows_of()
    with pytest.raises(DeviceError, match=words):
        lay_out(X, y, device="cuda")
    assert Ridge().fit(X, y).fit_.where.startswith("this process, ")
    assert pickle.loads(pickle.dumps(dense_block(X, y))).X.values.tobytes() == X.tobytes()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_word_that_is_none_is_an_error(estimator):
    X, y = rows_of()
    with pytest.raises(InputError, match="device is 'gpu': give 'cpu', 'cuda', or 'auto'"):
        clone(estimator(device="gpu")).fit(X, (y > 0) * 1.0)
    with pytest.raises(InputError, match="device is None"):
        lay_out(X, y, device=None)


def test_rows_that_do_not_fit_are_refused_before_they_are_read(monkeypatch):
    fake_cupy.install(monkeypatch, free=1000, pooled=200)
    X, y = np.full((100, 1), np.nan), np.zeros(100)  # whose NaN nobody gets to see
    with pytest.raises(DeviceError, match=r"100 rows of 1 columns \(float64\) take 0\.00 GiB.* device='cpu'"):
        lay_out(X, y, device="cuda")
    settle.check_room(1200, "rows")
    with pytest.raises(DeviceError):
        settle.check_room(1201, "rows")
    with pytest.raises(DeviceError, match="a block of 0 MiB does not fit"):
        settle.to_device(X[:, 0].repeat(2), "float64")


# The way there and back.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("source", ["float32", "float64", "int16", "bool"])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1000, 7), (257, 64), (40, 3000), (999,)])
def test_rows_arrive_as_they_were_whatever_they_were(cupy, monkeypatch, dtype, source, order, shape):
    monkeypatch.setattr(settle, "TILE", 1 << 14)  # a row of 3,000 float64 does not fit; others take several tiles
    monkeypatch.setattr(settle, "SMALL", 1 << 10)
    X = (np.random.default_rng(0).standard_normal(shape) * 100).astype(source)
    X = np.asfortranarray(X) if order == "F" else X[::-1] if order == "strided" else X
    found = settle.to_device(X, dtype)
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_array_equal(found._values, X.astype(dtype), strict=True)


def test_settle_goes_where_the_wish_says_and_copies_nothing_that_is_there(cupy):
    X, _ = rows_of()
    there = settle.settle(X, "cuda", "float64")
    assert settle.on_device(there) and settle.device_name(there) == "NVIDIA H100" and settle.device_name(X) == ""
    assert settle.settle(X, "auto", "float64") is X is settle.settle(X, "cpu", "float64")
    for wish in ("auto", "cuda"):
        assert np.shares_memory(settle.settle(there, wish, "float64")._values, there._values)
    np.testing.assert_array_equal(settle.settle(there, "cpu", "float32"), X.astype("float32"), strict=True)
    assert settle.settle(there.T, "auto", "float64").flags.c_contiguous


def test_device_cpu_brings_rows_of_any_library_to_the_host():
    X, y = rows_of()
    blocks = lay_out(refusing.library.asarray(X), refusing.library.asarray(y), device="cpu", block_rows=16)
    assert isinstance(blocks, LocalBlocks) and all(type(block.X.values) is np.ndarray for block in blocks.blocks)
    assert blocks.checksum == lay_out(X, y, block_rows=16).checksum
    model = Ridge(device="cpu").fit(array_api_strict.asarray(X), array_api_strict.asarray(y))
    assert model.coef_.tobytes() == Ridge().fit(X, y).coef_.tobytes()


def test_rows_of_the_host_settle_on_the_gpu_and_the_blocks_say_so(cupy, monkeypatch):
    for on_the_gpu in ("check_rows", "ready_for"):  # by kernels
        monkeypatch.setattr(layout, on_the_gpu, lambda *arguments: None)
    monkeypatch.setattr(layout, "client_in_force", lambda: None)  # whose workers have no such CuPy
    X, y = rows_of(dtype="float32")
    for rows, target in ((X, y), (cupy.asarray(X), y)):
        blocks = lay_out(rows, target, device="cuda", block_rows=16)
        assert blocks.where == "this process, on NVIDIA H100"
        assert all(block.on_device and settle.on_device(block.y) for block in blocks.blocks)
        np.testing.assert_array_equal(
            np.concatenate([block.X.values._values for block in blocks.blocks]), X, strict=True
        )
    lazy = da.from_array(X, chunks=(20, 5)), da.from_array(y, chunks=20)
    assert lay_out(*lazy, device="cuda", block_rows=16).where == "this process, on NVIDIA H100"
    assert lay_out(cupy.asarray(X), y, device="cpu").where.startswith("this process, ")


# Blocks in Dask's hands.


def test_a_device_block_counts_its_objects_and_not_its_rows(cupy):
    X, y = rows_of(1000)
    host = dense_block(X, y)
    there = dense_block(settle.to_device(X, "float64"), settle.to_device(y, "float64"))
    assert sizeof(host) >= host.nbytes == there.nbytes == 1000 * 6 * 8
    assert OF_A_DEVICE <= sizeof(there) < 1000


def test_a_device_block_moves_through_the_host_and_is_rebuilt_on_a_gpu_only(cupy, monkeypatch):
    X, y = rows_of()
    block = dense_block(*(settle.to_device(array, "float64") for array in (X, y, np.abs(y))), 16)
    moved = pickle.dumps(block)
    again = pickle.loads(moved)
    assert again.on_device and again.start == 16
    np.testing.assert_array_equal(again.X.values._values, X, strict=True)
    np.testing.assert_array_equal(again.weight._values, np.abs(y), strict=True)
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    with pytest.raises(DeviceError, match="device 'cuda' is asked for, and on .* CUDA finds no GPU"):
        pickle.loads(moved)


def test_dask_cuda_leaves_device_blocks_where_they_are(cupy, monkeypatch):
    asked = {}
    spilling = ModuleType("dask_cuda.is_spillable_object")
    spilling.is_spillable_object = SimpleNamespace(register=lambda kind, answer: asked.update({kind: answer}))
    monkeypatch.setitem(sys.modules, "dask_cuda.is_spillable_object", spilling)
    X, y = rows_of()
    lay_out(X, y)
    assert not asked  # what is of the host is spilled as ever
    pickle.loads(pickle.dumps(dense_block(settle.to_device(X, "float64"), settle.to_device(y, "float64"))))
    assert asked[Block](dense_block(settle.to_device(X, "float64"), y)) and not asked[Block](dense_block(X, y))


# Tables of blocks.


class Card:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def blocks_on(cards):
    return [
        dense_block(SimpleNamespace(device=SimpleNamespace(id=card)), None, None, i) for i, card in enumerate(cards)
    ]


@pytest.fixture
def tables(monkeypatch):
    """Return how many blocks each table has had that was made; sums are the numbers of blocks."""
    made = []

    def reduced(here, rows, blocks, numbers, leaves, kernel, parameters):
        assert rows == len(blocks) == len(numbers)
        return fold({(0, number): number for number in numbers}, leaves)

    monkeypatch.setattr(device, "card", lambda number: Card())
    monkeypatch.setattr(device, "DeviceRows", lambda blocks, here: made.append(len(blocks)) or len(blocks))
    monkeypatch.setattr(device, "_reduce", reduced)
    monkeypatch.setattr(device, "_tables", {})
    return made


def test_tables_are_kept_while_their_blocks_live(tables):
    blocks = blocks_on([0, 0, 0])
    for _ in range(3):
        assert device.reduce(blocks, range(3), 3, None, None) == {root(3): 3}
    assert tables == [3] and len(device._tables) == 1
    del blocks[0]
    assert not device._tables
    others = [blocks_on([0]) for _ in range(device.KEPT + 5)]
    for number, other in enumerate(others, 1):
        assert device.reduce(other, [7], 8, None, None) == {(0, 7): 7}
        assert len(device._tables) == min(number, device.KEPT)


def test_tables_of_several_cards_and_of_many_blocks_add_up_to_the_same_nodes(tables, monkeypatch):
    monkeypatch.setattr(device, "BLOCKS", 3)
    blocks = blocks_on([0, 0, 1, 0, 0, 0, 0, 0, 0])
    assert device.reduce(blocks, range(9), 9, GramProduct(), None) == {root(9): 36}
    assert tables == [3, 3, 2, 1]


# Labels, weights, scores and predictions.


@pytest.mark.parametrize("library", [array_api_strict, refusing.library])
@pytest.mark.parametrize("labels", [[3, 7], [False, True], [-1.0, 0.0, 4.0]])
def test_labels_are_encoded_in_their_own_library(library, labels):
    y = np.asarray(labels)[np.random.default_rng(0).integers(0, len(labels), 50)]
    own, weight = library.asarray(y), np.random.default_rng(1).uniform(size=50)
    classes = classes_of(own, 1)
    np.testing.assert_array_equal(classes, labels)
    codes = encoded(own, classes)
    assert type(codes) is type(own)
    np.testing.assert_array_equal(to_host(codes), encoded(y, classes), strict=True)
    unknown = encoded(library.asarray(y), classes[1:])
    np.testing.assert_array_equal(to_host(unknown), encoded(y, classes[1:]))
    for s in (None, weight, library.asarray(weight)):
        of_class = class_weights(codes, s, "balanced", classes)
        expected = class_weights(encoded(y, classes), None if s is None else weight, "balanced", classes)
        np.testing.assert_allclose(of_class, expected, rtol=1e-14)
        found = weighted(codes, s, of_class)
        assert type(found) is type(own)
        rows = of_class[encoded(y, classes).astype(int)] * (1 if s is None else weight)
        np.testing.assert_allclose(to_host(found), rows, rtol=1e-14)


def lazily(array, chunks):
    """Return a Dask array whose chunks are of the refusing library, and whose meta says so."""
    meta = refusing.Array(np.empty((0,) * array.ndim, array.dtype))
    return da.from_array(array, chunks=chunks).map_blocks(refusing.Array, dtype=array.dtype, meta=meta)


def test_dask_arrays_of_another_library_are_fitted_scored_and_predicted_in_kind():
    X, y = rows_of(200, 4)
    labels, counts = np.where(y > 0, 7, 3), np.abs(np.round(y * 3))
    lazy = lazily(X, (50, 4))
    cases = [
        (Ridge(), y),
        (LogisticRegression(class_weight="balanced"), labels),
        (LogisticRegression(), np.digitize(y, [-0.5, 0.5])),
        (PoissonRegressor(), counts),
    ]
    for model, target in cases:
        expected = clone(model).fit(X, target)
        model.fit(lazy, lazily(target, 50))
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-6, atol=1e-9)
        predicted = model.predict(lazy)
        assert isinstance(predicted._meta, refusing.Array) and predicted.ndim == 1
        parts = [part.compute() for part in predicted.to_delayed()]
        assert all(isinstance(part, refusing.Array) for part in parts)
        found = np.concatenate([to_host(part) for part in parts])
        np.testing.assert_allclose(found, expected.predict(X), rtol=1e-6)
        score = model.score(lazy, lazily(target, 50))
        assert score == pytest.approx(expected.score(X, target), rel=1e-6)
        if hasattr(model, "predict_proba"):
            shares = model.predict_proba(lazy)
            assert isinstance(shares._meta, refusing.Array) and shares.shape == (200, len(model.classes_))
            assert isinstance(shares.to_delayed()[0, 0].compute(), refusing.Array)
            assert model.log_loss(lazy, lazily(target, 50)) == pytest.approx(expected.log_loss(X, target))


def test_cross_validated_logistic_regression_of_dask_arrays_of_another_library():
    X, y = rows_of(200, 4)
    labels = np.where(y > 0, 7, 3)
    expected = LogisticRegressionCV(3).fit(X, labels)
    lazy = lazily(X, (50, 4)), lazily(labels, 50)
    found = LogisticRegressionCV(3).fit(*lazy)
    np.testing.assert_allclose(found.scores_, expected.scores_)
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-5)


@pytest.mark.parametrize("library", [array_api_strict, refusing.library])
def test_ridge_scores_several_targets_where_they_lie(library):
    X, y = rows_of(100, 4)
    Y, weight = np.column_stack([y, 1000 * X[:, 0] + y, np.ones(100)]), np.random.default_rng(0).uniform(size=100)
    expected = Ridge().fit(X, Y, weight)
    own = library.asarray(X), library.asarray(Y)
    model = Ridge().fit(*own, weight)
    assert model.score(*own, weight) == pytest.approx(expected.score(X, Y, weight), rel=1e-9)
    assert Ridge().fit(X, own[1], weight).coef_.tobytes() == expected.coef_.tobytes()  # X decides: y comes to the host


def test_words_as_labels_of_device_rows_are_predicted_on_the_host():
    X, y = rows_of(100, 4)
    words = np.where(y > 0, "late", "early")
    expected = LogisticRegression().fit(X, words)
    model = LogisticRegression().fit(array_api_strict.asarray(X), words)
    predicted = model.predict(array_api_strict.asarray(X))
    assert type(predicted) is np.ndarray
    np.testing.assert_array_equal(predicted, expected.predict(X))


# torch, by DLPack.


class Tensor:
    """As much of a tensor of torch as we may rely on: the standard's exchange, and which device it is on."""

    def __init__(self, memory, kind="cpu", wants_gradient=False):
        self.memory, self.device, self.wants_gradient = memory, SimpleNamespace(type=kind, index=0), wants_gradient
        self.dtype, self.shape, self.ndim = f"torch.{memory.dtype}", memory.shape, memory.ndim

    def detach(self):
        return Tensor(self.memory, self.device.type)

    def __array_namespace__(self, api_version=None):
        raise AssertionError("tensors are taken at the door")

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **options):
        if self.wants_gradient:
            raise RuntimeError("Can't export tensors that require gradient, use tensor.detach()")
        if self.memory.dtype == np.float16:
            raise BufferError("not this one")
        return self.memory.__dlpack__(**options)


@pytest.fixture
def torch(monkeypatch):
    fake = ModuleType("torch")
    fake.Tensor = Tensor
    fake.from_dlpack = lambda array: Tensor(array if isinstance(array, np.ndarray) else array._values)
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


def test_tensors_are_taken_without_a_copy_and_predictions_are_tensors(torch):
    X, y = rows_of(100, 4)
    labels = np.where(y > 0, 7, 3)
    own = Tensor(X, wants_gradient=True)
    assert np.shares_memory(settle.taken(own), X)
    assert np.shares_memory(lay_out(own, Tensor(y), block_rows=16).blocks[0].X.values, X)
    for model, target in ((Ridge(), y), (LogisticRegression(), labels), (PoissonRegressor(), np.abs(y))):
        expected = clone(model).fit(X, target)
        model.fit(own, Tensor(target))
        assert type(model.coef_) is np.ndarray and model.coef_.tobytes() == expected.coef_.tobytes()
        assert model.score(own, Tensor(target)) == expected.score(X, target)
        for ask in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
            if hasattr(model, ask):
                found = getattr(model, ask)(own)
                assert type(found) is Tensor
                np.testing.assert_array_equal(found.memory, getattr(expected, ask)(X), strict=True)
    with pytest.raises(DataError, match="a torch tensor of torch.float16 cannot be used: not this one"):
        lay_out(Tensor(X.astype("float16")), y)


def test_tensors_of_a_gpu_are_cupy_arrays(torch, cupy, monkeypatch):
    X, _ = rows_of()
    found = settle.taken(Tensor(X, "cuda"))
    assert settle.on_device(found) and np.shares_memory(found._values, X)
    assert type(settle.given_back(found, Tensor(X, "cuda"))) is Tensor
    assert settle.given_back(found, X) is found
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    with pytest.raises(DeviceError, match="no GPU"):
        settle.taken(Tensor(X, "cuda"))
    elsewhere = Tensor(X, "mps")
    assert settle.taken(elsewhere) is elsewhere
