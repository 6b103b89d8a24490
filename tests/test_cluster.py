"""The same bits on a cluster, and what happens when it misbehaves."""

import gc
import os
import signal
import time

import dask.array as da
import dist_dot_cluster
import numpy as np
import pytest
from distributed import Client, LocalCluster

from dist_dot import DataError, Objective, Ridge, Status, lay_out, losses, minimise
from dist_dot.errors import ClusterError, DeadlineError
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.passes import Moments
from dist_dot.rounds.cluster import gather
from dist_dot.rounds.worker import NAME, SMALL, pack, unpack
from dist_dot.solvers import Exact, GradientDescent

# The arrays of these tests travel inside their graph, which is what Dask warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Sending large graph")


@pytest.fixture(scope="module")
def many_blocks():
    """60,000 rows of 40 columns: 10 blocks of the automatic size."""
    random = np.random.default_rng(5)
    X = random.standard_normal((60_000, 40))
    return X, X @ random.standard_normal(40) + random.standard_normal(60_000)


def chunked(array, rows):
    return da.from_array(array, chunks=(rows, *array.shape[1:]))


@pytest.mark.parametrize("solver", ["gradient_descent", "exact", Exact("qr")], ids=["descent", "gram", "qr"])
def test_the_bits_do_not_depend_on_the_cluster(clients, many_blocks, solver):
    X, y = many_blocks
    here = Ridge(solver=solver).fit(X, y)
    assert here.fit_.where.startswith("this process")
    for workers, rows in ((1, 7_000), (2, 60_000), (3, 1_234)):
        with clients(workers).as_current():
            there = Ridge(solver=solver).fit(chunked(X, rows), chunked(y, rows))
        assert there.fit_.where == f"a Dask cluster of {workers} worker{'s' if workers > 1 else ''}"
        assert there.coef_.tobytes() == here.coef_.tobytes()
        assert (there.intercept_, there.n_iter_, there.fit_.rounds) == (here.intercept_, here.n_iter_, here.fit_.rounds)


def test_blocks_lie_in_contiguous_ranges(clients, many_blocks):
    X, y = many_blocks
    client = clients(2)
    with client.as_current():
        blocks = lay_out(chunked(X, 9_000), chunked(y, 9_000))
        holders = [client.who_has(future)[future.key][0] for future in blocks.futures]
    assert blocks.cuts.n_blocks == 10
    assert holders == sorted(holders) and len(set(holders)) == 2


def test_a_fit_makes_a_cluster_that_adapts_its_size_start_workers(many_blocks):
    X, y = many_blocks
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0", silence_logs=60) as adaptive,
        Client(adaptive),
    ):
        adaptive.adapt(minimum=0, maximum=2, interval="0.2 s")
        there = Ridge().fit(chunked(X, 9_000), chunked(y, 9_000))
    assert there.coef_.tobytes() == Ridge().fit(X, y).coef_.tobytes()


def test_a_cluster_that_gets_no_workers_is_named(monkeypatch, notices):
    monkeypatch.setattr("dist_dot.rounds.cluster.SPEAK", 0.2)
    monkeypatch.setattr("dist_dot.rounds.cluster.LOOK", 0.2)
    monkeypatch.setattr("dist_dot.rounds.cluster.PATIENCE", 1.0)
    X = np.ones((100, 2))
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty, Client(empty) as client:
        with pytest.raises(
            DeadlineError, match=r"^waited 1 s for the next of 1 tasks of 1: the cluster at .* no workers$"
        ):
            lay_out(chunked(X, 50), chunked(X[:, 0], 50))
        gc.collect()
        deadline = time.monotonic() + 10
        while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
            assert time.monotonic() < deadline  # nothing is left that would start when workers come
            time.sleep(0.05)
    assert len(notices) == 1 and notices[0].startswith("waiting up to 1 s for the next of 1 tasks")


