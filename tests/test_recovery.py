"""What a run survives, on local clusters whose scheduler lives in this process."""

import gc
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import dask
import numpy as np
import pytest
from distributed import Client, KilledWorker, LocalCluster

from benchmarks.chaos import chaos
from dist_dot import Checkpoints, DataError, Objective, losses, minimise
from dist_dot.errors import ClusterError, DeadlineError, RunCancelled
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.passes import ValueAndGradient
from dist_dot.rounds import asking as rounds
from dist_dot.rounds import service
from dist_dot.rounds.layout import lay_out_rows, make_block
from dist_dot.rounds.remote import runs
from dist_dot.rounds.worker import NAME
from dist_dot.rows.block import cut
from dist_dot.solvers import GradientDescent

CUTS = cut(20_000, 30, "float64", 1000)


@pytest.fixture(scope="module", autouse=True)
def by_value():
    """Workers cannot import this file, so what it defines travels with it."""
    import test_recovery

    cloudpickle.register_pickle_by_value(test_recovery)
    yield
    cloudpickle.unregister_pickle_by_value(test_recovery)


@pytest.fixture(scope="module")
def straight():
    """The coefficients of a fit of so many steps that nothing disturbs."""
    return {}


@dataclass(frozen=True)
class Rows:
    """Random rows, after a look at a file that tells what is the matter with the source."""

    trouble: str = ""

    def __call__(self, number):
        word = Path(self.trouble).read_text() if self.trouble and Path(self.trouble).exists() else ""
        if word == "gone":
            raise FileNotFoundError(f"block {number} has no file")
        if word == "deadly" and number == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        start, stop = CUTS.bounds(number)
        random = np.random.default_rng(number)
        X = random.standard_normal((stop - start, 30))
        y = X @ np.arange(30.0) + random.standard_normal(stop - start)
        return make_block(X, y + (word == "changed"), CUTS, number)


@dataclass(frozen=True)
class Slow(Kernel):
    """A loss that takes its time: seconds per block, and sleeps where the interpreter is free."""

    seconds: float
    kernel: ValueAndGradient = ValueAndGradient(losses.Squared())

    def __call__(self, block, parameters):
        time.sleep(self.seconds)
        return self.kernel(block, parameters)


def local(workers, **options):
    return LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=60, **options)


def fit(blocks, steps, *callbacks, checkpoint=None):
    objective = Objective(blocks, losses.Squared(), 1.0)
    return minimise(objective, GradientDescent(), tol=0, max_iter=steps, callbacks=callbacks, checkpoint=checkpoint)


def expect_bits(found, straight):
    steps = found.n_iter
    if steps not in straight:
        straight[steps] = fit(lay_out_rows(Rows(), CUTS, None), steps).parameters.tobytes()
    assert found.parameters.tobytes() == straight[steps]


def at(iteration, function):
    """Return a callback that calls the function once, at this iteration or soon after."""
    done = []

    def callback(progress):
        if progress.iteration >= iteration and not done:
            done.append(function())

    return callback


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def pids(client):
    return list(client.run(os.getpid).values())


def test_a_frozen_worker_is_given_up_and_replaced(straight, monkeypatch, notices):
    monkeypatch.setattr(service, "SILENCE", 1.0)  # with at least ten heartbeats: 5 s
    with local(2) as cluster, Client(cluster) as client:
        blocks = lay_out_rows(Rows(), CUTS, client)
        frozen = pids(client)[0]
        begin = time.monotonic()
        found = fit(blocks, 800, at(50, lambda: os.kill(frozen, signal.SIGSTOP)))
        assert time.monotonic() - begin < 30
        expect_bits(found, straight)
        assert found.recovery.lost == 1 and found.recovery.repeated == 1 and found.recovery.seconds > 3
        assert "silent" in " ".join(notices)
        wait_for(lambda: len(client.scheduler_info()["workers"]) == 2)
        assert frozen not in pids(client)


@dataclass(frozen=True)
class Sticks(Kernel):
    """A loss that does not come back from the first block that it is asked for."""

    once: str

    def __call__(self, block, parameters):
        try:
            open(self.once, "x").close()
        except FileExistsError:
            return ValueAndGradient(losses.Squared())(block, parameters)
        time.sleep(600)


def test_a_worker_that_is_stuck_in_a_block_is_replaced(monkeypatch, notices, tmp_path):
    monkeypatch.setattr(service, "STUCK", 4.0)
    with local(2) as cluster, Client(cluster) as client:
        blocks = lay_out_rows(Rows(), CUTS, client)
        total = blocks.reduce(Sticks(str(tmp_path / "once")), np.zeros(31))
        assert total.tobytes() == blocks.reduce(ValueAndGradient(losses.Squared()), np.zeros(31)).tobytes()
    assert "has finished no block for 4 s and is taken for stuck" in " ".join(notices)


