"""Jobs that keep their rows on GPUs, and blocks of GPUs in Dask's hands, without a GPU."""

import asyncio
import sys
from dataclasses import replace
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest
from click.testing import CliRunner
from distributed.protocol.cuda import cuda_deserialize, cuda_serialize
from distributed.protocol.serialize import deserialize, serialize
from problems import dense_block
from test_jobs import JOB, make_table
from test_rounds import SPEC
from test_submit import JOB as SUBMITTED
from test_submit import dry_run

from dist_dot.errors import DeviceError, JobError
from dist_dot.jobs import preflight
from dist_dot.jobs.cli import main
from dist_dot.jobs.job import parse_job
from dist_dot.jobs.preflight import check_gpu_memory, check_gpus, shared_out
from dist_dot.jobs.probe import gpu
from dist_dot.jobs.run import run_job
from dist_dot.kernels.device.serialize import Block as Registered
from dist_dot.rounds.asking import BUNDLE, Rounds
from dist_dot.rows import settle
from dist_dot.rows.block import Block, cut, named

DATA = {"source": "table.parquet", "target": "late", "numeric": ["delay"]}
GB = 10**9


@pytest.mark.parametrize(
    ("device", "place", "expected"),
    [
        (None, {}, "cpu"),
        (None, {"kind": "cuda"}, "cuda"),
        (None, {"kind": "kubernetes", "gpus_per_worker": 1}, "cuda"),
        (None, {"kind": "local", "gpus_per_worker": 1}, "cpu"),  # which reserves none
        (None, {"kind": "tcp://host:8786"}, "cpu"),
        ("auto", {"kind": "cuda"}, "cuda"),
        ("cpu", {"kind": "cuda"}, "cpu"),
        ("cuda", {"kind": "none"}, "cuda"),
    ],
)
def test_where_a_job_keeps_its_rows(device, place, expected):
    data = DATA if device is None else DATA | {"device": device}
    assert parse_job({"data": data, "cluster": place}).device == expected


def test_a_word_that_is_none_is_a_mistake_of_the_job():
    with pytest.raises(JobError, match=r"\[data\] device is 'gpu': expected 'auto' or 'cpu' or 'cuda'"):
        parse_job({"data": DATA | {"device": "gpu"}})


def test_a_job_without_a_gpu_ends_before_it_reads(tmp_path, monkeypatch):
    make_table(tmp_path)
    (tmp_path / "job.toml").write_text(JOB)
    monkeypatch.setattr(settle, "unusable", lambda: "there is no GPU")
    monkeypatch.setattr("dist_dot.jobs.run.learn_encoding", None)
    done = CliRunner().invoke(
        main, ["train", str(tmp_path / "job.toml"), "--cluster", "none", "--set", "data.device=cuda"]
    )
    assert done.exit_code == 2
    assert "error: device 'cuda' is asked for, and on" in done.output and "there is no GPU" in done.output


def test_a_job_whose_rows_do_not_fit_ends_before_it_reads_them(tmp_path, monkeypatch):
    make_table(tmp_path)
    fake_cupy.install(monkeypatch, free=1000)
    monkeypatch.setattr("dist_dot.jobs.run._blocks", None)
    data = DATA | {"source": str(tmp_path / "table.parquet"), "device": "cuda", "holdout": 0.5}
    job = parse_job({"data": data, "output": {"folder": str(tmp_path / "run")}})
    with pytest.raises(DeviceError, match="30,000 rows of 1 columns"):  # those held out are scored beside the others
        run_job(job, None, lambda progress: False, lambda name: None)


def test_a_worker_without_a_gpu_is_named_before_the_run(clients, tmp_path, monkeypatch):
    make_table(tmp_path)
    monkeypatch.setattr("dist_dot.jobs.run.learn_encoding", None)
    data = DATA | {"source": str(tmp_path / "table.parquet"), "device": "cuda"}
    job = parse_job({"data": data, "output": {"folder": str(tmp_path / "run")}})
    with pytest.raises(DeviceError, match=r"GPUs are to keep the rows, and on worker tcp://.* and 1 more of 2 workers"):
        run_job(job, clients(2), lambda progress: False, lambda name: None)


def test_a_block_that_a_worker_cannot_put_on_a_gpu_is_an_error_of_the_fit(clients):
    import dask.array as da

    from dist_dot import Ridge

    X = da.random.default_rng(0).standard_normal((100, 3), chunks=(50, 3))
    with clients(1).as_current(), pytest.raises(DeviceError, match="device 'cuda' is asked for, and on"):
        Ridge(device="cuda").fit(X, X[:, 0])


def workers_with(monkeypatch, **found):
    """Have the look find these workers; return their client."""
    usual = {"host": "a", "card": "1", "name": "NVIDIA H100 (CuPy 14.2.0, CUDA 13.0)", "free": 10 * GB, "missing": None}
    monkeypatch.setattr(preflight, "_ask_workers", lambda client, function: {w: usual | of for w, of in found.items()})
    workers = {worker: {"nthreads": 1} for worker in found}
    return SimpleNamespace(scheduler_info=lambda n_workers: {"workers": workers}, status="running")


def test_the_memory_of_gpus_is_that_of_all_their_workers(monkeypatch):
    client = workers_with(monkeypatch, one={}, two={"card": "2"})
    check_gpu_memory(client, cut(2_000_000, 1000, "float64"), False)  # 8.0 GB on each
    with pytest.raises(DeviceError, match=r"take .* of which worker one would keep 10\.\d. GiB, and the GPU there"):
        check_gpu_memory(client, cut(2_800_000, 1000, "float64"), False)
    client = workers_with(monkeypatch, one={}, two={})  # of the same GPU
    with pytest.raises(DeviceError, match=r"worker one and 1 more of 2 workers would keep 14\.\d+ GiB.* has 9\.31 GiB"):
        check_gpu_memory(client, cut(2_000_000, 1000, "float64"), False)
    assert shared_out(10, {"a": 1, "b": 3}) == {"a": 3, "b": 8}


