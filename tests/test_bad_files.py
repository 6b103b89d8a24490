"""Tables, models and checkpoints from strangers: each that cannot be used is named, with the file, or the column."""

import copy
import datetime
import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from safetensors.numpy import load, save

from dist_dot import DataError, Objective, lay_out, losses, minimise
from dist_dot.errors import DistDotError, JobError, WriteError
from dist_dot.jobs.job import parse_job
from dist_dot.jobs.model import load_model
from dist_dot.jobs.predict import predict_table
from dist_dot.jobs.run import run_job
from dist_dot.jobs.sources import Split, open_table
from dist_dot.solvers import GradientDescent
from dist_dot.training import checkpoint
from dist_dot.training.checkpoint import Checkpoints

N = 200
HELD = 8  # a row that a holdout of a quarter holds out
KEPT = 57  # one that it does not


def columns():
    random = np.random.default_rng(0)
    x = random.standard_normal(N)
    count = np.abs(np.round(3 * x)) + 1
    return {"x": x, "y": 2 * x + random.standard_normal(N), "c": random.choice(["a", "b"], N), "count": count}


def train(folder, data=None, model=None, **changed):
    if changed:
        pq.write_table(pa.table(columns() | changed), folder / "table.parquet")
    learned = {"source": str(folder / "table.parquet"), "target": "y", "numeric": ["x"], "categorical": ["c"]}
    output = {"folder": str(folder / "run"), "checkpoint_every": 0}
    job = parse_job({"data": learned | (data or {}), "model": model or {}, "output": output})
    return run_job(job, None, lambda progress: False, lambda run: None)


def at(row, value, of="count"):
    found = columns()[of].copy()
    found[row] = value
    return found


