"""Job files and command lines that cannot be used: a row each, with the one line that the user reads, and status 2."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from dist_dot_cluster import ClusterWordError, address
from rich.console import Console

from dist_dot.errors import ClusterError
from dist_dot.jobs import preflight
from dist_dot.jobs.cli import main
from dist_dot.jobs.console import show_runs
from dist_dot.jobs.submit import show_submitted
from dist_dot.jobs.words import shown
from dist_dot.rounds.remote import RunSummary
from dist_dot.training.fit import Progress

JOB = """
[data]
source = "table.parquet"
target = "y"
numeric = ["x"]
categorical = ["c"]
[model]
[output]
folder = "run"
[cluster]
kind = "none"
"""
N = 60


@pytest.fixture
def folder(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    x = random.standard_normal(N)
    table = {"x": x, "y": 2 * x + random.standard_normal(N), "c": random.choice(["a", "b"], N), "[/x]": x + 1}
    pq.write_table(pa.table(table), tmp_path / "table.parquet")
    (tmp_path / "job.toml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def refused(*words):
    """Return the one line that ends the command with status 2."""
    done = run(*words)
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit), (done.output, done.exception)
    assert done.output.startswith("error: ") and done.output.count("\n") == 1, done.output
    return done.output


NO_TOML = "job.toml is no TOML in UTF-8: "
FILES = {
    "nested lists": (JOB + "x = " + "[" * 2000 + "]" * 2000, NO_TOML + "its lists or tables are nested too deeply"),
    "nested tables": (JOB + "x = " + "{a=" * 2000 + "1" + "}" * 2000, NO_TOML + "its lists or tables are nested"),
    "5,000 digits": (JOB + f"workers = {'9' * 5000}", NO_TOML + "Exceeds the limit"),
    "5,000 digits of 16": (JOB + f"workers = 0x{'f' * 5000}", "workers is a whole number of thousands of digits: exp"),
    "in a list": (
        JOB + f"volumes = [0x{'f' * 5000}]",
        "volumes is a whole number of thousands of digits: expected a l",
    ),
    "2^63": (
        JOB + "workers = 9223372036854775808",
        "[cluster] workers is 9223372036854775808: expected a number",
    ),
    "a large float": (JOB.replace("[model]", f"[model]\nalpha = {'9' * 400}"), "[model] alpha is 9999"),
    "NUL": (JOB + "\0", NO_TOML),
    "NUL in a path": (JOB.replace("table.parquet", "t\\u0000"), r"[data] source is 't\x00': expected a text without"),
    "NUL in a folder": (JOB.replace('"run"', '"r\\u0000"'), r"[output] folder is 'r\x00': expected a text without"),
    "UTF-16": (JOB.encode("utf-16"), NO_TOML + "'utf-8' codec can't decode byte 0xff in position 0"),
    "latin-1": (JOB.replace('"x"', '"\xe9"').encode("latin-1"), NO_TOML + "'utf-8' codec can't decode byte 0xe9"),
    "a key twice": (JOB + 'kind = "local"', NO_TOML + "Cannot overwrite a value"),
    "a long folder": (JOB.replace('"run"', f'"{"r" * 300}"'), "cannot be written: File name too long"),
    "a file for a folder": (JOB.replace('"run"', '"table.parquet"'), "table.parquet is a file"),
    "a URL for a folder": (JOB.replace('"run"', '"s3://bucket/run"'), "folder of the run is 's3://bucket/run': give a"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_jobs(folder, name):
    text, words = FILES[name]
    (folder / "job.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert words in refused("train", "job.toml")
    assert sorted(path.name for path in folder.iterdir()) == ["job.toml", "table.parquet"]


def test_a_table_in_place_of_a_job(folder):
    assert "job file table.parquet is no TOML in UTF-8: 'utf-8' codec" in refused("train", "table.parquet")


def test_a_mark_of_the_byte_order_is_no_mistake(folder):
    (folder / "job.toml").write_bytes(b"\xef\xbb\xbf" + JOB.encode())
    assert run("train", "job.toml").exit_code == 0


SETTINGS = [
    ("solver.max_iter=" + "9" * 5000, "--set solver.max_iter: Exceeds the limit"),
    ("solver.max_iter=" + "[" * 2000 + "]" * 2000, "--set solver.max_iter: its lists or tables are nested too deeply"),
    ("solver.tol=inf", "[solver] tol is inf: expected a finite number >= 0"),
    ("solver.memory=100000000", "[solver] memory is 100000000: expected 1 .. 10,000"),
    ("cluster.threads=100000", "[cluster] threads is 100000: expected 1 .. 1,000"),
    ('cluster.kind="local:²"', "unknown cluster 'local:²'"),
    ("cluster.kind=local:" + "9" * 5000, "unknown cluster 'local:999"),
    # Keys of [cluster] that the kind makes nothing of.
    ("cluster.workers=3", "[cluster] workers does nothing where the cluster is 'none': leave it out"),
    ("cluster.threads=3", "[cluster] threads does nothing where the cluster is 'none'"),
    ("cluster.patience=3", "[cluster] patience does nothing where the cluster is 'none'"),
    ('cluster.image="x"', "[cluster] image does nothing where the cluster is 'none': leave it out"),
    ('cluster.volumes=["a:/b"]', "[cluster] volumes does nothing"),
    ('cluster.tls_cert="x"', "[cluster] tls_cert does nothing where the cluster is 'none'"),
    ('cluster.namespace="x"', "[cluster] namespace does nothing where the cluster is 'none'"),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "words"), SETTINGS, ids=[setting[:40] for setting, _ in SETTINGS])
def test_settings(folder, setting, words):
    assert words in refused("train", "job.toml", "--set", setting)


KINDS = {
    "local": "cpus tls_key namespace",
    "local:2": "workers gpus_per_worker",
    "cuda": "workers threads",
    "tcp://host:1": "threads tls_ca_file memory",
    "tls://host:1": "threads env_from",
    "kubernetes": "threads tls_cert",
    "kubernetes:name": "workers image operator_namespace",
}
VALUES = {
    **dict.fromkeys("tls_key tls_cert tls_ca_file namespace operator_namespace image memory".split(), '"7G"'),
    **dict.fromkeys("cpus workers threads gpus_per_worker".split(), "7"),
    "env_from": '["x"]',
}


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in KINDS.items() for key in keys.split()])
def test_a_key_that_a_kind_makes_nothing_of(folder, kind, key):
    settings = ("--set", f'cluster.kind="{kind}"', "--set", f"cluster.{key}={VALUES[key]}")
    assert f"[cluster] {key} does nothing where the cluster is {kind!r}" in refused("train", "job.toml", *settings)


def test_the_keys_of_another_cluster_stay_in_the_job(folder):
    (folder / "job.toml").write_text(JOB.replace('"none"', '"local"\nworkers = 2\nimage = "x"'))
    assert run("train", "job.toml", "--cluster", "none").exit_code == 0


COMMANDS = [
    (("train", "job.toml", "--out", "s3://bucket/run"), "the folder of the run is 's3://bucket/run'"),
    (("predict", "run", "table.parquet", "--out", "x.csv"), "x.csv would be Parquet, and its name says .csv: give"),
    (("predict", "run", "table.parquet", "--out", "x.JSON"), "x.JSON would be Parquet"),
    (("predict", "run", "table.parquet", "--out", "x\0.parquet"), "cannot be written: embedded null byte"),
    (("predict", "run", "t\0.parquet", "--out", "x.parquet"), "cannot be read as Parquet: embedded null byte"),
    (("predict", "run", "table.parquet", "--out", "x", "--namespace", "n"), "--namespace does nothing"),
    (("attach", "--cluster", "none"), "--cluster none keeps no runs once its process has ended"),
    (("attach", "--cluster", "local:2"), "--cluster local:2 keeps no runs"),
    (("attach", "--cluster", "tcp://host:1", "--namespace", "n"), "--namespace does nothing where the cluster is 'tcp"),
    (("attach", "--cluster", "kubernetes", "--out", "s3://x"), "the folder of the run is 's3://x'"),
    (("submit", "job.toml", "--out", "s3://x", "--wait"), "the folder of the run is 's3://x'"),
    (("submit", "job.toml", "--workers", "0", "--dry-run", "--image", "i"), "[cluster] workers is 0: expected >= 1"),
    (("submit", "job.toml", "--cpus", "inf", "--dry-run", "--image", "i"), "inf cpus: give a number > 0"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "words"), COMMANDS, ids=lambda part: None)
def test_commands(folder, command, words):
    if command[0] == "predict":
        assert run("train", "job.toml").exit_code == 0
    assert words in refused(*command)


@pytest.mark.parametrize("command", ["attach", "predict"])
def test_the_namespace_arrives_at_the_cluster(folder, command, monkeypatch):
    asked = {}

    def opened(*words, **options):
        asked.update(options)
        raise SystemExit(7)

    run("train", "job.toml")
    monkeypatch.setattr("dist_dot_cluster.open", opened)
    rest = ("run", "table.parquet", "--out", "x") if command == "predict" else ()
    assert run(command, *rest, "--cluster", "kubernetes:name", "--namespace", "theirs").exit_code == 7
    assert asked["namespace"] == "theirs"


def test_a_run_that_fails_leaves_no_folder(folder):
    for setting in ("data.source=gone.parquet", "data.target=gone", "data.holdout=0.9999999", "model.loss=gamma"):
        refused("train", "job.toml", "--set", setting)
        assert not (folder / "run").exists()


def test_the_model_of_another_target_is_not_overwritten(folder):
    for command in (("train", "job.toml"), ("train", "job.toml", "--set", "model.alpha=2")):
        assert run(*command).exit_code == 0
    before = (folder / "run" / "model.json").read_bytes()
    other = ("--set", "data.target=x", "--set", "data.numeric=['y']")
    assert "holds a model of 'y', and the target of this job is 'x'" in refused("train", "job.toml", *other)
    assert (folder / "run" / "model.json").read_bytes() == before
    assert run("train", "job.toml", *other, "--out", "other").exit_code == 0


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_the_report_of_a_run_that_diverges_is_json(folder):
    options = "name=gradient_descent learning_rate=1e300 momentum=none"
    settings = [word for option in options.split() for word in ("--set", f"solver.{option}")]
    assert run("train", "job.toml", *settings).exit_code == 1

    def refuse(word):
        raise AssertionError(word)

    report = json.loads((folder / "run" / "report.json").read_text(), parse_constant=refuse)
    assert report["status"] == "DIVERGED" and report["loss"] is None and report["history"]["value"][0] > 0


def test_more_rows_than_memory_end_the_run_before_they_are_made(folder, monkeypatch):
    ids = [f"id{i}" for i in range(36_000)]
    pq.write_table(pa.table({"y": np.arange(36_000.0), "x": np.arange(36_000.0), "c": ids}), folder / "table.parquet")
    monkeypatch.setattr(preflight, "MEMORY_LIMIT", 8 << 30)
    words = refused("train", "job.toml")
    assert "36,000 rows of 36,001 columns (float64) take 9.66 GiB, and this process can have" in words
    assert "(column 'c' has 36,000 categories)" in words and not (folder / "run").exists()


def test_the_list_of_what_was_submitted_at_80_columns(monkeypatch, capsys):
    meta = {
        "name": "n" * 53,
        "creationTimestamp": "2026-11-26T10:20:30Z",
        "annotations": {"dist-dot/store": "[/x]/\x1b"},
    }
    monkeypatch.setattr("dist_dot.jobs.submit.submitted", lambda namespace: [{"metadata": meta}])
    show_submitted(Console(width=80), None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["n" * 53, "running", "11-26T10:20"] and max(map(len, lines)) <= 80
    assert lines[2].strip() == "kept in [/x]/\\x1b"


def test_a_scheduler_that_is_gone():
    client = SimpleNamespace(scheduler_info=lambda n_workers: {})  # what Dask's client says then
    with pytest.raises(ClusterError, match="the scheduler is gone"):
        preflight.workers_of(client)
    with pytest.raises(ClusterWordError, match="the scheduler is gone"):
        address.workers_of(client)


SECRET = "https://store/x.parquet?X-Signature=SECRET&Expires=1"


def test_the_query_of_a_signed_url_is_not_printed(folder):
    options = ("--image", "i", "--volume", "c:/d", "--dry-run")
    (folder / "job.toml").write_text(JOB.replace("table.parquet", SECRET))
    done = run("submit", "job.toml", *options, "--set", f"output.checkpoints={SECRET}")
    assert done.exit_code == 0 and "SECRET" not in done.output and "https://store/x.parquet?..." in done.output
    assert len(list(yaml.safe_load_all(done.output))) == 7
    assert "SECRET" not in refused("train", "job.toml")


NAMES = {
    "[/x]": "[/x]",
    "[red]:smile:": "[red]:smile:",
    "\x1b[2Jgone": "\\x1b[2Jgone",
    "a\r\nb\x9b5n": "a\\r\\nb\\x9b5n",
    "right\u202eleft": "right\\u202eleft",
    "ünïcode 列": "ünïcode 列",
}


@pytest.mark.parametrize("place", ["target", "numeric", "category", "class", "folder", "unknown", "keep"])
@pytest.mark.parametrize("name", NAMES)
def test_names_do_nothing_to_the_terminal(folder, place, name):
    plain, told = NAMES[name], json.dumps(name)
    table = pq.read_table("table.parquet").to_pydict()
    table |= {name: table["x"], "class": [name, "b"] * (N // 2)}
    pq.write_table(pa.table(table), "table.parquet")
    settings = {
        "target": f"data.target={told}",
        "numeric": f"data.numeric=[{told}]",
        "category": "data.categorical=['class']",
        "class": "data.target=class",
        "unknown": f"data.weight={json.dumps(name + name)}",
    }
    more = ("--set", "model.loss=softmax") if place == "class" else ("--out", name) if place == "folder" else ()
    done = run("train", "job.toml", "--set", settings.get(place, "solver.tol=1e-6"), *more)
    if place == "keep":
        done = run("predict", "run", "table.parquet", "--out", "x.parquet", "--keep", name + name)
    assert done.exit_code == (2 if place in ("unknown", "keep") else 0), (done.output, done.exception)
    assert all(c.isprintable() or c == "\n" for c in done.output), done.output
    if place in ("unknown", "keep"):  # a repr, with what it escapes
        assert shown(repr(name + name)) in done.output
    else:
        assert plain in done.output


def test_the_list_of_runs_at_80_columns(capsys):
    at = Progress(12_345, 12_399, 1234567.25, 1.0, 1.5e-7, 3.0, 8)
    label = f"arr_delay from 160 features of {SECRET}"
    runs = [RunSummary("0123456789ab", label, "running", "2026-11-26 10:20:30", at)]
    runs.append(RunSummary("ba9876543210", "[/x] \x1b[2J", "ending", "2026-11-26 10:20:30", None))
    show_runs(Console(width=80), runs)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "state", "started", "(UTC)", "rounds", "F", "gradient"]
    assert lines[1].split() == ["0123456789ab", "running", "11-26", "10:20", "12,399", "1.23457e+06", "1.5e-07"]
    assert lines[2].strip() == "arr_delay from 160 features of https://store/x.parquet?..."
    assert lines[4].strip() == "[/x] \\x1b[2J" and max(map(len, lines)) <= 80
