"""dist-dot on a scheduler of its own: runs that outlive their client, and clients that outlive their scheduler."""

import os
import pty
import signal
import time
from threading import Thread

import numpy as np
import pytest
from distributed import Client
from remote import remote, said
from test_jobs import JOB, make_table
from test_jobs import train as train_here

from dist_dot import losses
from dist_dot.errors import DeadlineError
from dist_dot.rounds import remote as remote_runs
from dist_dot.rounds.cluster import ClusterBlocks
from dist_dot.rounds.layout import lay_out
from dist_dot.rounds.remote import RemoteRun, runs
from dist_dot.rounds.worker import NAME
from dist_dot.solvers import GradientDescent

STEPS = 4000
WIDE = {"COLUMNS": "200"}  # of the terminal, so that a line stays one
OPTIONS = ("--set", "solver.tol=0", "--set", f"solver.max_iter={STEPS}", "--set", "output.checkpoint_every=200")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job of some five seconds, and the bits of its model when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("job")
    make_table(folder)
    (folder / "job.toml").write_text(JOB)
    done = train_here(folder, *OPTIONS, "--out", str(folder / "straight"))
    assert done.returncode == 3, done.stderr
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with remote(tmp_path_factory.mktemp("cluster"), 2) as started:
        yield started


def bits(folder):
    return (folder / "model.safetensors").read_bytes()


def start(cluster, job, out, *options, **popen):
    """Start a run; return its process and name, once it has made some rounds."""
    process = cluster.train(job / "job.toml", "--out", out, *OPTIONS, *options, **popen)
    name = said(process, "dist-dot attach").split()[1].rstrip(":")
    said(process, "round")
    return process, name


def finished(process):
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def test_a_run_outlives_its_client(cluster, job, tmp_path):
    process, name = start(cluster, job, tmp_path / "lost")
    process.kill()
    process.wait()
    status, output, errors = finished(cluster.attach())
    assert status == 0 and name in output and "running" in output
    status, output, errors = finished(cluster.attach(name[:5], "--out", tmp_path / "found"))
    assert (status, errors) == (3, "") and "4,0" in output
    assert bits(tmp_path / "found") == bits(job / "straight")
    assert "no runs" in finished(cluster.attach())[1]  # what is fetched is forgotten
    status, _, errors = finished(cluster.attach(name))
    assert status == 2 and f"no runs begin with '{name}'" in errors


def test_resume_follows_the_run_that_goes_on(cluster, job, tmp_path):
    process, name = start(cluster, job, tmp_path)
    process.kill()
    process.wait()
    process, again = start(cluster, job, tmp_path, "--resume", "auto")
    assert again == name
    status, _, errors = finished(process)
    assert (status, errors) == (3, "")
    assert bits(tmp_path) == bits(job / "straight")


def test_a_signal_stops_the_run_which_leaves_a_checkpoint(cluster, job, tmp_path):
    process, _ = start(cluster, job, tmp_path)
    process.send_signal(signal.SIGTERM)
    status, _, errors = finished(process)
    assert status == 1 and "--resume auto goes on from the checkpoint" in errors and errors.count("\n") == 1
    assert list((tmp_path / "checkpoint").glob("*.safetensors")) and not (tmp_path / "model.json").exists()
    status, _, errors = finished(cluster.train(job / "job.toml", "--out", tmp_path, *OPTIONS, "--resume", "auto"))
    assert (status, errors) == (3, "")
    assert bits(tmp_path) == bits(job / "straight")


