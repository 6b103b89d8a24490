"""The look at the cluster before a run: what it compares, and what it says of workers that are installed otherwise."""

import os
import signal
import time

import dist_dot_cluster
import numpy as np
import pytest
from distributed import Client, LocalCluster
from remote import remote
from test_jobs import JOB, make_table

from dist_dot.errors import ClusterError, DeadlineError, JobError
from dist_dot.jobs import preflight
from dist_dot.jobs.job import parse_job
from dist_dot.jobs.preflight import Room, check_cluster, check_files, check_memory, check_versions, room
from dist_dot.jobs.probe import facts
from dist_dot.jobs.run import run_job
from dist_dot.rounds import service
from dist_dot.rounds.remote import runs
from dist_dot.rounds.worker import NAME
from dist_dot.rows.block import cut

HERE = {"missing": None, "dist_dot": "1.0", "dask": "2026.8.0", "distributed": "2026.8.0", "python": "3.12.3"}
HERE |= {"code": "1a", "numpy": "2.4", "scipy": "1.17", "numba": "0.68", "blas": "openblas 0.3 Zen", "cpu": "znver4"}
WORKERS = [f"worker tcp://{number}" for number in range(3)]
GB = 10**9


def cluster_with(**others):
    """The facts of a scheduler and three workers that are as here, but for those of the last two workers."""
    return {preflight.SCHEDULER: HERE, WORKERS[0]: HERE} | dict.fromkeys(WORKERS[1:], HERE | others)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (
            {"dist_dot": "0.9"},
            "dist_dot is 0.9 on worker tcp://1 and 1 more of 3 workers, and 1.0 here: install the same",
        ),
        ({"dask": "2025.7.0"}, "dask is 2025.7.0 on worker tcp://1 and"),
        ({"distributed": "2025.7.0"}, "distributed is 2025.7.0 on"),
        ({"python": "3.13.3"}, "Python is 3.13.3 on worker tcp://1 and 1 more of 3 workers, and 3.12.3 here"),
        ({"numba": None}, "numba is not installed on worker tcp://1 and"),
        (
            {"missing": "ImportError: no", "dist_dot": None, "code": None},
            "dist_dot cannot be imported on worker tcp://1",
        ),
        ({"dask": "1", "distributed": "2"}, "dask is 1 on .*; distributed is 2 on"),
    ],
)
def test_what_breaks_a_run_is_an_error(others, words):
    with pytest.raises(ClusterError, match=words) as error:
        check_versions(HERE, cluster_with(**others))
    assert str(error.value).count("dist_dot") == words.count("dist_dot")  # nothing is said of it twice


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"numpy": "2.0"}, "numpy is 2.0 on worker tcp://1 and 1 more of 3 workers, and 2.4 here"),
        ({"code": "2b"}, "the code of dist_dot is 2b on"),
        ({"blas": "mkl 2025 skx"}, "BLAS is mkl 2025 skx on"),
        ({"cpu": "haswell"}, "the kind of CPU is haswell on"),
    ],
)
def test_what_changes_bits_is_a_warning(notices, others, words):
    check_versions(HERE, cluster_with(**others))
    assert len(notices) == 1 and words in notices[0] and "a fit may have other bits each time" in notices[0]
    check_versions(HERE, dict.fromkeys([preflight.SCHEDULER, *WORKERS], HERE | others))  # all of them alike
    assert "a fit may have other bits there than here" in notices[1]
    assert "on the scheduler and worker tcp://0 and 2 more of 3 workers" in notices[1]


def test_the_same_everywhere_is_nothing_to_speak_of(notices):
    check_versions(HERE, cluster_with(python="3.12.11"))
    check_files({"a": 3}, dict.fromkeys(WORKERS, {"a": 3}))
    assert notices == []


@pytest.mark.parametrize(
    ("file", "there", "words"),
    [
        (
            "/a",
            "FileNotFoundError: a",
            r"source /a cannot be opened on worker tcp://1 \(FileNotF.*: it is a path of this",
        ),
        (
            "file:///a",
            4000,
            "has 4,000 bytes on worker tcp://1, and 3 here: it is a path of this machine: put it where",
        ),
        ("s3://a", "ImportError: install s3fs", r"install s3fs\): the workers need the packages and the rights"),
    ],
)
def test_files_that_workers_do_not_see(file, there, words):
    seen = {WORKERS[0]: {file: 3}, WORKERS[1]: {file: there}}
    with pytest.raises(JobError, match=words):
        check_files({file: 3}, seen)


def test_room_is_what_limits_and_hosts_leave():
    def worker(host, limit):
        return Room(host, free=10 * GB, taken=1 * GB, limit=limit)

    assert room([worker("a", 4 * GB), worker("a", 4 * GB), worker("b", 4 * GB)], 1.0) == 9 * GB
    assert room([worker("a", 8 * GB), worker("a", 8 * GB)], 1.0) == 10 * GB  # the host has no more
    assert room([worker("a", None), worker("a", 0), worker("b", 2 * GB)], 1.0) == 11 * GB
    assert room([worker("a", 4 * GB), worker("b", 1 * GB)], 0.5) == 1 * GB  # over its part is no debt of others


def test_a_local_cluster_passes_without_a_word(clients, notices, tmp_path):
    (tmp_path / "data").write_bytes(bytes(1234))
    check_cluster(clients(2), [str(tmp_path / "data")])
    check_memory(clients(2), cut(10_000, 10, "float64"), False)
    assert notices == []
    assert facts([str(tmp_path / "data")])["files"] == {str(tmp_path / "data"): 1234}


