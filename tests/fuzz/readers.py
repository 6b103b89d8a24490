"""A fuzzer of readers: files that are valid, damaged, and read by what reads them in a run.

`make fuzz-readers COUNT=5000` goes through so many cases. What it finds is printed with a line that does it again:
`PYTHONPATH=tests:. python -m fuzz.readers --seed 1 --case 17`.

A reader may give a result that makes sense, or raise an error of dist_dot that names the file, the column or the key.
Anything else is a find: another exception, a case that takes longer than five seconds, one that ends the process.
"""

import argparse
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from safetensors.numpy import load, save

from dist_dot import Objective, lay_out, losses, minimise
from dist_dot.errors import DistDotError
from dist_dot.jobs.job import check_place, parse_job, read_job
from dist_dot.jobs.model import load_model
from dist_dot.jobs.predict import predict_table
from dist_dot.jobs.run import run_job
from dist_dot.solvers import LBFGS, GradientDescent
from dist_dot.training import checkpoint
from dist_dot.training.checkpoint import Checkpoints
from fuzz import damage

SLOW = 5.0  # seconds
DEAD = 60.0  # for a process that hears no signal
MEMORY = 16 << 30  # bytes that a process may map
ROWS = 90
JOB = """[data]
source = "table.parquet"
target = "y"
numeric = ["x", "whole"]
categorical = ["word", "code"]
weight = "weight"
standardize = true
holdout = 0.2
block_rows = 40
device = "cpu"
[model]
loss = "huber"
delta = 1.5
alpha = 0.5
fit_intercept = true
[solver]
name = "lbfgs"
memory = 7
preconditioner = "none"
max_iter = 20
tol = 1e-5
early_stopping = 3
[cluster]
kind = "local:2"
threads = 2
patience = 10.5
preflight = false
[output]
folder = "run"
checkpoint_every = 5
checkpoints = "memory://run/checkpoints"
"""
LEARNED = {"numeric": ["x", "whole", "flag"], "categorical": ["word", "code"]}


class TooSlow(Exception):
    """A case takes too long."""


class Files:
    """Valid files in a folder of their own, and a folder for those that are damaged."""

    def __init__(self, root):
        self.good, self.bad = Path(root) / "good", Path(root) / "bad"
        self.good.mkdir()
        self.bad.mkdir()
        random = np.random.default_rng(0)
        x = random.standard_normal(ROWS)
        self.columns = {
            "x": pa.array(x),
            "y": pa.array(2 * x + random.standard_normal(ROWS)),
            "whole": pa.array(random.integers(-5, 5, ROWS)),
            "flag": pa.array(x > 0),
            "weight": pa.array(random.uniform(0.5, 2, ROWS)),
            "word": pa.array(random.choice(["a", "b", "ü"], ROWS)).dictionary_encode(),
            "code": pa.array(random.integers(0, 3, ROWS), pa.int8()),
        }
        self.table = self.good / "table.parquet"
        pq.write_table(pa.table(self.columns), self.table, row_group_size=40)
        for name, model in (("squared", {}), ("softmax", {"loss": "softmax"})):
            target = "word" if name == "softmax" else "y"
            learned = LEARNED | {"categorical": ["code"]} if name == "softmax" else LEARNED
            train(self.table, self.good / name, learned | {"target": target}, model)
        X = random.standard_normal((50, 3))
        self.rows = X, (X @ [1.0, 2.0, 3.0] + random.standard_normal(50) > 0) * 1.0
        self.solvers = {"gradient": GradientDescent(), "lbfgs": LBFGS(memory=4)}
        self.straight = {}
        for name, solver in self.solvers.items():
            self.straight[name] = self.fit(solver, Checkpoints(str(self.good / name), every=5))

    def fit(self, solver, checkpoints):
        objective = Objective(lay_out(*self.rows, block_rows=32), losses.Logistic(), 1.0)
        return minimise(objective, solver, tol=0, max_iter=12, checkpoint=checkpoints)