def test_a_local_cluster_brings_back_workers_whose_nannies_are_gone(many_blocks, monkeypatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)  # a nanny of other tests sets it, for this process too
    X, y = many_blocks
    gone = []
    with dist_dot_cluster.open("local", 2) as client:

        def close(progress):
            if progress.iteration >= 20 and not gone:
                for nanny in list(client.cluster.workers.values()):
                    client.cluster.sync(nanny.close)
                    gone.append(nanny)

        with pytest.warns(match="stopped at max_iter"):
            there = Ridge(solver="gradient_descent", tol=0, max_iter=400, callbacks=(close,))
            there.fit(chunked(X, 9_000), chunked(y, 9_000))
        assert len(gone) == 2 and not set(gone) & set(client.cluster.workers.values())
        assert set(client.run(os.getenv, "MALLOC_TRIM_THRESHOLD_").values()) == {None}  # they are as the first ones
    with pytest.warns(match="stopped at max_iter"):
        here = Ridge(solver="gradient_descent", tol=0, max_iter=400).fit(X, y)
    assert there.coef_.tobytes() == here.coef_.tobytes() and there.fit_.recovery.lost == 2


def test_what_we_wish_for_is_marked_as_ours(clients, many_blocks):
    """The blocks, and all that they are made of: `Service.transition` takes such wishes back, and no others."""
    client = clients(2)

    def wishes(dask_scheduler):
        tasks = [task for task in dask_scheduler.tasks.values() if task.loose_restrictions]
        return len(tasks), sum("dist-dot" in task.annotations for task in tasks)

    with client.as_current():
        blocks = lay_out(*(chunked(array, 9_000) for array in many_blocks))
        found, ours = client.run_on_scheduler(wishes)
    assert found == ours > blocks.cuts.n_blocks


def test_workers_that_are_all_paused_are_named(monkeypatch):
    monkeypatch.setattr("dist_dot.rounds.cluster.PAUSED", 1.0)
    monkeypatch.setattr("dist_dot.rounds.cluster.LOOK", 0.2)

    def pause(dask_worker):
        dask_worker.memory_manager.memory_pause_fraction = 1e-6

    X = np.ones((100, 2))
    with dist_dot_cluster.open("local", 2) as client, client.as_current():
        client.run(pause)
        with pytest.raises(ClusterError, match=r"^waited 1 s .* paused all workers.*: tcp://.* uses \d+ MiB of [\d,]+"):
            lay_out(chunked(X, 50), chunked(X[:, 0], 50))


def test_a_worker_that_is_paused_at_work_is_waited_for(monkeypatch):
    monkeypatch.setattr("dist_dot.rounds.cluster.PAUSED", 2.0)
    monkeypatch.setattr("dist_dot.rounds.cluster.LOOK", 0.2)

    def pause(dask_worker):
        dask_worker.memory_manager.memory_pause_fraction = 1e-6

    def work():
        time.sleep(6.0)
        return 7

    with dist_dot_cluster.open("local", 1) as client:
        future = client.submit(work)
        time.sleep(0.5)
        client.run(pause)
        assert gather(client, [future]) == [7]


def test_a_single_round_and_moments(clients, many_blocks):
    X, y = many_blocks
    with clients(2).as_current():
        blocks = lay_out(chunked(X, 9_000), chunked(y, 9_000))
        there = blocks.reduce(Moments(), np.zeros(41))
    assert blocks.rounds == 1
    assert there.tobytes() == lay_out(X, y).reduce(Moments(), np.zeros(41)).tobytes()


def test_a_program_that_exits_ends_its_run(clients, many_blocks):
    with clients(2).as_current():
        blocks = lay_out(*(chunked(array, 9_000) for array in many_blocks))
        with pytest.raises(ClusterError, match=r"ended by SystemExit\(7\)"):
            blocks.run(leave, lambda progress: False)


def leave(blocks, report):
    raise SystemExit(7)


@pytest.mark.parametrize("size", [3, SMALL, SMALL + 1])
def test_arrays_travel(size):
    array = np.arange(size, dtype=np.float64)
    assert unpack(pack(array)).tobytes() == array.tobytes()