def test_a_slow_worker_is_not_given_up(monkeypatch, notices):
    monkeypatch.setattr(service, "SILENCE", 0.5)
    monkeypatch.setattr(service, "STUCK", 4.0)
    with local(1) as cluster, Client(cluster) as client:
        blocks = lay_out_rows(Rows(), CUTS, client)
        total = blocks.reduce(Slow(0.4), np.zeros(31))  # 8 s
        assert total.tobytes() == blocks.reduce(ValueAndGradient(losses.Squared()), np.zeros(31)).tobytes()
    assert not notices


def test_a_paused_worker_serves_rounds(straight):
    with local(2) as cluster, Client(cluster) as client:
        blocks = lay_out_rows(Rows(), CUTS, client)

        def pause(dask_worker):
            from distributed.core import Status

            dask_worker.status = Status.paused

        found = fit(blocks, 300, at(20, lambda: client.run(pause, workers=[sorted(cluster.scheduler.workers)[0]])))
        assert found.recovery.repeated == 0
    expect_bits(found, straight)


def test_without_workers_the_run_ends_in_time_and_goes_on_from_its_checkpoint(straight, tmp_path, notices):
    checkpoints = Checkpoints(str(tmp_path), every=10_000)
    with local(2) as cluster, Client(cluster) as client:
        blocks = lay_out_rows(Rows(), CUTS, client)
        blocks.patience = 4.0
        with pytest.raises(DeadlineError, match="waited 4 s: .* of 20 blocks of the rows .* no workers"):
            fit(blocks, 10_000, at(30, lambda: cluster.scale(0)), checkpoint=checkpoints)
    assert "waiting up to 4 s" in " ".join(notices)
    (saved,) = tmp_path.glob("*.safetensors")
    steps = int(saved.stem) + 100
    resumed = Checkpoints(str(tmp_path), resume=True)
    expect_bits(fit(lay_out_rows(Rows(), CUTS, None), steps, checkpoint=resumed), straight)


def test_when_workers_come_back_so_do_the_blocks(straight):
    with local(2) as cluster, Client(cluster) as client:
        blocks = lay_out_rows(Rows(), CUTS, client)

        def all_new():
            cluster.scale(0)
            wait_for(lambda: not cluster.scheduler.workers)
            cluster.scale(2)

        found = fit(blocks, 300, at(30, all_new))
    expect_bits(found, straight)
    assert found.recovery.lost == 2


def kill_one(client):
    os.kill(pids(client)[0], signal.SIGKILL)


def test_a_source_that_changes_is_named(tmp_path):
    trouble = tmp_path / "trouble"
    with local(2) as cluster, Client(cluster) as client:
        blocks = lay_out_rows(Rows(str(trouble)), CUTS, client, "flights.parquet")

        def change():
            trouble.write_text("changed")
            kill_one(client)

        with pytest.raises(DataError, match=r"rows \d+ .. \d+ of flights.parquet .* the source has changed"):
            fit(blocks, 100_000, at(20, change))


def test_an_error_of_the_source_ends_the_run(tmp_path):
    trouble = tmp_path / "trouble"
    with local(2) as cluster, Client(cluster) as client:
        blocks = lay_out_rows(Rows(str(trouble)), CUTS, client)

        def lose():
            trouble.write_text("gone")
            kill_one(client)

        with pytest.raises(FileNotFoundError, match="has no file"):
            fit(blocks, 100_000, at(20, lose))


def test_a_block_that_kills_its_workers_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "DEATHS", 2)
    trouble = tmp_path / "trouble"
    with local(2) as cluster, Client(cluster) as client:
        blocks = lay_out_rows(Rows(str(trouble)), CUTS, client)

        def poison():
            trouble.write_text("deadly")
            for pid in pids(client):
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(KilledWorker):
            fit(blocks, 100_000, at(20, poison))


def test_new_workers_are_put_to_use_and_old_ones_retire(straight):
    with local(1) as cluster, Client(cluster) as client:
        blocks = lay_out_rows(Rows(), CUTS, client)
        times = {}

        def holders():
            found = client.who_has(blocks.futures)
            return [found[future.key] for future in blocks.futures]

        def retire():
            while len(workers := client.scheduler_info()["workers"]) > 1:
                client.retire_workers(sorted(workers)[: len(workers) - 1])
            times["retired"] = time.monotonic()

        def operate():
            cluster.scale(3)
            times["grown"] = time.monotonic()
            wait_for(lambda: len(set(holders())) == 3 and all(len(who) == 1 for who in holders()), 60)
            times["used"] = time.monotonic()
            ranges = holders()
            times["ranges"] = sum(who != before for who, before in zip(ranges, [None, *ranges], strict=False))
            retire()

        operator = threading.Thread(target=operate)
        found = fit(blocks, 10**6, at(200, operator.start), lambda progress: "retired" in times)
        operator.join(60)
    assert times["used"] - times["grown"] < 15 and times["ranges"] == 3
    expect_bits(found, straight)