def test_gpus_that_differ_are_worth_a_word(monkeypatch, notices):
    check_gpus(workers_with(monkeypatch, one={}, two={}))
    assert not notices
    check_gpus(workers_with(monkeypatch, one={}, two={"name": "NVIDIA A100 (CuPy 14.2.0, CUDA 13.0)"}))
    assert "the GPUs of the workers differ" in notices[0] and "A100" in notices[0] and "H100" in notices[0]


def test_what_a_worker_says_of_its_gpu(monkeypatch):
    cupy = fake_cupy.install(monkeypatch, free=1000, pooled=24)
    found = gpu()
    assert found["free"] == 1024 and found["missing"] is None and found["card"]
    assert found["name"] == "NVIDIA H100 (CuPy 14.2.0, CUDA 13.0)"
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    assert "no GPU" in gpu()["missing"]


def test_the_pods_of_a_submitted_job_are_told(tmp_path):
    job = tmp_path / "flights.toml"
    job.write_text(SUBMITTED)
    source = ("--set", "data.source=/data/x")
    assert "data.device=cuda" in dry_run(job, *source, "--gpus-per-worker", "1").output
    assert "data.device=cuda" not in dry_run(job, *source).output
    done = dry_run(job, *source, "--gpus-per-worker", "1", "--set", "data.device=cpu")
    assert "data.device=cpu" in done.output and "data.device=cuda" not in done.output


# Blocks that travel, and how much there is of them.


def test_a_fit_says_where_it_ran():
    assert named(["", ""]) == "" and named(["NVIDIA H100"] * 3) == ", on NVIDIA H100"
    assert named(["NVIDIA H200", "NVIDIA H100"]) == ", on NVIDIA H100 and NVIDIA H200"


@pytest.fixture
def there(monkeypatch):
    """A block on a GPU, of a CuPy that Dask knows how to send."""
    cupy = fake_cupy.install(monkeypatch)
    cuda_serialize.register(cupy.ndarray, lambda array: ({"shape": array.shape}, [array]))
    cuda_deserialize.register(cupy.ndarray, lambda header, frames: frames[0])
    X = np.random.default_rng(0).standard_normal((40, 3))
    return dense_block(settle.to_device(X, "float64"), settle.to_device(X[:, 0], "float64"), None, 8)


def test_a_block_of_a_gpu_stays_there_where_the_connection_can_send_it_so(there):
    assert Registered is Block
    header, frames = serialize(there, serializers=("cuda", "dask", "pickle"))  # what UCX asks for
    assert header["serializer"] == "cuda" and frames[0] is there.X.values and frames[1] is there.y and len(frames) == 2
    again = deserialize(header, frames)
    assert again.X.values is there.X.values and again.weight is None and again.start == 8
    header, frames = serialize(there)  # what TCP asks for
    assert header["serializer"] == "pickle"
    np.testing.assert_array_equal(deserialize(header, frames).X.values._values, there.X.values._values, strict=True)
    host = dense_block(np.ones((4, 2)), np.ones(4))
    assert serialize(host, serializers=("cuda", "dask", "pickle"))[0]["serializer"] == "pickle"


def test_dask_cuda_is_asked_for_nothing_where_it_is_not(there, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_cuda.is_spillable_object", None)
    deserialize(*serialize(there))


def test_blocks_of_gpus_are_moved_by_their_true_size_in_bundles_and_to_gpus_with_room():
    # 8 blocks of 100 MB, which Dask takes for 400 bytes each, on one of two workers.
    cuts = cut(1_000_000, 99, "float64", 125_000)
    assert cuts.n_blocks == 8
    spec = replace(SPEC, cuts=cuts, checksums=("",) * 8, devices=", on NVIDIA H100")
    moved = []

    async def go(metrics, spec=spec):
        moved.clear()
        here = SimpleNamespace(
            address="here", nthreads=1, memory_limit=1 << 20, metrics={}, memory=SimpleNamespace(process=0)
        )
        new = SimpleNamespace(**vars(here) | {"address": "new", "metrics": metrics})
        tasks = {key: SimpleNamespace(nbytes=400, who_has=(here,), state="memory") for key in spec.keys}
        scheduler = SimpleNamespace(
            workers={"here": here, "new": new}, running=[here, new], tasks=tasks, bandwidth=1e12
        )
        rounds = Rounds("run", spec, scheduler, lambda words: None)
        rounds.began -= 1000.0
        rounds.placement = {"here": [(0, 8)]}
        assert rounds._size(0) == 125_000 * 103 * 8

        async def move(address, part):
            moved.append(part)

        rounds._move = move
        await rounds.even_out()

    asyncio.run(go({"gpu-memory-total": 80 * GB, "gpu_memory_used": 1 * GB}))
    assert [len(part) for part in moved] == [3, 1] and 3 * 125_000 * 101 * 8 >= BUNDLE
    asyncio.run(go({"gpu-memory-total": 80 * GB, "gpu_memory_used": None}))
    assert moved
    for full_or_unknown in ({"gpu-memory-total": 80 * GB, "gpu_memory_used": 79 * GB}, {}):
        asyncio.run(go(full_or_unknown))
        assert not moved