def test_wide_parameters_travel(clients):
    random = np.random.default_rng(0)
    X, y = random.standard_normal((50, SMALL + 5)), random.standard_normal(50)
    with clients(2).as_current():
        blocks = lay_out(chunked(X, 20), chunked(y, 20), block_rows=20)
        there = Objective(blocks, losses.Squared()).value_and_gradient(np.ones(SMALL + 6))
    here = Objective(lay_out(X, y, block_rows=20), losses.Squared()).value_and_gradient(np.ones(SMALL + 6))
    assert there[0] == here[0] and there[1].tobytes() == here[1].tobytes()


def test_a_callback_of_the_client_stops_the_run(clients, rows):
    X, y = rows
    with clients(2).as_current():
        objective = Objective(lay_out(chunked(X, 100), chunked(y, 100)), losses.Squared(), 1.0)
        seen = []
        fit = minimise(
            objective, GradientDescent(), tol=0, max_iter=10**6, callbacks=(seen.append, lambda p: p.iteration > 5)
        )
    assert fit.status is Status.STOPPED and 5 < fit.n_iter < 10**5
    assert tuple(seen) == fit.history[: len(seen)]


def test_bad_rows_are_named_from_a_worker(clients, rows):
    X, y = rows[0].copy(), rows[1]
    X[431, 2] = np.nan
    with clients(2).as_current(), pytest.raises(DataError, match="X is nan in column 2, row 431"):
        lay_out(chunked(X, 100), chunked(y, 100), block_rows=50)


class Boom(Exception):
    pass


class Booms(Kernel):
    def __call__(self, block, parameters):
        raise Boom("from a worker")


def test_an_exception_in_a_kernel_reaches_the_client(clients, rows):
    import cloudpickle
    import test_cluster

    cloudpickle.register_pickle_by_value(test_cluster)
    X, y = rows
    try:
        with clients(2).as_current(), pytest.raises(Exception, match="from a worker"):
            lay_out(chunked(X, 100), chunked(y, 100)).reduce(Booms(), np.zeros(8))
    finally:
        cloudpickle.unregister_pickle_by_value(test_cluster)


def test_nothing_stays_behind(clients, rows):
    X, y = rows
    client = clients(2)

    def tasks(dask_scheduler):
        return len(dask_scheduler.tasks)

    deadline = time.monotonic() + 10
    while client.run_on_scheduler(tasks) and time.monotonic() < deadline:
        gc.collect()  # what the tests before have left is let go at some time
    with client.as_current():
        Ridge().fit(chunked(X, 100), chunked(y, 100))

        def left(dask_scheduler):
            import threading

            service = dask_scheduler.plugins[NAME]
            clients = [name for name in dask_scheduler.clients if name.startswith(NAME)]
            threads = [t.name for t in threading.enumerate() if t.name.startswith(f"{NAME}-")]
            return len(service.runs), len(service.wanted), clients, threads, len(dask_scheduler.tasks)

        deadline = time.monotonic() + 10
        while (found := client.run_on_scheduler(left)) != (0, 0, [], [], 0) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert found == (0, 0, [], [], 0)


def test_a_killed_worker_costs_no_bits(many_blocks):
    X, y = many_blocks
    straight = Ridge(solver="gradient_descent", tol=0, max_iter=1500).fit
    with pytest.warns(match="stopped at max_iter"):
        here = straight(X, y)
    deaths = []
    with dist_dot_cluster.open("local", 2) as client:

        def kill(progress):
            if progress.iteration >= 20 and not deaths:
                pids = client.run(os.getpid)
                deaths.append(next(iter(pids.values())))
                os.kill(deaths[0], signal.SIGKILL)

        with pytest.warns(match="stopped at max_iter"):
            model = Ridge(solver="gradient_descent", tol=0, max_iter=1500, callbacks=(kill,))
            there = model.fit(chunked(X, 9_000), chunked(y, 9_000))
        assert deaths and deaths[0] not in client.run(os.getpid).values()
    assert there.coef_.tobytes() == here.coef_.tobytes()
