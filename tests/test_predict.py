"""dist-dot predict: what a run has left, applied to the rows of a table."""

import gc
import json
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_dot import LogisticRegression
from dist_dot.errors import DataError, JobError
from dist_dot.jobs.job import parse_job
from dist_dot.jobs.model import load_model
from dist_dot.jobs.predict import predict_table
from dist_dot.jobs.run import run_job

ROWS = 5_000


def frame_of(seed):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "number": np.arange(ROWS),
            "distance": random.uniform(100, 3000, ROWS),
            "carrier": random.choice(["AA", "B6", "UA"], ROWS),
            "month": random.integers(1, 13, ROWS),
        }
    )
    z = frame.distance / 1000 + 2.0 * (frame.carrier == "B6") - 0.1 * frame.month
    frame["late"] = (random.random(ROWS) < 1 / (1 + np.exp(-z))).astype(float)
    return frame


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a logistic run, with the table it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, frame_of(1))
    return folder


@pytest.fixture(autouse=True)
def many_ranges(monkeypatch):
    """Ranges of some hundred rows, so that there are more than are on their way at a time."""
    monkeypatch.setattr("dist_dot.jobs.predict.RANGE", 40_000)


def train(folder, frame, loss="logistic", alpha=1.0, **data):
    frame.to_parquet(folder / "table.parquet")
    table = {"source": str(folder / "table.parquet"), "target": "late", "numeric": ["distance"]}
    table |= {"categorical": ["carrier", "month"]} | data
    output = {"folder": str(folder / "run"), "checkpoint_every": 0}
    job = parse_job({"data": table, "model": {"loss": loss, "alpha": alpha}, "solver": {"tol": 1e-9}, "output": output})
    return run_job(job, None, lambda progress: False, lambda name: None)


def predicted(folder, source, keep=(), client=None):
    seen = []
    out = folder / "predicted.parquet"
    done = predict_table(load_model(folder / "run"), str(source), str(out), keep, client, lambda *at: seen.append(at))
    assert not seen or seen[-1] == (done.rows, done.rows)
    return pq.read_table(out), done


def design(frame, encoding):
    numbers = [(frame[c["name"]] - c["mean"]) / c["scale"] for c in encoding["numeric"]]
    return np.column_stack(
        numbers + [frame[c["name"]] == value for c in encoding["categorical"] for value in c["values"]]
    ).astype(float)


def test_what_it_predicts_is_what_the_estimator_does(trained):
    encoding = json.loads((trained / "run" / "model.json").read_text())["encoding"]
    old, new = frame_of(1), frame_of(2)
    new.to_parquet(trained / "new.parquet", row_group_size=777)
    found, done = predicted(trained, trained / "new.parquet", ("number", "carrier", "number"))
    assert (done.rows, done.unseen) == (ROWS, {})
    assert found.column_names == ["number", "carrier", "prediction"]
    assert found["number"].to_pylist() == new.number.to_list() and found["carrier"].to_pylist() == list(new.carrier)
    here = LogisticRegression(C=1.0, tol=1e-9).fit(design(old, encoding), old.late)
    probability = here.predict_proba(design(new, encoding))[:, 1]
    np.testing.assert_allclose(found["prediction"].to_numpy(), probability, rtol=1e-6)


@pytest.mark.parametrize("loss", ["squared", "poisson", "gamma", "huber"])
def test_the_mean_of_each_loss(tmp_path, loss):
    frame = frame_of(3)
    frame["late"] = 1.0 + frame.late
    report = train(tmp_path, frame, loss)
    found, _ = predicted(tmp_path, tmp_path / "table.parquet")
    mean = found["prediction"].to_numpy()
    assert ((mean - frame.late) ** 2).mean() < frame.late.var()
    if loss in ("squared", "poisson"):  # with an unpenalised intercept, the means of both are the same
        assert mean.mean() == pytest.approx(frame.late.mean(), rel=1e-6)
    if loss == "squared":
        assert 1 - ((mean - frame.late) ** 2).sum() / ((frame.late - frame.late.mean()) ** 2).sum() == pytest.approx(
            report.score_train
        )


