"""What a round does about answers that do not come, and whom a death is blamed on: with no cluster, and at once."""

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from distributed import KilledWorker, Status
from distributed.protocol.pickle import dumps

from dist_dot.errors import ClusterError, DeadlineError
from dist_dot.kernels.kernel import Kernel
from dist_dot.rounds import asking as rounds
from dist_dot.rounds import cluster, run
from dist_dot.rounds.asking import Rounds, RunSpec
from dist_dot.rounds.run import SchedulerBlocks
from dist_dot.rounds.service import KEPT, Service
from dist_dot.rounds.worker import NAME, KernelPlugin, pack, unpack
from dist_dot.rows.block import cut

CUTS = cut(50, 3, "float64", 10)
SPEC = RunSpec(b"", CUTS, "block", ("",) * 5, "the rows", 0.3, "", b"")
KILLED = KilledWorker("block-2", None, 3)


@contextmanager
def answering(*answers, seconds=0.2):
    """Yield blocks whose rounds are answered by these blocks, one attempt after the other, and what they ask for.

    An answer is the numbers of blocks, or the name of a worker that was lost at work. An attempt takes `seconds`.
    """
    loop, asked = asyncio.new_event_loop(), []
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def ask(number, message, missing):
        asked.append(missing)
        await asyncio.sleep(seconds)
        found = answers[len(asked) - 1] if len(asked) <= len(answers) else []
        if isinstance(found, str):
            host.fallen.add(found)
            return []
        sums = np.array([float(2**number) for number in found])
        return [{"nodes": [(0, number) for number in found], "sizes": [1] * len(found), "sums": pack(sums)}]

    try:
        host = SimpleNamespace(ask=ask, cancelled=False, lost=0, node_bytes=0, fallen=set())
        yield SchedulerBlocks(SimpleNamespace(name="run", spec=SPEC, loop=loop, rounds=host)), asked
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Add(Kernel):
    """Stand for a kernel: what is sent back here was made up."""

    def __call__(self, block, parameters):
        raise NotImplementedError


def test_a_round_is_repeated_for_the_missing_blocks_alone():
    with answering([0, 1, 4], [], [2], [3], seconds=0.02) as (blocks, asked):
        assert blocks.reduce(Add(), np.zeros(1)) == 31.0
    assert asked == [None, [2, 3], [2, 3], [3]] and blocks.recovery.repeated == 1


def test_a_round_ends_when_nobody_answers_any_more():
    # Each answer is a reason to go on waiting: four attempts take more than twice the patience.
    with answering([0], [1], [2], [3]) as (blocks, asked), pytest.raises(DeadlineError) as caught:
        begin = time.monotonic()
        blocks.reduce(Add(), np.zeros(1))
    assert "for 0 s no worker answered for blocks [4] of the rows" in str(caught.value)
    assert len(asked) in (5, 6) and time.monotonic() - begin < 5


def test_work_is_no_waiting():
    # Each attempt takes longer than the patience of 0.3 s, and the first two bring nothing: their workers were lost.
    with answering("a", "b", [0, 1, 2, 3, 4], seconds=0.5) as (blocks, asked):
        assert blocks.reduce(Add(), np.zeros(1)) == 31.0
    assert len(asked) == 3
    with answering([0], "a", "b", [1, 2], "c", "d", [3, 4], seconds=0.5) as (blocks, asked):
        assert blocks.reduce(Add(), np.zeros(1)) == 31.0
    # A worker that is lost again and again, as one to which no connection can be made, is not at work.
    with answering("a", "a", [0, 1, 2, 3, 4], seconds=0.5) as (blocks, asked), pytest.raises(DeadlineError):
        blocks.reduce(Add(), np.zeros(1))
    assert len(asked) == 2


