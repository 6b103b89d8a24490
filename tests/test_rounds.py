"""What a round does about answers that do not come, and whom a death is blamed on: with no cluster, and at once."""

import asyncio
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from distributed import KilledWorker

from dist_dot.blocks import cluster, rounds
from dist_dot.blocks.block import cut
from dist_dot.blocks.rounds import Rounds, RunSpec
from dist_dot.blocks.run import SchedulerBlocks
from dist_dot.blocks.service import KEPT, Service
from dist_dot.blocks.worker import pack
from dist_dot.errors import DeadlineError

CUTS = cut(50, 3, "float64", 10)
SPEC = RunSpec(b"", CUTS, "block", ("",) * 5, "the rows", 0.3, "", b"")
KILLED = KilledWorker("block-2", None, 3)


@contextmanager
def answering(*answers):
    """Yield blocks whose rounds are answered by these blocks, one attempt after the other, and what they ask for."""
    loop, asked = asyncio.new_event_loop(), []
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def ask(number, message, missing):
        asked.append(missing)
        await asyncio.sleep(0.2)
        found = answers[len(asked) - 1] if len(asked) <= len(answers) else []
        sums = np.array([[float(2**number)] for number in found])
        return [{"nodes": [(0, number) for number in found], "sums": pack(sums)}]

    try:
        host = SimpleNamespace(ask=ask, cancelled=False, lost=0, node_bytes=0)
        yield SchedulerBlocks(SimpleNamespace(name="run", spec=SPEC, loop=loop, rounds=host)), asked
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def add(block, parameters):
    """Stand for a kernel: what is sent back here was made up."""


def test_a_round_is_repeated_for_the_missing_blocks_alone():
    with answering([0, 1, 4], [], [2], [3]) as (blocks, asked):
        assert blocks.reduce(add, np.zeros(1)) == 31.0
    assert asked == [None, [2, 3], [2, 3], [3]] and blocks.recovery.repeated == 1


def test_a_round_ends_when_nobody_answers_any_more():
    # Each answer is a reason to go on waiting: four attempts take more than twice the patience.
    with answering([0], [1], [2], [3]) as (blocks, asked), pytest.raises(DeadlineError) as caught:
        begin = time.monotonic()
        blocks.reduce(add, np.zeros(1))
    assert "for 0 s no worker answered for blocks [4] of the rows" in str(caught.value)
    assert len(asked) in (5, 6) and time.monotonic() - begin < 5


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

    monkeypatch.setattr(cluster, "wait", lambda pending, **rest: (pending, set()))
    client = SimpleNamespace(retry=retry)
    cluster._arrive(client, [Deadly(cluster.DEATHS), Deadly(0)])
    with pytest.raises(KilledWorker):
        cluster._arrive(client, [Deadly(cluster.DEATHS + 1), Deadly(0)])


def test_runs_that_nobody_fetches_or_wants_are_dropped():
    service, cancelled = Service(), []

    def run(name, ended):
        return SimpleNamespace(
            name=name, ended=ended, result=b"" if ended else None, cancel=lambda: cancelled.append(name)
        )

    now = time.monotonic()
    service.runs = {
        name: run(name, ended)
        for name, ended in {"old": now - KEPT - 1, "new": now - 1, "on": None, "off": None}.items()
    }
    service._drop_old()
    assert set(service.runs) == {"new", "on", "off"} and not cancelled
    asyncio.run(service.forget_run("new"))
    assert not cancelled
    asyncio.run(service.forget_run("off"))
    assert set(service.runs) == {"on"} and cancelled == ["off"]
    asyncio.run(service.before_close())
    assert cancelled == ["off", "on"] and service.gone