@pytest.mark.parametrize("loss", ["logistic", "poisson"])
@pytest.mark.parametrize("fee", [np.full(ROWS, 0.1), np.where(np.arange(ROWS) % 2, 0.3, 0.1 + 0.2)], ids=["one", "ulp"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_column_that_does_not_vary_has_no_effect(tmp_path, loss, fee, alpha):
    # 0.1 + 0.2 and 0.3 differ by rounding alone.
    frame = frame_of(4).assign(fee=fee)
    train(tmp_path, frame, loss, alpha, numeric=["distance", "fee"])
    encoding = json.loads((tmp_path / "run" / "model.json").read_text())["encoding"]
    assert [column["scale"] for column in encoding["numeric"]] == [pytest.approx(frame.distance.std(ddof=0)), 0.0]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["status"] == "CONVERGED" and report["coefficients"]["fee"] == 0.0
    frame.assign(fee=0.2).to_parquet(tmp_path / "other.parquet")
    (same, _), (other, _) = (predicted(tmp_path, tmp_path / f"{name}.parquet") for name in ("table", "other"))
    np.testing.assert_array_equal(other["prediction"], same["prediction"])


def test_a_variation_of_a_billionth_is_learned(tmp_path):
    frame = frame_of(5)
    frame["fee"] = 1.0 + 1e-9 * (frame.distance > frame.distance.median())
    frame["late"] = 1.0 * (frame.fee > 1.0)
    train(tmp_path, frame, numeric=["fee"], categorical=[])
    found, _ = predicted(tmp_path, tmp_path / "table.parquet")
    np.testing.assert_array_equal(found["prediction"].to_numpy() > 0.5, frame.late == 1.0)


def test_classes(tmp_path, clients):
    frame = frame_of(9)
    train(tmp_path, frame, "softmax", target="carrier", numeric=["distance", "late"], categorical=["month"])
    found, done = predicted(tmp_path, tmp_path / "table.parquet", ("number",), clients(2))
    names = [f"probability_{carrier}" for carrier in ("AA", "B6", "UA")]
    assert found.column_names == ["number", "prediction", *names] and done.rows == ROWS
    probability = np.column_stack([found[name] for name in names])
    encoding = json.loads((tmp_path / "run" / "model.json").read_text())["encoding"]
    here = LogisticRegression(C=1.0, tol=1e-9).fit(design(frame, encoding), frame.carrier)
    np.testing.assert_allclose(probability, here.predict_proba(design(frame, encoding)), rtol=1e-5)
    assert found["prediction"].to_pylist() == list(here.predict(design(frame, encoding)))
    with pytest.raises(JobError, match="'probability_B6' cannot be kept"):
        frame.assign(probability_B6=1).to_parquet(tmp_path / "table.parquet")
        predicted(tmp_path, tmp_path / "table.parquet", ("probability_B6",))


def test_the_same_bits_on_a_cluster_and_from_several_files(trained, clients):
    frame = frame_of(4)
    for part, rows in enumerate(np.array_split(np.arange(ROWS), 3)):
        frame.iloc[rows].to_parquet(trained / f"part-{part}.parquet")
    one, _ = predicted(trained, trained / "part-*.parquet")
    two, _ = predicted(trained, trained / "part-*.parquet", client=clients(2))
    assert one.equals(two) and one.num_rows == ROWS


def test_a_url_and_a_table_without_rows(trained):
    frame_of(5)[:0].astype({"carrier": str}).to_parquet(trained / "none.parquet")
    model = load_model(trained / "run")
    done = predict_table(model, str(trained / "none.parquet"), "memory://here/out.parquet", (), None, lambda *at: None)
    with fsspec.open("memory://here/out.parquet") as file:
        assert done.rows == pq.read_table(file).num_rows == 0


def test_a_category_that_is_new(trained):
    frame = frame_of(6)
    frame.loc[:9, "carrier"] = "ZZ"
    frame.to_parquet(trained / "new.parquet")
    found, done = predicted(trained, trained / "new.parquet")
    assert done.unseen == {"carrier": 10}
    model = load_model(trained / "run")
    encoding = json.loads((trained / "run" / "model.json").read_text())["encoding"]
    z = design(frame, encoding)[:10] @ model.coef + model.intercept
    np.testing.assert_allclose(found["prediction"].to_numpy()[:10], 1 / (1 + np.exp(-z)))


MISTAKES = {
    "no column": (
        lambda frame: frame.rename(columns={"carrier": "carriers"}),
        (),
        "no column 'carrier': did you mean 'c",
    ),
    "kept": (lambda frame: frame, ("numbr",), "no column 'numbr': did you mean 'number'"),
    "missing": (
        lambda frame: frame.assign(distance=frame.distance.where(frame.number != 77)),
        (),
        "NaN|missing in row 77",
    ),
    "words": (lambda frame: frame.assign(month=frame.month.astype(str)), (), "'month' of .* holds .*whole numbers"),
    "numbers": (lambda frame: frame.assign(distance="far"), (), "'distance' in .* holds .*expected numbers"),
    "prediction": (lambda frame: frame.assign(prediction=1), ("prediction",), "cannot be kept"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_and_nothing_is_written(trained, mistake):
    change, keep, words = MISTAKES[mistake]
    change(frame_of(7)).to_parquet(trained / "wrong.parquet")
    (trained / "predicted.parquet").write_bytes(b"of before")
    with pytest.raises((DataError, JobError), match=words):
        predicted(trained, trained / "wrong.parquet", keep)
    assert (trained / "predicted.parquet").read_bytes() == b"of before"
    assert not list(trained.glob(".*"))


def test_an_error_late_in_the_table_leaves_nothing(trained, capfd):
    frame = frame_of(7)
    frame.loc[ROWS - 1, "distance"] = np.nan
    frame.to_parquet(trained / "wrong.parquet")
    fsspec.filesystem("memory").pipe("/here/out.parquet", b"of before")
    for out in (str(trained / "late.parquet"), "memory://here/out.parquet"):
        with pytest.raises(DataError, match="row 4999"):
            predict_table(load_model(trained / "run"), str(trained / "wrong.parquet"), out, (), None, lambda *at: None)
    gc.collect()
    assert not list(trained.glob(".*")) and not (trained / "late.parquet").exists()
    assert fsspec.filesystem("memory").cat("/here/out.parquet") == b"of before"
    assert len(fsspec.filesystem("memory").ls("/here")) == 1 and capfd.readouterr().err == ""


def test_files_that_differ_in_the_kinds_of_their_columns(trained):
    frame = frame_of(8).assign(note=[None] * 2_000 + ["seen"] * 3_000)
    first = pa.Table.from_pandas(frame[:2_000], preserve_index=False)
    second = frame[2_000:].astype({"number": float, "carrier": "category", "distance": int})
    pq.write_table(first, trained / "kinds-0.parquet")
    pq.write_table(pa.Table.from_pandas(second, preserve_index=False), trained / "kinds-1.parquet")
    with pytest.raises(
        DataError, match=r"kinds-1\.parquet has columns of other kinds than .*kinds-0\.parquet: .*carrier"
    ):
        predicted(trained, trained / "kinds-*.parquet")
    second = second.astype({"carrier": str})
    pq.write_table(pa.Table.from_pandas(second, preserve_index=False), trained / "kinds-1.parquet")
    found, _ = predicted(trained, trained / "kinds-*.parquet", ("number", "note"))
    assert (
        found["number"].to_pylist() == list(range(ROWS))
        and found["note"].to_pylist() == [None] * 2_000 + ["seen"] * 3_000
    )


def test_where_nothing_can_be_written(trained):
    source = trained / "table.parquet"
    before = source.read_bytes()
    model = load_model(trained / "run")
    (trained / "folder").mkdir()
    for out, words in (
        (trained / "folder", "it is a folder"),
        (f"file://{trained}/folder", "it is a folder"),
        (source, "it is what is read"),
        (f"file://{trained}/no/such/out.parquet", "cannot be written"),
        ("gone://out.parquet", "cannot be written"),
        ("http://127.0.0.1:9/out.parquet", "cannot be written"),
    ):
        with pytest.raises(JobError, match=words):
            predict_table(model, str(source), str(out), (), None, lambda *at: None)
    assert source.read_bytes() == before and not list(trained.glob(".*"))


def test_a_folder_without_a_whole_model(trained, tmp_path):
    with pytest.raises(JobError, match=r"no model in .*model\.json: No such file"):
        load_model(tmp_path)
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((trained / "run" / name).read_bytes())
    known = json.loads((tmp_path / "model.json").read_text())
    older = {key: value for key, value in known.items() if key != "digest"}
    (tmp_path / "model.json").write_text(json.dumps(older))
    assert load_model(tmp_path).coef.tobytes() == load_model(trained / "run").coef.tobytes()
    for wrong, words in (
        (known | {"format": 2}, "has format 2: this version reads format 1"),
        (known | {"digest": "0"}, "of different runs"),
        (older | {"encoding": known["encoding"] | {"numeric": []}}, "coefficients .* for 15 features"),
        (known | {"loss": "hinge"}, "unknown loss, 'hinge'"),
        ({"format": 1}, "has no 'encoding'"),
        ([], "cannot be read"),
    ):
        (tmp_path / "model.json").write_text(json.dumps(wrong))
        with pytest.raises(JobError, match=words):
            load_model(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(JobError, match="cannot be read"):
        load_model(tmp_path)


def test_the_command(trained):
    program = Path(sys.executable).with_name("dist-dot")
    frame = frame_of(8)
    frame.loc[0, "carrier"] = "ZZ"
    frame.to_parquet(trained / "new.parquet")

    def run(*words):
        return subprocess.run([program, "predict", *words], capture_output=True, text=True, timeout=120, cwd=trained)

    done = run("run", "new.parquet", "--out", "cli.parquet", "--keep", "number", "--cluster", "local:2")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "5,000 predictions of late: cli.parquet" in done.stdout
        and "carrier has values that the model has not seen" in done.stdout
    )
    assert pq.read_table(trained / "cli.parquet").column_names == ["number", "prediction"]
    known = json.loads((trained / "run" / "model.json").read_text())
    (trained / "run" / "model.json").write_text(json.dumps(known | {"status": "MAX_ITER"}))
    assert (
        "warning: the run of this model has ended as max_iter" in run("run", "new.parquet", "--out", "x.parquet").stdout
    )
    for words, error in (
        (("run", "new.parquet", "--out", "x.parquet", "--cluster", "kubernetes"), "predict makes no pods"),
        (("nowhere", "new.parquet", "--out", "x.parquet"), "no model in nowhere"),
        (("run", "gone.parquet", "--out", "x.parquet"), "gone.parquet"),
        (("run", "new.parquet", "--out", "no/folder/x.parquet"), "cannot be written"),
    ):
        done = run(*words)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and error in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1