@pytest.mark.parametrize("end", ["stopped", "stopping", "cancelled"])
def test_resume_goes_on_with_a_run_whose_client_was_killed_while_it_stopped_it(cluster, job, tmp_path, end):
    """As of a pod that gets SIGTERM, asks its run to stop, and is killed before the round is over."""
    process, name = start(cluster, job, tmp_path)
    process.kill()
    process.wait()
    with Client(cluster.address, set_as_default=False) as client:
        client.sync(client.scheduler.dist_dot_stop, run=name, cancel=end == "cancelled")
        deadline = time.monotonic() + 60
        while end == "stopped" and [run.state for run in runs(client)] != ["done"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    status, output, errors = finished(
        cluster.train(job / "job.toml", "--out", tmp_path, *OPTIONS, "--resume", "auto", env=os.environ | WIDE)
    )
    assert status == 3, errors
    assert f"run {name} was stopped: it goes on from its checkpoint" in output or end == "cancelled"
    assert bits(tmp_path) == bits(job / "straight")
    with Client(cluster.address, set_as_default=False) as client:
        left = runs(client)  # that a run was cancelled is for whoever asks, where nobody followed it to its end
        assert [run.state for run in left] in ([], ["error"] if end == "cancelled" else [])
        for run in left:
            RemoteRun(client, run.run).forget()


def test_ctrl_c_in_a_terminal_asks(cluster, job, tmp_path):
    ours, theirs = pty.openpty()
    process, name = start(cluster, job, tmp_path, "--set", "solver.max_iter=1000000", stdin=theirs)
    process.send_signal(signal.SIGINT)
    os.write(ours, b"what?\nb\n")  # back to the run
    time.sleep(3.0)  # a second Ctrl-C while it still asks would end it
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    os.write(ours, b"d\n")
    status, _, errors = finished(process)
    assert status == 1 and "goes on without this process" in errors
    assert "running" in finished(cluster.attach())[1]
    assert "told to end" in finished(cluster.attach(name, "--cancel"))[1]
    status, _, errors = finished(cluster.attach(name))
    assert status == 1 and "was cancelled" in errors
    assert list((tmp_path / "checkpoint").glob("*.safetensors"))


def test_ctrl_c_is_heard_while_a_round_is_under_way(cluster, job, tmp_path):
    # Before the first progress or after it: the round that is under way never ends.
    ours, theirs = pty.openpty()
    process = cluster.train(job / "job.toml", "--out", tmp_path, *OPTIONS, stdin=theirs)
    said(process, "dist-dot attach")
    with cluster.frozen():
        process.send_signal(signal.SIGINT)
        os.write(ours, b"c\n")
        begin = time.monotonic()
        status, _, errors = finished(process)
    assert status == 1 and errors.startswith("error: stopped ") and errors.count("\n") == 1
    assert time.monotonic() - begin < 15.0  # a frozen worker is given up after twenty seconds


def test_a_run_resumes_after_the_death_of_its_scheduler(job, tmp_path):
    with remote(tmp_path, 2) as cluster:
        process, _ = start(cluster, job, tmp_path / "run")
        deadline = time.monotonic() + 60
        while not list((tmp_path / "run" / "checkpoint").glob("[0-9]*.safetensors")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        cluster.scheduler.kill()
        status, _, errors = finished(process)
        assert status == 1 and errors.startswith("error: the scheduler is gone") and errors.count("\n") == 1
    with remote(tmp_path, 1) as cluster:
        status, _, errors = finished(
            cluster.train(job / "job.toml", "--out", tmp_path / "run", *OPTIONS, "--resume", "auto")
        )
        assert (status, errors) == (3, "")
    assert bits(tmp_path / "run") == bits(job / "straight")


def test_a_folder_that_the_scheduler_does_not_see_is_named(cluster, job):
    # Each process has another working directory here.
    status, _, errors = finished(cluster.train(job / "job.toml", "--out", "/proc/self/cwd/run", cwd=job))
    assert status == 2 and "does not see: set output.checkpoints" in errors


def test_the_run_of_an_estimator_is_left_to_its_client(cluster):
    with Client(cluster.address, set_as_default=False) as client:
        blocks = small_blocks(client)
        run = blocks.start(_long_loop(blocks))
        status, _, errors = finished(cluster.attach(run.name))
        assert status == 2 and "belongs to its own client" in errors
        run.forget()


def test_a_busy_scheduler_ends_the_run_of_a_client_that_has_given_up(cluster, monkeypatch):
    """Its blocks stay pinned for ever otherwise: nobody knows of the run any more."""
    monkeypatch.setattr(remote_runs, "PARTING", 0.5)
    threads = []
    with (
        Client(cluster.address, set_as_default=False) as client,
        Client(cluster.address, set_as_default=False) as other,
    ):
        blocks = small_blocks(client)
        run = blocks.start(_long_loop(blocks))

        def occupy(progress):
            if not threads:
                monkeypatch.setattr(remote_runs, "DEADLINE", 2.0)
                threads.append(Thread(target=other.run_on_scheduler, args=(time.sleep, 8.0)))
                threads[0].start()
            return False

        with pytest.raises(DeadlineError, match="did not answer dist_dot_follow within 2 s"):
            run.follow(occupy)
        threads[0].join()
        monkeypatch.undo()
        deadline = time.monotonic() + 60
        while other.run_on_scheduler(lambda dask_scheduler: [c for c in dask_scheduler.clients if c.startswith(NAME)]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert run.name not in [each.run for each in runs(other)]


def small_blocks(client) -> ClusterBlocks:
    import dask.array as da

    X = np.random.default_rng(0).standard_normal((200, 3))
    with client.as_current():
        return lay_out(da.from_array(X, chunks=(100, 3)), da.from_array(X.sum(axis=1), chunks=100))


def _long_loop(blocks):
    from dist_dot.objective import Linear
    from dist_dot.training.loop import Loop

    return Loop(Linear(losses.Squared(), 1.0), GradientDescent(), 0.0, 10**6, start=np.zeros(4))