def test_a_busy_cluster_is_neither_closed_nor_shrunk(straight):
    with (
        dask.config.set({"distributed.scheduler.idle-timeout": "5 s"}),
        local(2) as cluster,
        Client(cluster) as client,
    ):
        blocks = lay_out_rows(Rows(), CUTS, client)
        offered = []

        def shrink():
            plugin = cluster.scheduler.plugins[NAME]
            offered.append(
                plugin.valid_workers_downscaling(cluster.scheduler, list(cluster.scheduler.workers.values()))
            )
            cluster.adapt(minimum=1, maximum=2, interval="0.2 s", wait_count=1)

        begin = time.monotonic()
        found = fit(blocks, 100_000, at(20, shrink), lambda progress: time.monotonic() - begin > 9)
        assert len(cluster.scheduler.workers) == 2
    assert offered == [[]]
    expect_bits(found, straight)


def test_two_runs_at_once(straight):
    with local(2) as cluster, Client(cluster) as client:
        same, other = (lay_out_rows(Rows(), CUTS, client) for _ in range(2))
        found = []
        threads = [
            threading.Thread(target=lambda blocks=blocks: found.append(fit(blocks, 400)))
            for blocks in (same, same, other)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: len([run for run in runs(client) if run.state == "running"]) >= 2)
        for thread in threads:
            thread.join(120)
    assert len(found) == 3
    for each in found:
        expect_bits(each, straight)


def test_a_run_can_be_cancelled_from_elsewhere(tmp_path):
    with local(1) as cluster, Client(cluster) as client:
        blocks = lay_out_rows(Rows(), CUTS, client)
        objective = Objective(blocks, losses.Squared(), 1.0)

        def cancel():
            with Client(cluster, set_as_default=False) as another:
                (run,) = runs(another)
                assert run.state == "running" and run.progress.iteration > 0 and "squared loss" in run.label
                from dist_dot.rounds.remote import RemoteRun

                RemoteRun(another, run.run).cancel()

        with pytest.raises(RunCancelled):
            minimise(objective, GradientDescent(), tol=0, max_iter=10**6, callbacks=(at(20, cancel),),
                     checkpoint=Checkpoints(str(tmp_path), every=10**6))  # fmt: skip
        assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_the_service_leaves_when_nothing_is_left_to_do(monkeypatch, straight):
    monkeypatch.setattr(service, "LINGER", 0.2)
    with local(2) as cluster, Client(cluster) as client:
        scheduler = cluster.scheduler
        for _ in range(2):  # it comes back when it is needed
            handlers, plugins = set(scheduler.handlers), set(scheduler.plugins)
            before = client.run(traces)
            found = fit(lay_out_rows(Rows(), CUTS, client), 60)
            expect_bits(found, straight)
            wait_for(lambda: NAME not in scheduler.plugins)
            gc.collect()
            wait_for(lambda: not scheduler.tasks)
            assert (set(scheduler.handlers), set(scheduler.plugins)) == (handlers, plugins)
            assert NAME not in scheduler.worker_plugins
            assert not [client for client in scheduler.clients if client.startswith(NAME)]
            assert not [thread for thread in threading.enumerate() if thread.name.startswith(f"{NAME}-")]
            assert client.run(traces) == before


def traces(dask_worker):
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith(NAME)]
    handlers = [handler for handler in dask_worker.handlers if handler.startswith("dist_dot")]
    return sorted(dask_worker.executors), handlers, sorted(dask_worker.metrics), threads


def test_a_restarted_cluster_ends_the_run():
    with local(1) as cluster, Client(cluster) as client:
        blocks = lay_out_rows(Rows(), CUTS, client)
        with pytest.raises(ClusterError, match="forgotten: was the cluster restarted"):
            fit(blocks, 100_000, at(20, client.restart))


def test_answers_of_an_abandoned_attempt_are_none(straight, monkeypatch):
    """A worker that answers with another stamp is asked again."""
    real = rounds.Rounds._ask_worker
    stale = []

    async def confused(self, address, stamp, part, message):
        if self.attempts == 30:
            rpc = self.scheduler.rpc(address)
            late = await rpc.dist_dot_round(
                stamp=[self.name, 0, 0], prefix=self.spec.prefix, ranges=part, verify=[], **message
            )
            stale.append(late)

            class Late:
                @staticmethod
                async def dist_dot_round(**rest):
                    return late

            monkeypatch.setattr(self.scheduler, "rpc", lambda address: Late)
            try:
                return await real(self, address, stamp, part, message)
            finally:
                monkeypatch.undo()
        return await real(self, address, stamp, part, message)

    monkeypatch.setattr(rounds.Rounds, "_ask_worker", confused)
    with local(1) as cluster, Client(cluster) as client:
        found = fit(lay_out_rows(Rows(), CUTS, client), 60)
    assert len(stale) == 1 and found.recovery.repeated == 1
    expect_bits(found, straight)


@pytest.mark.timeout(900)  # each fit takes as long as its workers happen to live
def test_chaos():
    """Dask's own KillWorker at work from the first task to the last round. `make chaos` has 23 longer fits."""
    # Workers live for half of the undisturbed fit, on average: a fit that sees one death alone is one in 300.
    records = chaos(300, {"segfault": 2, "sys.exit": 1}, share=0.5)
    assert len(records) == 4 and all(record["same"] for record in records)
    assert all(record["deaths"] >= 2 for record in records[1:])