def train(table, folder, data, model):
    output = {"folder": str(folder), "checkpoint_every": 0}
    sections = {"data": {"source": str(table)} | data, "model": model, "output": output, "solver": {"max_iter": 10}}
    return run_job(parse_job(sections), None, lambda progress: False, lambda name: None)


def a_job(files, random):
    """Damage a job file, and read it."""
    path = files.bad / "job.toml"
    text, words = JOB, "bytes"
    if random.random() < 0.6:
        lines = JOB.splitlines()
        at = int(random.integers(len(lines)))
        key, equals, value = lines[at].partition(" = ")
        odd = ODD_TOML[random.integers(len(ODD_TOML))]
        lines[at] = f"{key} = {odd}" if random.random() < 0.8 or not equals else f"{odd} = {value}"
        text, words = "\n".join(lines), f"{lines[at][:60]}"
        content = text.encode(errors="surrogatepass")
    else:
        how = damage.TEXT[random.integers(len(damage.TEXT))]
        content, words = how(text.encode(), random), how.__name__
    path.write_bytes(content)
    yield words, ("job.toml", "[", "the folder of the run", "section")
    job = read_job(path)
    check_place(job.cluster)
    assert isinstance(job.data.target, str) and job.solver.max_iter >= 0 and 0 <= job.data.holdout < 1


ODD_TOML = (
    *("true", "false", "0", "1", "-1", "0.5", "nan", "inf", "-inf", "1e400", "1e-400", "2026-01-01", "ü"),
    *("9" * 400, "9" * 5_000, "0x" + "f" * 5_000, "9223372036854775808"),
    *("[]", "{}", "[1]", '["a", "a"]', '["x"]', '[""]', "[[]]", "{a = 1}"),
    *('""', "'word'", "'auto'", "'none'", "'[/x]'", '"\\u0000"', '"\\u001b[2J"', '"s3://b/x?y=z"', f'"{"a" * 300}"'),
    *("[" * 2_000 + "]" * 2_000, "{a=" * 2_000 + "1" + "}" * 2_000),
    *("'kubernetes:'", "'tcp:'", f"'local:{'9' * 5_000}'"),
)


def a_model(files, random):
    """Damage a model, and predict with it."""
    source = files.good / ("squared", "softmax")[random.integers(2)]
    for name in ("model.json", "model.safetensors"):
        shutil.copy(source / name, files.bad / name)
    path, arrays = files.bad / "model.json", files.bad / "model.safetensors"
    way = random.integers(4)
    if way == 0:
        how = damage.TEXT[random.integers(len(damage.TEXT))]
        path.write_bytes(how(path.read_bytes(), random))
        words = f"model.json, {how.__name__}"
    elif way == 1:
        how = damage.BYTES[random.integers(len(damage.BYTES))]
        arrays.write_bytes(how(arrays.read_bytes(), random))
        known = json.loads(path.read_text())
        known["digest"] = xxhash.xxh3_128_hexdigest(arrays.read_bytes())
        path.write_text(json.dumps(known))
        words = f"model.safetensors, {how.__name__}"
    elif way == 2:
        path.write_text(json.dumps(damage.other(json.loads(path.read_text()), random)))
        words = "model.json, a value"
    else:
        found = load(arrays.read_bytes())
        name = sorted(found)[random.integers(len(found))]
        found[name] = np.ascontiguousarray(damage.other_array(found[name], random))
        arrays.write_bytes(save(found))
        known = json.loads(path.read_text())
        known["digest"] = xxhash.xxh3_128_hexdigest(arrays.read_bytes())
        path.write_text(json.dumps(known))
        words = f"model.safetensors, {name}"
    yield f"{source.name}: {words}", (str(files.bad), "column '", "table.parquet")
    model = load_model(files.bad)
    out = files.bad / "out.parquet"
    done = predict_table(model, str(files.table), str(out), (), None, lambda *at: None)
    assert done.rows == ROWS == pq.read_table(out).num_rows and np.isfinite(model.coef).all()


# Of a checkpoint whose checksum fits. It vouches for what a solver keeps beside them, and for its shape.
VECTORS = ("state.parameters", "state.gradient", "reference", "history", "validation")