BIG = np.arange(N) + 2**60
UNSIGNED = pa.array([2**63 + i % 3 for i in range(N)], pa.uint64())
DAY = pa.array([datetime.date(2026, 1, 1)] * N)
UNHELD = np.where(Split(0.25).held(0, N), 0.0, 1.0)
COUNTS = {"target": "count", "holdout": 0.25}
EXACTLY = r"is 11529215046068469\d\d in row 0: float64 holds whole numbers up to 2\^53 exactly"
TABLES = {
    "large": ({"x": BIG}, {}, {}, f"'x' {EXACTLY}"),
    "large and negative": ({"x": -BIG}, {}, {}, "'x' is -1152921504606846976 in row 0"),
    "one that is large": ({"x": at(7, 2**53 + 2).astype(int)}, {}, {}, "'x' is 9007199254740994 in row 7"),
    "unsigned": ({"x": UNSIGNED}, {}, {}, "'x' is 9223372036854775808 in row 0"),
    "a large target": ({"y": BIG}, {}, {}, f"'y' {EXACTLY}"),
    "large weights": ({"count": BIG}, {"weight": "count"}, {}, f"'count' {EXACTLY}"),
    "large categories": ({"c": UNSIGNED}, {}, {}, "'c' is 9223372036854775808 in row 0: categories are below 2.63"),
    "large classes": ({"c": UNSIGNED}, {"target": "c", "categorical": []}, {"loss": "softmax"}, "'c' is 922337203685"),
    "huge": ({"x": columns()["x"] * 1e200}, {}, {}, "'x' has squares that overflow float64: divide it"),
    "dates": ({"x": DAY}, {"categorical": []}, {}, r"'x' in \[data\] numeric holds date32\[day\]: expected numbers"),
    "categories of dates": ({"c": DAY}, {"numeric": []}, {}, "'c' in .* holds date32.*expected words or whole numbers"),
    "a target of dates": ({"y": DAY}, {}, {}, r"'y' in \[data\] target holds date32\[day\]: expected numbers"),
    "times": ({"x": DAY.cast(pa.timestamp("ns"))}, {}, {}, r"'x' in .* holds timestamp\[ns\]: expected numbers"),
    "lists": ({"x": pa.array([[1.0]] * N)}, {}, {}, "'x' in .* holds list"),
    "nothing": ({"x": pa.array([None] * N)}, {}, {}, "'x' in .* holds null"),
    "an infinite dictionary": ({"x": pa.array(at(9, np.inf)).dictionary_encode()}, {}, {}, "'x' is infinite in row 9"),
    "a dictionary of NaN": ({"x": pa.array(at(9, np.nan)).dictionary_encode()}, {}, {}, "'x' is NaN in row 9"),
    "a negative count": ({"count": at(KEPT, -1.0)}, COUNTS, {"loss": "poisson"}, "'count' is -1.0 in row 57: the po"),
    "one that is held out": ({"count": at(HELD, -1.0)}, COUNTS, {"loss": "poisson"}, "'count' is -1.0 in row 8: the"),
    "gamma": ({"count": at(HELD, 0.0)}, COUNTS, {"loss": "gamma"}, "'count' is 0.0 in row 8: .* takes 0 < y"),
    "logistic": ({"count": at(HELD, 0.0)}, COUNTS, {"loss": "logistic"}, "'count' is .* logistic loss takes 0 <= y"),
    "a weight": ({"count": at(KEPT, -1.0)}, {"weight": "count", "holdout": 0.25}, {}, "'count' is -1.0 in row 57: we"),
    "no weights": ({"count": np.zeros(N)}, {"weight": "count"}, {}, "'count' is 0 in all rows to train on"),
    "none held out": ({"count": UNHELD}, {"weight": "count", "holdout": 0.25}, {}, "'count' is 0 in all rows held out"),
    "one held out": ({"count": at(HELD, -1.0)}, {"weight": "count", "holdout": 0.25}, {}, "'count' is -1.0 in row 8"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_columns_that_no_model_learns_from(tmp_path, name):
    changed, data, model, words = TABLES[name]
    assert Split(0.25).held(0, N)[HELD] and not Split(0.25).held(0, N)[KEPT]
    with pytest.raises(DataError, match=words):
        train(tmp_path, data, model, **changed)
    assert not (tmp_path / "run").exists()


def test_the_largest_whole_numbers_are_learned_from(tmp_path):
    train(tmp_path, x=np.where(np.arange(N) % 2, 2**53, -(2**53)), c=np.arange(N) % 2 * (2**63 - 1))
    model = load_model(tmp_path / "run")
    assert model.encoding.categorical[0].values == (0, 2**63 - 1)
    for name, values in (("x", BIG), ("c", UNSIGNED)):
        pq.write_table(pa.table(columns() | {"c": np.arange(N) % 2} | {name: values}), tmp_path / "other.parquet")
        with pytest.raises(DataError, match=f"column '{name}' is .* in row 0"):
            predict(tmp_path, tmp_path / "other.parquet", tmp_path / "predicted.parquet")


def predict(folder, source, out, keep=()):
    return predict_table(load_model(folder / "run"), str(source), str(out), keep, None, lambda *done: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a table and the model of it."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, x=columns()["x"])
    return folder


def test_a_column_twice(tmp_path, trained):
    for name in ("x", "c", "y"):
        table = pa.table(columns())
        pq.write_table(table.append_column(name, table[name]), tmp_path / "table.parquet")
        with pytest.raises(DataError, match=f"table.parquet has several columns '{name}'"):
            train(tmp_path)
        if name != "y":
            with pytest.raises(DataError, match=f"has several columns '{name}'"):
                predict(trained, tmp_path / "table.parquet", tmp_path / "out")
    table = pa.table(columns()).append_column("z", table["x"]).append_column("z", table["x"])
    pq.write_table(table, tmp_path / "table.parquet")
    assert train(tmp_path).rows == N  # what is not used may be anything


def damaged(folder, change):
    """Return a table with checksums whose bytes are changed by a function of them."""
    pq.write_table(pa.table(columns()), folder / "table.parquet", write_page_checksum=True, compression="none")
    content = bytearray((folder / "table.parquet").read_bytes())
    (folder / "table.parquet").write_bytes(change(content))


def flipped(*places):
    def change(content):
        for place in places:
            content[place] ^= 0x5A
        return content

    return change


DAMAGE = {
    "a page's header": flipped(4, 5),
    "a number": flipped(100),
    "its footer": flipped(-100, -101),
    "its length": flipped(-8),
    "its end": lambda content: content[:-1],
    "most of it": lambda content: content[:300],
    "all of it": lambda content: b"",
    "some bytes lost": lambda content: content[:200] + content[300:],
    "another format": lambda content: b"x,y\n1,2\n",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_table_that_is_damaged_is_named(tmp_path, trained, name):
    damaged(tmp_path, DAMAGE[name])
    words = r"source file://.*table\.parquet cannot be read as Parquet: "
    with pytest.raises(DataError, match=words):
        train(tmp_path)
    with pytest.raises(DataError, match=words):
        predict(trained, tmp_path / "table.parquet", tmp_path / "out")
    assert not (tmp_path / "run").exists()


def test_a_table_that_shrinks_is_named(tmp_path):
    pq.write_table(pa.table(columns()), tmp_path / "table.parquet")
    table = open_table(str(tmp_path / "table.parquet"))
    pq.write_table(pa.table(columns())[:100], tmp_path / "table.parquet")
    with pytest.raises(DataError, match=r"table\.parquet is damaged, or has changed: rows 50 \.\. 149 are not there"):
        table.read(50, 150, ["x"])


def test_what_the_system_says_of_a_table_keeps_its_kind(tmp_path, monkeypatch):
    pq.write_table(pa.table(columns()), tmp_path / "table.parquet")
    table = open_table(str(tmp_path / "table.parquet"))

    def broken(*words, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile.read_row_groups", broken)
    with pytest.raises(OSError, match=r"Input/output error: 'file://.*table\.parquet'") as error:
        table.read(0, 10, ["x"])
    assert not isinstance(error.value, DistDotError)  # an outage is no mistake of the user


def a(*path, is_now):
    def change(known):
        for each in path[:-1]:
            known = known[each]
        known[path[-1]] = is_now

    return change


def of_one_class(known):
    known["loss"], known["encoding"]["target"] = "softmax", {"name": "y", "values": ["a"]}


MEAN, SCALE, NAME = (("encoding", "numeric", 0, key) for key in ("mean", "scale", "name"))
VALUES = ("encoding", "categorical", 0, "values")
NAN, INF = float("nan"), float("inf")
KNOWN = [
    *((a(*MEAN, is_now=value), "the mean of 'x' is") for value in (NAN, INF, -INF, "word", None, [1], True, {})),
    (a(*MEAN, is_now=10**400), "too large to convert"),
    *((a(*SCALE, is_now=value), "the scale of 'x' is") for value in (NAN, INF, -1, "word", None, [1], True)),
    *((a(*NAME, is_now=value), "the name of a column is") for value in (5, None, [], {})),
    (a(*NAME, is_now="c"), "has a column twice"),
    (a(*NAME, is_now="\ud800"), "surrogates not allowed"),
    *((a(*VALUES, is_now=value), "the values of 'c' are") for value in (5, None, {}, "ab")),
    *((a(*VALUES, is_now=value), "a value of 'c' is") for value in ([1, "a"], [None, None], [1.5, 2.5], [[1], [2]])),
    *((a(*VALUES, is_now=value), "a value of 'c' is") for value in ([2**70, 1], [True, False])),
    (a(*VALUES, is_now=["a", "a"]), "a value of 'c' twice"),
    (a(*VALUES, is_now=["a"]), "coefficients"),
    (a(*VALUES, is_now=["\ud800", "a"]), "surrogates not allowed"),
    *((a("target", is_now=value), "its target is") for value in (5, None, [], NAN)),
    *((a("loss", is_now=value), "unknown loss") for value in (5, None, [], {}, "x")),
    (a("loss", is_now="softmax"), "its loss is softmax"),
    (a("encoding", "target", is_now={"name": "y", "values": ["a", "b"]}), "its loss is squared"),
    (of_one_class, "softmax of 1 classes"),
    *((a("alpha", is_now=value), "its alpha is") for value in (NAN, "x", None, -1, True)),
    *((a("fit_intercept", is_now=value), "its fit_intercept is") for value in (5, None, "x")),
    *((a("status", is_now=value), "its status is") for value in (5, None, [], {}, "x", NAN)),
    *((a("versions", is_now=value), "") for value in (5, None, [], {"numpy": 2})),
    *((a("encoding", is_now=value), "") for value in (5, None, [], {}, "x")),
]


def stranger(trained, folder, text=None, **arrays):
    """Make a model of another's files, with other arrays and a digest that fits."""
    content = (trained / "run" / "model.safetensors").read_bytes()
    known = json.loads((trained / "run" / "model.json").read_text())
    if arrays:
        content = save({name: value for name, value in (load(content) | arrays).items() if value is not None})
        known["digest"] = xxhash.xxh3_128_hexdigest(content)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "model.json").write_bytes(json.dumps(known).encode() if text is None else text)
    return known


@pytest.mark.parametrize("number", range(len(KNOWN)))
def test_what_model_json_must_say(trained, tmp_path, number):
    change, words = KNOWN[number]
    known = stranger(trained, tmp_path)
    assert load_model(tmp_path).target == "y"
    known = copy.deepcopy(known)
    change(known)
    (tmp_path / "model.json").write_text(json.dumps(known))
    with pytest.raises(JobError, match=f"the model in {re.escape(str(tmp_path))} cannot be read: .*{words}"):
        load_model(tmp_path)


ARRAYS = [
    {"coef": np.array([NAN, 1.0, 1.0])},
    {"coef": np.array([INF, 1.0, 1.0])},
    {"coef": np.array([1, 1, 1])},
    {"coef": np.array([True, True, True])},
    {"coef": np.ones(2)},
    {"coef": np.ones((3, 1))},
    {"coef": None},
    {"intercept": np.array([NAN])},
    {"intercept": np.array([])},
    {"intercept": np.ones(2)},
    {"intercept": np.ones((1, 1))},
    {"intercept": None},
]


@pytest.mark.parametrize("arrays", ARRAYS, ids=str)
def test_what_the_arrays_of_a_model_must_be(trained, tmp_path, arrays):
    stranger(trained, tmp_path, **arrays)
    with pytest.raises(JobError, match=f"the model in {tmp_path} cannot be read: it"):
        load_model(tmp_path)


TEXTS = {
    "nested lists": b"[" * 100_000,
    "nested tables": b'{"a":' * 2_000,
    "5,000 digits": b'{"format":' + b"9" * 5_000 + b"}",
    "UTF-16": json.dumps({"format": 1}).encode("utf-16"),
    "NUL": b"\0" * 100,
    "no UTF-8": b"\xff" * 5,
    "null": b"null",
    "a number": b"5",
    "a word": b'"word"',
    "nothing": b"",
}


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_are_no_model(trained, tmp_path, name):
    stranger(trained, tmp_path, TEXTS[name])
    with pytest.raises(JobError, match=f"the model in {tmp_path} cannot be read: "):
        load_model(tmp_path)


def objective():
    random = np.random.default_rng(0)
    X = random.standard_normal((50, 3))
    return Objective(lay_out(X, X @ [1.0, 2.0, 3.0] + 1.0), losses.Squared(), 1.0)


HEADER = {
    "iteration": ["5", None, 1.5, []],
    "rounds": ["5", None],
    "seconds": ["x", None],
    "fingerprint": [5, None, "[]", "x"],
    "state": [5, None, [], {}, {"value": "x", "t": 1.0, "curvature": 1.0}],
    "reference": [5, None, {"rounding": "x", "centred": 1.0, "norm": 1.0}],
    "validation": [5, {"latest": "x", "lowest": 1.0, "iteration": 1}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in HEADER.items() for value in values])
def test_a_checkpoint_that_says_something_else_is_passed_over(tmp_path, notices, key, value):
    """Its checksum fits: it was written by somebody else."""
    checkpoints = Checkpoints(str(tmp_path), every=5, resume=True)
    minimise(objective(), GradientDescent(), tol=0, max_iter=10, checkpoint=checkpoints)
    rewrite(max(tmp_path.iterdir()), lambda header, arrays: header.__setitem__(key, value))
    seen = []
    minimise(objective(), GradientDescent(), tol=0, max_iter=10, checkpoint=checkpoints, callbacks=(seen.append,))
    assert seen[0].iteration == 5 and "000000010.safetensors is" in notices[0]


@pytest.mark.parametrize("name", ["state.parameters", "state.gradient", "reference", "history"])
def test_a_checkpoint_with_other_vectors_is_passed_over(tmp_path, notices, name):
    checkpoints = Checkpoints(str(tmp_path), every=5, resume=True)
    minimise(objective(), GradientDescent(), tol=0, max_iter=10, checkpoint=checkpoints)
    rewrite(max(tmp_path.iterdir()), lambda header, arrays: arrays.__setitem__(name, np.full((2, 2), INF)))
    minimise(objective(), GradientDescent(), tol=0, max_iter=10, checkpoint=checkpoints)
    assert "000000010.safetensors is" in notices[0] and "passed over" in notices[0]


def rewrite(path, change):
    content = path.read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    header, arrays = json.loads(metadata["header"]), load(content)
    change(header, arrays)
    text = json.dumps(header)
    path.write_bytes(save(arrays, metadata={"header": text, "digest": checkpoint._digest(text, arrays)}))


def test_other_files_beside_checkpoints_are_left_alone(tmp_path):
    others = [tmp_path / f"{name}.safetensors" for name in ("2026-model", "1", "000000001-mine", "notes")]
    for path in others:
        path.write_bytes(b"mine")
    assert Checkpoints(str(tmp_path)).newest_step() is None
    for _ in range(2):
        minimise(objective(), GradientDescent(), tol=0, max_iter=10, checkpoint=Checkpoints(str(tmp_path), every=2))
    assert all(path.read_bytes() == b"mine" for path in others)


class Full:
    """A file of a disk that is full after some bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, content):
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(content)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def full(monkeypatch, room=100):
    """Leave room for some bytes, and no more, in each file that is written atomically."""

    def opened(path, mode):
        return Full(open(path, mode), room)

    monkeypatch.setattr(checkpoint, "open", opened, raising=False)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_a_full_disk_under_a_model(tmp_path, monkeypatch):
    full(monkeypatch)
    with pytest.raises(WriteError, match=r"run/model\.safetensors cannot be written \(No space left on device\)"):
        train(tmp_path, {"source": str(table(tmp_path))})
    assert files(tmp_path) == ["table.parquet"]


def table(folder):
    pq.write_table(pa.table(columns()), folder / "table.parquet")
    return folder / "table.parquet"


def test_a_full_disk_under_checkpoints(tmp_path, monkeypatch):
    full(monkeypatch)
    checkpoints = Checkpoints(str(tmp_path), every=2)
    with pytest.raises(WriteError, match=r"000000002\.safetensors cannot be written \(No space left on device\)"):
        minimise(objective(), GradientDescent(), tol=0, max_iter=9, checkpoint=checkpoints)
    assert files(tmp_path) == []


def test_a_full_store_under_checkpoints(monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    def pipe(self, path, value, **options):
        MemoryFileSystem.store[path] = None  # it is there, but not whole
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe)
    monkeypatch.setattr(MemoryFileSystem, "rm_file", lambda self, path: MemoryFileSystem.store.pop(path))
    with pytest.raises(WriteError, match=r"/full/run/000000002\.safetensors cannot be written \(No space"):
        minimise(
            objective(), GradientDescent(), tol=0, max_iter=9, checkpoint=Checkpoints("memory://full/run", every=2)
        )
    assert not [path for path in MemoryFileSystem.store if path.startswith("/full")]


@pytest.mark.parametrize("room", [0, 700, 3_000])
def test_a_full_disk_under_predictions(trained, tmp_path, monkeypatch, room):
    from fsspec.implementations.local import LocalFileSystem

    def opened(self, path, mode="rb", **options):
        file = before(self, path, mode, **options)
        return Full(file, room) if mode == "wb" else file

    before = LocalFileSystem.open
    monkeypatch.setattr(LocalFileSystem, "open", opened)
    with pytest.raises(
        WriteError, match=r"out\.parquet cannot be written \(No space left on device\): make room there"
    ):
        predict(trained, trained / "table.parquet", tmp_path / "out.parquet", ("x", "y", "c"))
    assert files(tmp_path) == []
