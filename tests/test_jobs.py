"""Job files, tables, and dist-dot train from end to end."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from dist_dot import DataError, LogisticRegression, Objective, Ridge, lay_out, losses, minimise
from dist_dot.errors import JobError
from dist_dot.jobs.console import show_report
from dist_dot.jobs.job import parse_job, read_job
from dist_dot.jobs.model import load_model
from dist_dot.jobs.run import run_job
from dist_dot.jobs.sources import Part, Split, open_table

SIZE = 30_000
JOB = """
[data]
source = "table.parquet"
target = "late"
numeric = ["distance", "delay"]
categorical = ["carrier", "month"]
block_rows = 1000

[solver]
name = "gradient_descent"
max_iter = 3000

[output]
folder = "run"
"""


@pytest.fixture
def frame():
    return make_frame()


def make_frame():
    random = np.random.default_rng(3)
    carrier, month = random.choice(["AA", "B6", "UA"], SIZE), random.integers(1, 13, SIZE)
    distance, delay = random.uniform(100, 3000, SIZE), random.exponential(20, SIZE)
    late = 0.9 * delay - 0.01 * distance + 5.0 * (carrier == "B6") + month + random.standard_normal(SIZE)
    columns = {"late": late, "distance": distance, "delay": delay, "carrier": carrier, "month": month}
    return pd.DataFrame(columns)


def make_table(folder):
    make_frame().to_parquet(folder / "table.parquet", row_group_size=4_321)


@pytest.fixture
def folder(tmp_path):
    make_table(tmp_path)
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path


def train(folder: Path, *options: str, cluster: str = "none") -> subprocess.CompletedProcess:
    program = Path(sys.executable).with_name("dist-dot")
    return subprocess.run(
        [program, "train", folder / "job.toml", "--cluster", cluster, *options],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def design(frame):
    numeric = frame[["distance", "delay"]].to_numpy()
    one_hot = [frame.carrier == value for value in ("AA", "B6", "UA")]
    one_hot += [frame.month == value for value in range(1, 13)]
    return np.column_stack([numeric, *one_hot]).astype(float)


@pytest.mark.parametrize("cluster", ["none", "local:2"])
def test_train_gives_the_bits_of_ridge(folder, frame, cluster):
    done = train(folder, "--set", "data.standardize=false", "--set", "data.block_rows=auto", cluster=cluster)
    assert (done.returncode, done.stderr) == (0, "")
    model = load_file(folder / "run" / "model.safetensors")
    here = Ridge(solver="gradient_descent").fit(design(frame), frame.late.to_numpy())
    assert model["coef"].tobytes() == here.coef_.tobytes()
    assert model["intercept"].tobytes() == np.array([here.intercept_]).tobytes()


def test_the_run_folder(folder, frame):
    done = train(folder, "--set", "data.holdout=0.2", "--set", "solver.tol=1e-10", cluster="local:2")
    assert done.returncode == 0
    assert str(folder / "run") in done.stdout and "GB/s" in done.stdout
    model, report = (json.loads((folder / "run" / f"{name}.json").read_text()) for name in ("model", "report"))
    assert model["features"][:4] == ["distance", "delay", "carrier=AA", "carrier=B6"]
    held = Split(0.2).held(0, SIZE)
    assert 0.19 * SIZE < held.sum() < 0.21 * SIZE
    assert (report["rows"], report["rows_held_out"]) == (SIZE - held.sum(), held.sum())
    kept = frame[~held]
    numeric = {column["name"]: column for column in model["encoding"]["numeric"]}
    np.testing.assert_allclose(numeric["distance"]["mean"], kept.distance.mean())
    np.testing.assert_allclose(numeric["distance"]["scale"], kept.distance.std(ddof=0))
    X = design(frame)
    for j, name in enumerate(("distance", "delay")):
        X[:, j] = (X[:, j] - numeric[name]["mean"]) / numeric[name]["scale"]
    here = Ridge(solver="gradient_descent", tol=1e-10).fit(X[~held], kept.late)
    arrays = load_file(folder / "run" / "model.safetensors")
    np.testing.assert_allclose(arrays["coef"], here.coef_, rtol=1e-6, atol=1e-6)
    assert np.isclose(report["score_train"], here.score(X[~held], kept.late), rtol=1e-6)
    assert np.isclose(report["score_held_out"], here.score(X[held], frame.late[held]), rtol=1e-6)
    assert report["status"] == "CONVERGED" and len(report["history"]["value"]) == report["iterations"] + 1
    assert list((folder / "run" / "checkpoint").iterdir())


LOSSES = {
    "squared": (losses.Squared(), "exact", lambda late: late, "exact"),
    "logistic": (losses.Logistic(), "lbfgs", lambda late: 1.0 * (late > 10), "LBFGS(memory=5"),
    "poisson": (losses.Poisson(), "newton", lambda late: np.round(late.clip(0)), "Newton("),
    "gamma": (losses.Gamma(), "auto", lambda late: late.clip(0.1), "Newton("),
    "huber": (losses.Huber(0.7), "auto", lambda late: late, "Newton("),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss(tmp_path, frame, loss):
    of_z, solver, target, words = LOSSES[loss]
    frame = frame[:4_000].assign(late=target(frame.late))
    frame.to_parquet(tmp_path / "table.parquet")
    model = {"loss": loss, "alpha": 2.0} | ({"delta": 0.7} if loss == "huber" else {})
    options = {"name": solver, "tol": 1e-9} | ({"memory": 5} if solver == "lbfgs" else {})
    data = {"source": str(tmp_path / "table.parquet"), "target": "late", "numeric": ["distance", "delay"]}
    data |= {"categorical": ["carrier"], "standardize": False, "holdout": 0.25}
    job = parse_job({"data": data, "model": model, "solver": options, "output": {"folder": str(tmp_path / "run")}})
    report = run_job(job, None, lambda progress: False, lambda name: None)
    held = Split(0.25).held(0, 4_000)
    X = design(frame)[:, :5]
    here = minimise(
        Objective(lay_out(X[~held], frame.late[~held]), of_z, 2.0), "newton" if solver != "exact" else solver, tol=1e-9
    )
    assert report.status.name in ("CONVERGED", "AT_ROUNDING") and report.loss == pytest.approx(here.value, rel=1e-9)
    assert words in report.solver if solver != "exact" else "Exact" in report.solver
    score = Objective(lay_out(X[held], frame.late[held]), of_z).explained(here.parameters)
    assert report.score == ("R2" if loss == "squared" else "D2") and report.score_held_out == pytest.approx(
        score, rel=1e-4
    )
    assert json.loads((tmp_path / "run" / "model.json").read_text())["loss"] == loss


def test_stopping_short_and_going_on(folder):
    whole = train(folder, "--out", str(folder / "whole"), "--set", "solver.tol=1e-9")
    short = train(
        folder, "--set", "solver.tol=1e-9", "--set", "solver.max_iter=12", "--set", "output.checkpoint_every=5"
    )
    assert (whole.returncode, short.returncode) == (0, 3)
    assert "raise max_iter" in short.stdout
    rest = train(folder, "--resume", "auto", "--set", "solver.tol=1e-9", cluster="local:2")
    assert rest.returncode == 0
    files = [folder / name / "model.safetensors" for name in ("whole", "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_early_stopping(folder):
    options = ("--set", "solver.name=lbfgs", "--set", "solver.tol=0", "--set", "solver.early_stopping=3")
    done = train(folder, *options)
    history = json.loads((folder / "run" / "report.json").read_text())["history"]["validation"]
    assert done.returncode == 0 and "early_stopped" in done.stdout
    assert int(np.argmin(history)) == len(history) - 4
    assert train(folder, "--set", "solver.name=exact", "--set", "solver.early_stopping=3").returncode == 2


def nan(folder, frame):
    columns = {name: pa.array(frame[name].tolist()) for name in frame}
    columns["delay"] = pa.array(np.where(frame.index == 17_171, np.nan, frame.delay))
    pq.write_table(pa.table(columns), folder / "table.parquet")


def missing(folder, frame):
    frame.loc[404, "carrier"] = None
    frame.to_parquet(folder / "table.parquet")


def infinite(folder, frame):
    frame.loc[2, "late"] = np.inf
    frame.to_parquet(folder / "table.parquet")


@pytest.mark.parametrize(
    ("prepare", "options", "words"),
    [
        (None, ["--set", "solver.max_itre=5"], "unknown key 'max_itre' in [solver]: did you mean 'max_iter'?"),
        (None, ["--set", 'data.numeric=["distnce"]'], "unknown column 'distnce' in [data] numeric: did you mean 'dis"),
        (None, ["--set", "data.source=nowhere.parquet"], "nowhere.parquet: no such file"),
        (None, ["--set", "data.source=job.toml"], "job.toml cannot be read as Parquet"),
        (None, ["--set", 'data.numeric=["carrier"]', "--set", "data.categorical=[]"], "expected numbers"),
        (None, ["--set", "solver.learning_rate=-1"], "[solver] learning_rate is -1.0: expected 'auto' or a positive"),
        (None, ["--cluster", "lokal"], "unknown cluster 'lokal'"),
        (nan, [], "column 'delay' is NaN in row 17171"),
        (missing, [], "column 'carrier' is missing in row 404"),
        (infinite, ["--cluster", "local:2"], "column 'late' is infinite in row 2"),
    ],
)  # fmt: skip
def test_mistakes_end_with_status_2_and_one_line(folder, frame, prepare, options, words):
    if prepare:
        prepare(folder, frame)
    done = train(folder, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_missing_job_file_is_named(tmp_path):
    done = train(tmp_path)
    assert done.returncode == 2 and "job.toml: No such file" in done.stderr and done.stderr.count("\n") == 1


DATA = {"source": "a.parquet", "target": "y", "numeric": ["x"]}


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({}, "the section [data] is missing"),
        ({"dat": DATA}, "unknown section [dat]: did you mean 'data'?"),
        ({"data": 1}, "data is a section"),
        ({"data": {"source": "a"}}, "[data] needs target"),
        ({"data": DATA | {"numeric": "x"}}, "expected a list of names"),
        ({"data": DATA | {"numeric": []}}, "names no columns"),
        ({"data": DATA | {"categorical": ["x"]}}, "the column 'x' twice"),
        ({"data": DATA | {"numeric": ["y"]}}, "learns from 'y'"),
        ({"data": DATA | {"holdout": 1}}, "holdout is 1.0"),
        ({"data": DATA | {"standardize": "yes"}}, "expected true or false"),
        ({"data": DATA, "model": {"loss": "square"}}, "did you mean 'squared'?"),
        ({"data": DATA, "solver": {"max_iter": 1.5}}, "max_iter is 1.5: expected a whole number"),
        ({"data": DATA, "solver": {"memory": 5}}, "memory is an option of lbfgs: name is 'auto'"),
        ({"data": DATA, "solver": {"name": "lbfgs", "memory": 0}}, "memory is 0: expected 1 .. 10,000"),
        ({"data": DATA, "solver": {"name": "newton", "momentum": "none"}}, "momentum is an option of gradient_descent"),
        ({"data": DATA, "solver": {"early_stopping": 0}}, "early_stopping is 0: expected >= 1"),
        ({"data": DATA, "model": {"delta": 1.0}}, "delta is an option of huber: loss is 'squared'"),
        ({"data": DATA, "model": {"loss": "huber", "delta": -1.0}}, "delta is -1.0: expected a positive number"),
        ({"data": DATA, "model": {"loss": "poisson"}, "solver": {"name": "exact"}}, "'exact' is for the squared loss"),
    ],
)
def test_job_mistakes_are_named(tables, words):
    with pytest.raises(JobError) as error:
        parse_job(tables)
    assert words in str(error.value)


def test_paths_start_at_the_job_file(folder):
    job = read_job(folder / "job.toml", ["solver.tol=1e-9", "cluster.kind=none"])
    assert job.data.source == str(folder / "table.parquet") and job.output.folder == str(folder / "run")
    assert (job.solver.tol, job.cluster.kind) == (1e-9, "none")


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    folder = tmp_path / "alpha=[1] *"
    folder.mkdir()
    pq.write_table(pa.table({"x": [1.0, 2.0]}), folder / "what?.parquet")
    assert open_table(str(folder / "what?.parquet")).rows == (2,)


def test_any_range_of_several_files(tmp_path, frame):
    for number, part in enumerate(np.array_split(np.arange(2_000), [137, 900])):
        frame.iloc[part].to_parquet(tmp_path / f"part-{number}.parquet", row_group_size=100)
    table = open_table(str(tmp_path / "part-*.parquet"))
    assert table.n_rows == 2_000 and len(table.files) == 3
    for start, stop in ((0, 2_000), (100, 1_050), (136, 138), (900, 900)):
        found = table.read(start, stop, ["delay", "carrier"]).to_pandas()
        assert found.delay.tolist() == frame.delay[start:stop].tolist()
        assert found.carrier.tolist() == frame.carrier[start:stop].tolist()


def test_files_with_other_columns_are_named(tmp_path, frame):
    frame.to_parquet(tmp_path / "1.parquet")
    frame.drop(columns="late").to_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match="has other columns than"):
        open_table(str(tmp_path / "*.parquet"))


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_parts_and_their_positions(share):
    train_part, held_part = (Part(Split(share), held, 5_000) for held in (False, True))
    assert train_part.count() + held_part.count() == 5_000
    rows = np.flatnonzero(~Split(share).held(0, 5_000))
    wanted = [0, 1, 777, len(rows) - 1, len(rows)]
    assert train_part.positions(wanted) == [*rows[wanted[:-1]].tolist(), 5_000]


@pytest.mark.parametrize("name", ["carrier", "month"])
def test_classes(tmp_path, frame, name):
    frame = frame[:4_000]
    frame.to_parquet(tmp_path / "table.parquet")
    data = {"source": str(tmp_path / "table.parquet"), "target": name, "numeric": ["late", "delay"], "holdout": 0.25}
    output = {"folder": str(tmp_path / "run")}
    job = parse_job({"data": data, "model": {"loss": "softmax"}, "solver": {"tol": 1e-9}, "output": output})
    report = run_job(job, None, lambda progress: False, lambda run: None)
    held = Split(0.25).held(0, 4_000)
    X = frame[["late", "delay"]].to_numpy()
    X = (X - X[~held].mean(axis=0)) / X[~held].std(axis=0)
    here = LogisticRegression(tol=1e-9).fit(X[~held], frame[name][~held])
    model = load_model(tmp_path / "run")
    assert list(model.encoding.target.values) == list(here.classes_)
    np.testing.assert_allclose(model.coef.T, here.coef_, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(model.intercept - model.intercept.mean(), here.intercept_, rtol=1e-6, atol=1e-7)
    largest = next(iter(report.coefficients))
    j, c = np.unravel_index(np.argmax(abs(model.coef)), model.coef.shape)
    assert largest == f"{('late', 'delay')[j]} ({here.classes_[c]})"
    assert report.coefficients[largest] == model.coef[j, c]
    assert report.intercept == {str(value): b for value, b in zip(here.classes_, model.intercept, strict=True)}
    codes = np.searchsorted(here.classes_, frame[name])
    of_held = Objective(lay_out(X[held], codes[held]), losses.Softmax(len(here.classes_)))
    parameters = np.append(here.coef_.T, here.intercept_)
    assert report.score == "D2" and report.score_held_out == pytest.approx(of_held.explained(parameters), rel=1e-6)


def test_a_job_of_classes_from_the_command_line(folder, frame):
    settings = ("--set", "model.loss=softmax", "--set", "data.target=month", "--set", "data.categorical=['carrier']")
    settings += ("--set", "solver.name=lbfgs", "--set", "data.numeric=['late', 'distance', 'delay']")
    done = train(folder, *settings, cluster="local:2")
    assert done.returncode == 0, done.stderr
    assert "late (1)" in done.stdout and "intercept" in done.stdout
    frame.assign(late=1.0, month="May").to_parquet(folder / "table.parquet")
    done = train(folder, *settings)
    assert done.returncode == 2 and "'month' is 'May' in all rows: softmax takes two classes" in done.stderr
    settings += ("--set", "data.target=late", "--set", "data.numeric=['distance']", "--out", "elsewhere")
    done = train(folder, *settings)
    assert done.returncode == 2 and "'late' in [data] target holds double: expected words" in done.stderr


def test_names_of_classes_are_shown_as_they_are(tmp_path, frame, capsys):
    frame = frame[:500].assign(carrier=frame.carrier.map({"AA": "[/x]", "B6": "[red]", "UA": "plain"}))
    frame.to_parquet(tmp_path / "table.parquet")
    data = {"source": str(tmp_path / "table.parquet"), "target": "carrier", "numeric": ["delay"]}
    job = parse_job({"data": data, "model": {"loss": "softmax"}, "output": {"folder": str(tmp_path / "run")}})
    show_report(Console(width=120), run_job(job, None, lambda progress: False, lambda run: None), "run")
    shown = capsys.readouterr().out
    assert "delay ([/x])" in shown and "[red] " in shown


def test_reading_leaves_no_thread_behind(folder):
    """Arrow's would now and then abort a process that ends soon after."""
    program = (
        "import os\nfrom dist_dot.jobs.sources import open_table\ntable = open_table('table.parquet')\n"
        "before = len(os.listdir('/proc/self/task'))\ntable.read(0, 100, ['late'])\n"
        "print(len(os.listdir('/proc/self/task')) - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.stdout == "0\n"