def a_checkpoint(files, random):
    """Damage the newest checkpoint, and go on from it."""
    name = ("gradient", "lbfgs")[random.integers(2)]
    folder = files.bad / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(files.good / name, folder)
    path = max(folder.iterdir())
    content, forged = path.read_bytes(), random.random() < 0.5
    if forged:  # its checksum fits
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        header, arrays = json.loads(metadata["header"]), load(content)
        if random.random() < 0.6:
            header, words = damage.other(header, random), "its header"
        else:
            words = VECTORS[random.integers(len(VECTORS))]
            arrays[words] = np.ascontiguousarray(damage.other_array(arrays[words], random))
        text = json.dumps(header)
        path.write_bytes(save(arrays, metadata={"header": text, "digest": checkpoint._digest(text, arrays)}))
    else:
        how = damage.BYTES[random.integers(len(damage.BYTES))]
        path.write_bytes(how(content, random))
        words = how.__name__
    yield f"{name}: {words}", (str(folder),)
    found = files.fit(files.solvers[name], Checkpoints(str(folder), every=5, resume=True))
    if not forged:
        assert found.parameters.tobytes() == files.straight[name].parameters.tobytes(), "other bits"


def a_table(files, random):
    """Damage a table, train on it, and predict with a model of the one that was not."""
    path = files.bad / "table.parquet"
    checked = random.random() < 0.3
    columns = list(files.columns.items())
    if random.random() < 0.5:
        content, how = files.table.read_bytes(), damage.BYTES[random.integers(len(damage.BYTES))]
        if checked:
            pq.write_table(pa.table(files.columns), path, row_group_size=40, write_page_checksum=True)
            content = path.read_bytes()
        path.write_bytes(how(content, random))
        words = how.__name__
    else:
        at = int(random.integers(len(columns)))
        odd = odd_columns()
        words = sorted(odd)[random.integers(len(odd))]
        name, values = columns[at]
        columns[at] = (name, odd[words]) if words != "twice" else (columns[at - 1][0], values)
        columns[at] = (
            (["", "[/x]", "\x1b[2J", "a.b"][random.integers(4)], values) if words == "renamed" else columns[at]
        )
        names, arrays = zip(*columns, strict=True)
        pq.write_table(pa.table(list(arrays), names=list(names)), path, row_group_size=40)
        words = f"{name} is {words}"
    yield words, ("table.parquet",)
    loss = ("squared", "huber", "softmax")[random.integers(3)]
    data = LEARNED | {"target": "y", "weight": "weight", "holdout": 0.2}
    if loss == "softmax":
        data |= {"target": "word", "categorical": ["code"]}
    try:
        out = files.bad / "out.parquet"
        done = predict_table(load_model(files.good / "squared"), str(path), str(out), ("y",), None, lambda *at: None)
        assert done.rows == pq.read_table(out).num_rows
    except DistDotError as error:
        assert "table.parquet" in str(error), error
    shutil.rmtree(files.bad / "run", ignore_errors=True)
    report = train(path, files.bad / "run", data, {"loss": loss})
    assert report.rows + report.rows_held_out > 0
    json.loads((files.bad / "run" / "report.json").read_text(), parse_constant=lambda word: 1 / 0)