def test_rows_that_do_not_fit_are_refused_before_they_are_read(clients, notices):
    client = clients(2)
    limit = sum(worker["memory_limit"] for worker in client.scheduler_info()["workers"].values())
    with pytest.raises(
        ClusterError, match=r"rows of 9 columns \(float64\) take .* the 2 workers of .* have .* GiB left"
    ):
        check_memory(client, cut(limit // 80, 9, "float64"), False)  # y makes ten columns of nine
    check_memory(client, cut(limit // 8 // 8 * 3 // 4, 7, "float64"), False)
    assert len(notices) == 1 and "what is beyond goes to disk" in notices[0]


def test_a_frozen_worker_is_named(monkeypatch):
    monkeypatch.setattr(preflight, "DEADLINE", 3.0)
    monkeypatch.setattr(preflight, "SILENT", 1.5)
    with dist_dot_cluster.open("local:2") as client:
        address, process = next(iter(client.run(os.getpid).items()))
        os.kill(process, signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineError, match=f"waited 3 s for an answer of worker {address}, before the run"):
                check_cluster(client)
        finally:
            os.kill(process, signal.SIGCONT)


HIDDEN = """
import sys
from pathlib import Path
sys.path[:] = [path for path in sys.path if not (Path(path) / "dist_dot").is_dir()]
"""
OLD = """
import sys
sys.path.insert(0, {folder!r})
"""


def test_workers_that_are_installed_otherwise(tmp_path):
    make_table(tmp_path)
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "old" / "dist_dot").mkdir(parents=True)
    (tmp_path / "old" / "dist_dot" / "__init__.py").write_text("__version__ = '0.0.9'\n")
    (tmp_path / "cluster").mkdir()
    with remote(tmp_path / "cluster", 0) as there, Client(there.address, set_as_default=False) as client:
        there.start_worker()
        other = there.start_other_worker(OLD.format(folder=str(tmp_path / "old")))
        client.wait_for_workers(2, timeout=30)
        with pytest.raises(
            ClusterError, match=r"dist_dot is 0\.0\.9 on worker tcp://[\d.:]+, and .* here: install the"
        ):
            check_cluster(client)
        other.terminate()
        other.wait(30)
        there.start_other_worker(HIDDEN)
        client.wait_for_workers(2, timeout=30)
        process = there.train(tmp_path / "job.toml", "--set", "cluster.workers=2")
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1 and errors.count("\n") == 1
        assert errors.startswith("error: dist_dot cannot be imported on worker tcp://")
        assert "(ModuleNotFoundError: No module named 'dist_dot'): install dist-dot" in errors


def test_data_of_this_machine_only(tmp_path, monkeypatch):
    # Each process has another working directory here.
    make_table(tmp_path)
    monkeypatch.chdir(tmp_path)
    data = {"source": "/proc/self/cwd/table.parquet", "target": "late", "numeric": ["delay"]}
    (tmp_path / "cluster").mkdir()
    with remote(tmp_path / "cluster", 1) as there, dist_dot_cluster.open(there.address) as client:
        job = parse_job({"data": data, "output": {"folder": str(tmp_path / "run")}})
        with pytest.raises(JobError, match="cannot be opened on worker .* it is a path of this machine: put it where"):
            run_job(job, client, lambda progress: False, lambda name: None)
        job = parse_job({"data": data, "cluster": {"preflight": False}, "output": {"folder": str(tmp_path / "run")}})
        with pytest.raises(FileNotFoundError):  # without the look, as a task of Dask has it
            run_job(job, client, lambda progress: False, lambda name: None)


def test_a_job_looks_at_the_memory_before_it_reads_the_rows(clients, monkeypatch, tmp_path):
    make_table(tmp_path)
    monkeypatch.setattr(preflight, "room", lambda workers, part: 1000)
    monkeypatch.setattr("dist_dot.jobs.run._blocks", None)
    data = {"source": str(tmp_path / "table.parquet"), "target": "late", "numeric": ["delay"]}
    job = parse_job({"data": data, "output": {"folder": str(tmp_path / "run")}})
    with pytest.raises(ClusterError, match="30,000 rows of 1 columns .* have 0.98 kiB left"):
        run_job(job, clients(2), lambda progress: False, lambda name: None)


def test_a_service_that_was_preloaded_stays(monkeypatch):
    monkeypatch.setattr(service, "LINGER", 0.1)
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as local, Client(local) as client:
        client.sync(service.dask_setup, local.scheduler)
        time.sleep(3 * service.TICK)
        assert runs(client) == [] and NAME in local.scheduler.plugins


def test_a_scheduler_that_takes_no_plugins_is_given_the_service_by_a_preload(tmp_path, monkeypatch, notices):
    blocked = '["register_scheduler_plugin", "run_function"]'
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__BLOCKED_HANDLERS", blocked)
    random = np.random.default_rng(0)
    X, y = random.standard_normal((200, 3)), random.standard_normal(200)

    def fit(client):
        import dask.array as da

        from dist_dot import Ridge

        with client.as_current():
            return Ridge(solver="gradient_descent").fit(da.from_array(X, chunks=(100, 3)), da.from_array(y, chunks=100))

    with remote(tmp_path, 1) as there, dist_dot_cluster.open(there.address) as client:
        with pytest.raises(
            ClusterError, match="takes no plugins .*: .* dask scheduler --preload dist_dot.rounds.service"
        ):
            fit(client)
    with (
        remote(tmp_path, 1, "--preload", "dist_dot.rounds.service") as there,
        dist_dot_cluster.open(there.address) as client,
    ):
        assert fit(client).fit_.where == "a Dask cluster of 1 worker"
        check_cluster(client)
        first = next(
            notice for notice in notices if "has no workers; waiting" not in notice
        )  # they may be slow to start
        assert "the scheduler is not compared with this process: The 'run_function' handler" in first