def test_blocks_that_workers_die_of_in_a_round_end_the_run(monkeypatch):
    monkeypatch.setattr(run, "DEATHS", 2)
    with answering([0, 1], "a", "b", [2], "c", "d", "e", seconds=0.01) as (blocks, asked):
        with pytest.raises(ClusterError, match=r"3 workers in a row were lost while they worked on blocks \[3, 4\] of"):
            blocks.reduce(Add(), np.zeros(1))
        assert len(asked) == 7


def test_an_answer_in_the_last_moment_of_a_look_is_one(monkeypatch):
    """A future may complete in the very moment in which the wait for it times out."""
    real = Future.result

    def late(self, timeout=None):
        if timeout is None:
            return real(self)
        wait([self])
        raise TimeoutError

    monkeypatch.setattr(Future, "result", late)
    with answering([0, 1, 2, 3, 4]) as (blocks, _):
        assert blocks.reduce(Add(), np.zeros(1)) == 31.0


def test_a_worker_that_finishes_no_block_is_stuck_and_a_slow_one_is_not():
    async def go():
        workers = {name: SimpleNamespace(metrics={}) for name in ("slow", "stuck", "idle")}
        asking = Rounds("run", SPEC, SimpleNamespace(workers=workers), print)
        asking.owing = dict.fromkeys(("slow", "stuck", "gone"), 0.0)
        for now in range(100):
            asking.loop = SimpleNamespace(time=lambda now=now: float(now))
            workers["slow"].metrics = {NAME: {"run": now // 25, "another": 7}}
            workers["stuck"].metrics = {NAME: {"run": 3, "another": now}}
            assert asking.stuck(30.0) == (["stuck"] if now > 30 else [])
        asking.owing = dict.fromkeys(("slow", "stuck"), 99.0)  # another round begins
        assert asking.stuck(30.0) == []

    asyncio.run(go())


def placed(monkeypatch, patience, **worker):
    """Wait for blocks that nobody holds, beside such a worker; return the seconds until the DeadlineError."""
    monkeypatch.setattr(rounds, "STUCK", 0.6)

    async def go():
        tasks = {key: SimpleNamespace(state="waiting", who_has=()) for key in SPEC.keys}
        scheduler = SimpleNamespace(tasks=tasks, workers={}, transition_counter=0)
        if worker:
            scheduler.workers["a"] = SimpleNamespace(**worker)

        async def work():
            for _ in range(3):
                await asyncio.sleep(0.4)
                scheduler.transition_counter += 1

        others = asyncio.create_task(work())
        begin = time.monotonic()
        with pytest.raises(DeadlineError, match="5 of 5 blocks of the rows are on no worker"):
            await Rounds("run", replace(SPEC, patience=patience), scheduler, print).ask(1, {}, None)
        others.cancel()
        return time.monotonic() - begin

    return asyncio.run(go())


def test_patience_is_for_a_cluster_that_does_nothing(monkeypatch):
    busy, idle = {"task": 1.0}, {}
    assert placed(monkeypatch, 0.3) < 0.6
    assert placed(monkeypatch, 0.3, executing=idle, processing=idle, status=Status.running) < 0.6
    assert placed(monkeypatch, 0.3, executing=idle, processing=busy, status=Status.paused) < 0.6
    # Three tasks end while we wait, 0.4 s apart; that none has ended for 0.6 s is the end.
    assert placed(monkeypatch, 0.3, executing=busy, processing=busy, status=Status.running) > 1.5
    assert placed(monkeypatch, 0.3, executing=busy, processing=busy, status=Status.paused) > 1.5


def with_rounds(check):
    """Run check(rounds, task of block 2, keys that were retried) on an event loop."""

    async def go():
        tasks = {f"block-{number}": SimpleNamespace(state="memory", who_has=()) for number in range(5)}
        retried = []
        scheduler = SimpleNamespace(tasks=tasks, workers={}, stimulus_retry=lambda keys: retried.extend(keys))
        check(Rounds("run", SPEC, scheduler, print), tasks["block-2"], retried)

    asyncio.run(go())


def test_a_block_that_dask_gave_up_on_is_made_again(monkeypatch):
    monkeypatch.setattr(rounds, "DEATHS", 2)

    def check(asking, task, retried):
        task.state, task.exception_blame, task.exception = "erred", None, KILLED
        for _ in range(3):  # no matter how often, where it was there in between
            for _ in range(2):
                assert asking._holders(2) == frozenset()
            asking.block_changed("block-2", "processing", "memory")
        assert retried == ["block-2"] * 6
        assert asking.unverified == {2}
        for _ in range(2):
            asking._holders(2)
        with pytest.raises(KilledWorker):
            asking._holders(2)

    with_rounds(check)


def test_an_error_of_the_task_itself_is_not_tried_again():
    def check(asking, task, retried):
        blamed = SimpleNamespace(exception=OSError("no such file"))
        task.state, task.exception_blame, task.exception = "erred", blamed, None
        with pytest.raises(OSError, match="no such file"):
            asking._holders(2)
        assert not retried

    with_rounds(check)


def test_deaths_while_rows_are_laid_out_are_tried_again(monkeypatch):
    class Deadly:
        def __init__(self, deaths):
            self.deaths = deaths

        @property
        def status(self):
            return "error" if self.deaths else "finished"

        def exception(self):
            return KILLED

    def retry(futures):
        for future in futures:
            future.deaths -= 1

    def ended(function, futures, seconds):
        return SimpleNamespace(done=futures, not_done=set())

    client = SimpleNamespace(retry=retry, sync=ended)
    cluster._arrive(client, [Deadly(cluster.DEATHS), Deadly(0)])
    with pytest.raises(KilledWorker):
        cluster._arrive(client, [Deadly(cluster.DEATHS + 1), Deadly(0)])


def test_what_rows_are_made_of_may_take_its_time(monkeypatch):
    """Blocks that no worker is at work for are waited for, but not for ever; so are workers that do not get on."""
    for name, seconds in {"PATIENCE": 5.0, "ARRIVAL": 10.0, "STUCK": 30.0}.items():
        monkeypatch.setattr(cluster, name, seconds)

    def waited(*looks):
        """Return the seconds until the DeadlineError of looks at such counts of tasks, the last again and again."""
        now = [0]

        def no_news(*rest, **options):
            now[0] += 1

        def info(n_workers):
            counts = looks[min(now[0], len(looks)) - 1]
            return {"workers": {"a": {"status": "running", "metrics": {"task_counts": counts}}} if counts else {}}

        monkeypatch.setattr(cluster, "monotonic", lambda: float(now[0]))
        with pytest.raises(DeadlineError, match="for the next of 4 tasks"):
            scheduler = SimpleNamespace(address="tcp://here:8786")
            client = SimpleNamespace(scheduler_info=info, scheduler=scheduler, sync=no_news, status="running")
            cluster._next(client, set(), "the next of 4 tasks")
        return now[0]

    assert waited({}) == 6
    assert waited({"memory": 3}) == 11
    assert waited({"executing": 1}) == 31
    assert waited(*({"executing": 1, "memory": number} for number in range(50))) == 80
    assert waited(*({"executing": 1, "memory": number} for number in range(50)), {"memory": 50}) == 61


def test_runs_that_nobody_fetches_or_wants_are_dropped():
    service, cancelled = Service(), []

    def run(name, ended):
        each = SimpleNamespace(name=name, ended=ended, result=b"" if ended else None, news=asyncio.Event())

        def end():
            each.result = b""
            each.news.set()

        def cancel():
            cancelled.append(name)
            asyncio.get_running_loop().call_later(0.05, end)  # it writes its checkpoint

        each.cancel = cancel
        return each

    now = time.monotonic()
    service.runs = {
        name: run(name, ended)
        for name, ended in {"old": now - KEPT - 1, "new": now - 1, "on": None, "off": None}.items()
    }
    service._drop_old()
    assert set(service.runs) == {"new", "on", "off"} and not cancelled
    asyncio.run(service.forget_run("new"))
    assert not cancelled
    off = service.runs["off"]
    asyncio.run(service.forget_run("off"))
    assert off.result is not None  # who has cancelled a run may rely on its checkpoint
    assert set(service.runs) == {"on"} and cancelled == ["off"]
    asyncio.run(service.before_close())
    assert cancelled == ["off", "on"] and service.gone


def test_silent_are_those_that_owe_an_answer_and_send_no_heartbeat():
    workers = {name: SimpleNamespace(last_seen=seen) for name, seen in {"frozen": 970, "slow": 999, "new": 970}.items()}
    owing = {"frozen": 5.0, "slow": 5.0, "new": 35.0, "gone": 5.0}
    assert rounds.silent(owing, workers, now=40.0, wall=1000.0, limit=20.0) == ["frozen"]


def test_no_block_is_moved_while_a_worker_is_paused():
    """It serves rounds, but it is not among those that may be given more."""

    async def go():
        workers = [SimpleNamespace(address=name, nthreads=1, memory_limit=0) for name in ("here", "new", "paused")]
        asked = []
        scheduler = SimpleNamespace(
            running=workers[:2],
            workers={worker.address: worker for worker in workers},
            tasks={key: SimpleNamespace(nbytes=1, who_has=tuple(workers)) for key in SPEC.keys},
            bandwidth=1e9,
            request_acquire_replicas=lambda address, keys, stimulus_id: asked.append(address),
            request_remove_replicas=lambda *rest, stimulus_id: None,
        )
        asking = Rounds("run", SPEC, scheduler, lambda words: None)
        asking.began -= 100.0
        asking.placement = {"here": [(0, 3)], "paused": [(3, 5)]}
        await asking.even_out()
        assert not asked
        asking.placement, asking.next_move = {"here": [(0, 5)]}, 0.0
        await asking.even_out()
        assert asked == ["new"]

    asyncio.run(go())


def test_moved_blocks_are_dropped_where_they_were_once_they_have_arrived():
    """Not left to Dask, which drops one of two copies as well, but the one that it likes."""

    async def go():
        here, new = (SimpleNamespace(address=name, nthreads=1) for name in ("here", "new"))
        task = SimpleNamespace(who_has=(here,))
        removed = []

        def acquire(address, keys, stimulus_id):
            asyncio.get_running_loop().call_later(0.1, lambda: setattr(task, "who_has", (here, new)))

        def remove(address, keys, stimulus_id):
            removed.append((address, keys, task.who_has))

        scheduler = SimpleNamespace(
            workers={"here": here, "new": new},
            tasks={"block-3": task},
            request_acquire_replicas=acquire,
            request_remove_replicas=remove,
        )
        await Rounds("run", SPEC, scheduler, print)._move("new", [(3, "here")])
        assert removed == [("here", ["block-3"], (here, new))]

    asyncio.run(go())


MESSAGE = {"parameters": pack(np.zeros(1)), "prefix": "block", "ranges": [(0, 3)], "leaves": 5, "verify": []}


def plugin_with(executors, held):
    """Return the plugin of a worker with one thread that holds these blocks."""
    plugin, blocks = KernelPlugin(), [SimpleNamespace(number=number, on_device=False) for number in held]
    data = {f"block-{block.number}": block for block in blocks}
    plugin.worker = SimpleNamespace(state=SimpleNamespace(nthreads=1), executors=executors, data=data)
    plugin.attempts = {}
    return plugin


@dataclass(frozen=True)
class PowerOfTwo(Kernel):
    """Two to the number of the block, after some seconds."""

    seconds: float = 0.0

    def __call__(self, block, parameters):
        time.sleep(self.seconds)
        return np.array([2.0**block.number])


def part_of(executors, held):
    """Return what a worker with these blocks answers when it is asked for blocks 0 .. 3 of 5."""
    plugin = plugin_with(executors, held)
    return asyncio.run(plugin.round(["run", 1, 1], kernel=dumps(PowerOfTwo()), **MESSAGE))


def test_a_worker_names_the_blocks_that_it_lacks():
    with ThreadPoolExecutor(1) as pool:
        reply = part_of({NAME: pool}, [0, 2])
    assert reply["missing"] == [1] and reply["nodes"] == [(0, 0), (0, 2)]
    assert unpack(reply["sums"]).tolist() == [1.0, 4.0]
    assert part_of({NAME: pool}, [0]) is None  # it is about to close, and takes no work any more
    assert part_of({}, [0]) is None


def test_an_attempt_that_nobody_waits_for_leaves_the_threads_to_the_next():
    read = []

    class Data(dict):
        def __getitem__(self, key):
            read.append(key)
            return super().__getitem__(key)

    async def go(plugin):
        attempts = []
        for stamp in (["run", 1, 1], ["run", 1, 2], ["another run", 1, 1]):  # while block 0 is at work for the first
            attempts.append(asyncio.create_task(plugin.round(stamp, kernel=dumps(PowerOfTwo(0.2)), **MESSAGE)))
            await asyncio.sleep(0.05)
        return await asyncio.gather(*attempts)

    with ThreadPoolExecutor(1) as pool:
        plugin = plugin_with({NAME: pool}, [0, 1, 2])
        plugin.worker.data = Data(plugin.worker.data)
        first, second, other = asyncio.run(go(plugin))
    assert first is None and not plugin.attempts
    assert second["nodes"] == other["nodes"] == [(1, 0), (0, 2)]
    assert read == [f"block-{number}" for number in (0, 0, 1, 2, 0, 1, 2)]


def test_only_our_wishes_are_taken_back_from_a_cluster_without_workers():
    """On a shared scheduler, what the tasks of others wish is theirs."""
    service, lifted = Service(), []
    service.wanted = {}

    def task(loose, **annotations):
        return SimpleNamespace(loose_restrictions=loose, annotations=annotations or None)

    service.scheduler = SimpleNamespace(
        tasks={
            "ours": task(True, **{NAME: True}),
            "theirs": task(True, workers=["tcp://there:1"], allow_other_workers=True),
            "plain": task(True),
            "demand": task(False, **{NAME: True}),
        },
        set_restrictions=lambda worker: lifted.append(worker),
    )
    for key in service.scheduler.tasks:
        service.transition(key, "waiting", "processing", stimulus_id="")
        service.transition(key, "waiting", "no-worker", stimulus_id="")
    assert lifted == [{"ours": None}]


def test_a_service_that_is_needed_stays_and_one_that_leaves_starts_nothing():
    service = Service()
    service.lock, service.gone, service.runs, service.active = asyncio.Lock(), False, {}, {"a run"}
    asyncio.run(service._leave())
    assert not service.gone
    service.gone = True
    assert asyncio.run(service.start_run("run", dumps(SPEC))) is None and not service.runs


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_worker_that_left_is_not_waited_for(when):
    asked = []

    class Nowhere:
        """A connection to an address where nobody listens any more."""

        async def dist_dot_round(self, **message):
            asked.append(message)
            await asyncio.sleep(30.0)

    async def main():
        workers = {} if when == "before" else {"a": SimpleNamespace(server_id="id of a")}
        scheduler = SimpleNamespace(workers=workers, rpc=lambda address: Nowhere())
        asking = Rounds("run", SPEC, scheduler, lambda words: None)
        answer = asyncio.create_task(asking._ask_worker("a", ["run", 1, 1], [(0, 5)], {}))
        await asyncio.sleep(0.05)
        workers.clear()
        asking.worker_left("a")
        assert await asyncio.wait_for(answer, 5.0) is None
        assert not asking.owing and not asking.waits
        assert asking.fallen == ({"id of a"} if when == "while" else set())

    asyncio.run(main())
    assert len(asked) == (when == "while")