def odd_columns():
    x = np.linspace(-1, 1, ROWS)

    def at(row, value):
        found = x.copy()
        found[row] = value
        return pa.array(found)

    return {
        "twice": None,
        "renamed": None,
        "NaN": at(17, np.nan),
        "infinite": at(70, -np.inf),
        "huge": at(17, 1e308),
        "huge everywhere": pa.array(x * 1e200),
        "tiny": pa.array(x * 1e-300),
        "negative": at(88, -1.0),
        "zero": pa.array(x * 0.0),
        "constant": pa.array([1] * ROWS),
        "missing": pa.array([None, *x[1:]]),
        "large": pa.array(np.arange(ROWS) % 3 + 2**60),
        "unsigned": pa.array([2**63 + i % 3 for i in range(ROWS)], pa.uint64()),
        "half": pa.array(x.astype(np.float16)),
        "words": pa.array([str(i % 4) for i in range(ROWS)]),
        "odd words": pa.array(["[/x]", "\x1b[2J", "\0", "", "a" * 5_000] * (ROWS // 5)),
        "no words": pa.array([b"\xff\xfe"] * ROWS).view(pa.binary()).cast(pa.string(), safe=False),
        "bytes": pa.array([b"\xff\xfe"] * ROWS),
        "views": pa.array(["a", "b"] * (ROWS // 2)).cast(pa.large_string()),
        "dates": pa.array(np.arange(ROWS), pa.int32()).cast(pa.date32()),
        "times": pa.array(np.arange(ROWS)).cast(pa.timestamp("ns")),
        "durations": pa.array(np.arange(ROWS)).cast(pa.duration("us")),
        "decimals": pa.array([1] * ROWS).cast(pa.decimal128(30, 2)),
        "lists": pa.array([[1.0]] * ROWS),
        "tables": pa.array([{"a": 1.0}] * ROWS),
        "nothing": pa.array([None] * ROWS),
        "a dictionary of numbers": at(3, np.inf).dictionary_encode(),
    }


KINDS = (a_job, a_model, a_checkpoint, a_table)


def find(files, seed, number):
    """Return what is wrong with a case, with its words; None where nothing is."""
    random = np.random.default_rng([seed, number])
    for left in files.bad.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    case = KINDS[number % len(KINDS)](files, random)
    words, named = next(case)
    begin = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # numbers overflow
            next(case, None)
        wrong = None
    except DistDotError as error:
        wrong = None if any(name in str(error) for name in named) else f"it does not say where: {error!r}"
    except Exception as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        wrong = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {str(error)[:300]}"
    seconds = time.monotonic() - begin
    if wrong is None and seconds > SLOW:
        wrong = f"it takes {seconds:.1f} s"
    return None if wrong is None else f"{case.__name__}, {words}: {wrong}"


def main():
    """Go through the cases in processes of their own, which may die; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--count", type=int, default=5_000)
    parser.add_argument("--case", type=int, help="this case alone, in this process")
    parser.add_argument("--inside", help=argparse.SUPPRESS)  # the file where such a process says where it is
    options = parser.parse_args()
    logging.getLogger("dist_dot").setLevel(logging.CRITICAL)
    if options.case is not None:
        options.first, options.count = options.case, 1
    if options.case is not None or options.inside:
        return int(bool(go(options)))
    finds, number, end = 0, options.first, options.first + options.count
    while number < end:
        number, wrong = in_a_process(options.seed, number, end)
        finds += wrong
    print(f"seed {options.seed}: cases {options.first} .. {end - 1}, {finds} finds")
    return int(bool(finds))


def go(options):
    """Go through cases in this process; return how many finds there are."""
    if options.inside:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, lambda number, frame: (_ for _ in ()).throw(TooSlow()))
    finds = 0
    with tempfile.TemporaryDirectory() as root:
        files = Files(root)
        for number in range(options.first, options.first + options.count):
            if options.inside:
                Path(options.inside).write_text(f"{number} {finds}")
            signal.alarm(4 * int(SLOW))
            wrong = find(files, options.seed, number)
            signal.alarm(0)
            if wrong:
                finds += 1
                print(f"--seed {options.seed} --case {number}: {wrong}", flush=True)
    if options.inside:
        Path(options.inside).write_text(f"{options.first + options.count} {finds}")
    return finds


def in_a_process(seed, first, end):
    """Go on until the end, or until the process dies; return the number of the next case, and of the finds."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "note"
        command = [sys.executable, "-m", "fuzz.readers", "--seed", str(seed), "--first", str(first)]
        process = subprocess.Popen([*command, "--count", str(end - first), "--inside", str(note)])
        while process.poll() is None:
            time.sleep(0.1)
            if note.exists() and time.time() - note.stat().st_mtime > DEAD:
                process.kill()
        number, finds = map(int, note.read_text().split()) if note.exists() else (end, 0)
        if number == end and process.returncode >= 0:
            return end, finds
        print(f"--seed {seed} --case {number}: the process ended with status {process.returncode}", flush=True)
        return number + 1, finds + 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
