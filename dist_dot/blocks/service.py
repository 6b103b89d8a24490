"""The service beside the scheduler: it hosts the loops of runs, and turns each round into one message per worker.

A run is a program (see `dist_dot.blocks.block`) with a thread of its own; the scheduler's event loop only moves bytes
for it. Rounds are coroutines on that loop: look up who holds which block, ask every worker at once, and hand what came
back to the thread, which decodes and adds. What did not come back, because a worker died or a block had moved, is
asked for again once Dask has rebuilt it.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from distributed import KilledWorker, SchedulerPlugin
from distributed.protocol import Serialize, Serialized, deserialize
from distributed.protocol.pickle import dumps, loads

from dist_dot.blocks.block import Cuts, Kernel, Program, merge_of
from dist_dot.blocks.reduce import Node, fold, root, uncovered
from dist_dot.blocks.worker import NAME, pack, unpack
from dist_dot.errors import ClusterError, DeadlineError, RunCancelled
from dist_dot.typing import Array

# Seconds.
ANSWER = 300.0  # for a worker's answer to one round
PATIENCE = 300.0  # for a block that no worker holds
KEPT = 86_400.0  # for a result that nobody fetches
GATHER = 0.02  # progress is sent in bundles of this length
# Dask gives up on a task after a few deaths of workers that held it, and never forgets them. A run of days may see
# more than that, but not this many for one key.
RETRIES = 100


@dataclass(frozen=True)
class RunSpec:
    """A run as it is sent to the service."""

    program: Program[Any]
    cuts: Cuts
    keys: tuple[str, ...]


class Run:
    """One program at work."""

    def __init__(self, name: str, spec: RunSpec, service: "Service") -> None:
        self.name = name
        self.spec = spec
        self.service = service
        self.progress: list[Any] = []
        self.result: bytes | None = None
        self.stopping = False
        self.cancelled = False
        self.news = asyncio.Event()
        self.thread = threading.Thread(target=self._work, name=f"{NAME}-{name}", daemon=True)

    def _work(self) -> None:
        outcome: tuple[str, Any]
        try:
            outcome = "done", self.spec.program(SchedulerBlocks(self), self._report)
        except Exception as error:  # all of them belong to the client
            outcome = "error", error
        try:
            self.result = dumps(outcome)
        except Exception as error:
            self.result = dumps(("error", ClusterError(f"the outcome of the run cannot be sent: {error!r}")))
        with suppress(RuntimeError):  # the scheduler has closed meanwhile
            self.service.loop.call_soon_threadsafe(self.service.finished, self)

    def _report(self, progress: Any) -> bool:
        self.progress.append(progress)
        self.service.loop.call_soon_threadsafe(self.news.set)
        return self.stopping

    def check(self) -> None:
        """Raise RunCancelled once somebody has asked for it."""
        if self.cancelled:
            raise RunCancelled(f"run {self.name} was cancelled")


class SchedulerBlocks:
    """The blocks of a cluster as the loop's thread sees them."""

    def __init__(self, run: Run) -> None:
        self.run_state = run
        self.cuts = run.spec.cuts
        self.rounds = 0

    @property
    def where(self) -> str:
        """Where the rows live, in words."""
        count = len(self.run_state.service.scheduler.workers)
        return f"a Dask cluster of {count} worker{'s' if count != 1 else ''}"

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the sum of kernel(block, parameters) over all blocks. One round; reads X once."""
        self.rounds += 1
        leaves = self.cuts.n_blocks
        message = {"kernel": dumps(kernel), "parameters": pack(parameters), "leaves": leaves}
        service = self.run_state.service
        nodes: dict[Node, Array] = {}
        deadline = monotonic() + PATIENCE
        while missing := uncovered(nodes, leaves):
            self.run_state.check()
            ask = service.ask(self.run_state, message, missing)
            for reply in asyncio.run_coroutine_threadsafe(ask, service.loop).result():  # `ask` has its own deadlines
                if "error" in reply:
                    raise loads(reply["error"])
                if not reply["nodes"]:
                    continue  # all of its blocks had moved
                sums = unpack(reply["sums"]).reshape(len(reply["nodes"]), -1)
                nodes |= {(level, index): total for (level, index), total in zip(reply["nodes"], sums, strict=True)}
                deadline = monotonic() + PATIENCE
            if monotonic() > deadline:
                raise DeadlineError(f"for {PATIENCE:.0f} s no worker answered for blocks {missing[:5]}")
            nodes = fold(nodes, leaves, merge_of(kernel))
        return nodes[root(leaves)]

    def run(self, program: Program[Any], report: Any) -> Any:
        """Run the program in this thread: it is already beside the rows."""
        return program(self, report)


class Service(SchedulerPlugin):
    """The scheduler plugin: start, follow, stop and forget runs.

    It is idempotent, because a second client that registers it must not replace the one that has runs.
    """

    name = NAME
    idempotent = True

    async def start(self, scheduler: Any) -> None:
        """Open the handlers."""
        self.scheduler = scheduler
        self.loop = asyncio.get_running_loop()
        self.runs: dict[str, Run] = {}
        self.wanted: dict[str, int] = defaultdict(int)  # key -> runs that need it
        self.retries: dict[str, int] = defaultdict(int)
        self.change = asyncio.Event()
        scheduler.handlers |= {
            "dist_dot_start": self.start_run,
            "dist_dot_follow": self.follow_run,
            "dist_dot_stop": self.stop_run,
            "dist_dot_forget": self.forget_run,
        }

    async def before_close(self) -> None:
        """End the threads of all runs."""
        for run in self.runs.values():
            run.cancelled = True
        self.change.set()

    def transition(self, key: str, start: str, finish: str, *args: Any, stimulus_id: str, **rest: Any) -> None:
        """Wake the rounds that wait for a block."""
        if key in self.wanted:
            self.change.set()

    def remove_worker(self, scheduler: Any, worker: str, *, stimulus_id: str, **rest: Any) -> None:
        """Wake the rounds that wait for a block."""
        self.change.set()

    async def start_run(self, run: str, spec: bytes) -> None:
        """Start a run. Its blocks must be known to the scheduler; it wants them until it has ended."""
        loaded: RunSpec = loads(spec)
        unknown = [key for key in loaded.keys if key not in self.scheduler.tasks]
        if unknown:
            raise ClusterError(f"the scheduler does not know {len(unknown)} of the run's blocks, such as {unknown[0]}")
        self.scheduler.client_desires_keys(keys=loaded.keys, client=f"{NAME}-{run}")
        for key in loaded.keys:
            self.wanted[key] += 1
        self.runs[run] = Run(run, loaded, self)
        self.runs[run].thread.start()

    async def follow_run(self, run: str, after: int, wait: float) -> dict[str, Any]:
        """Return the progress after the first `after` reports, and the result once there is one.

        Answers as soon as there is news, at the latest after `wait` seconds.
        """
        known = self._known(run)
        if known.result is None:
            if len(known.progress) <= after:
                known.news.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(known.news.wait(), wait)
            if known.result is None:
                await asyncio.sleep(GATHER)
        # The result first: what was reported before it is then in the progress.
        result = known.result
        return {"progress": dumps(known.progress[after:]), "result": result}

    async def stop_run(self, run: str, cancel: bool) -> None:
        """Ask a run to end after this round with what it has, or to be cancelled, without a result."""
        known = self._known(run)
        known.stopping = True
        known.cancelled = known.cancelled or cancel

    async def forget_run(self, run: str) -> None:
        """Drop the result of a run; cancel it if it has not ended."""
        known = self.runs.pop(run, None)
        if known is not None and known.result is None:
            known.cancelled = True
            self.change.set()

    def finished(self, run: Run) -> None:
        """Let go of the blocks; keep the result until it is fetched, or for a day."""
        for key in run.spec.keys:
            self.wanted[key] -= 1
            if not self.wanted[key]:
                del self.wanted[key]
                self.retries.pop(key, None)
        self.scheduler.remove_client(f"{NAME}-{run.name}")
        run.news.set()
        self.loop.call_later(KEPT, self.runs.pop, run.name, None)

    def _known(self, run: str) -> Run:
        if run not in self.runs:
            raise ClusterError(f"there is no run {run} here: {sorted(self.runs) or 'none at all'}")
        return self.runs[run]

    async def ask(self, run: Run, message: dict[str, Any], missing: Iterable[int]) -> list[dict[str, Any]]:
        """Ask each worker for its part of the missing blocks; return the replies that arrived."""
        self.scheduler.idle_since = None  # a cluster with a run is not idle, though it has no tasks
        holders = await self._holders(run, missing)
        replies = await asyncio.gather(
            *(self._ask_worker(address, message | {"blocks": blocks}) for address, blocks in holders.items())
        )
        good = [reply for reply in replies if reply is not None]
        if not good:
            await asyncio.sleep(0.05)  # the scheduler is about to hear what we heard
        return good

    async def _ask_worker(self, address: str, message: dict[str, Any]) -> dict[str, Any] | None:
        """Return a worker's reply, None for one that cannot be reached, knows nothing of us or stays silent."""
        try:
            reply: dict[str, Any] | None = await asyncio.wait_for(
                self.scheduler.rpc(address).dist_dot_round(**message), ANSWER
            )
        except (OSError, TimeoutError):
            return None
        return reply

    async def _holders(self, run: Run, missing: Iterable[int]) -> dict[str, list[tuple[int, str]]]:
        """Return worker -> its blocks, for those of the missing blocks that some worker holds; wait for the first.

        Where there are several holders the one of the block before is taken, so that ranges stay contiguous.
        """
        deadline = self.loop.time() + PATIENCE
        while True:
            run.check()
            self.change.clear()
            holders: dict[str, list[tuple[int, str]]] = defaultdict(list)
            address = ""
            for number in missing:
                key = run.spec.keys[number]
                task = self.scheduler.tasks.get(key)
                if task is None:
                    raise ClusterError(f"the blocks of run {run.name} were forgotten: was the cluster restarted?")
                if task.state == "erred":
                    self._revive(key, task)
                addresses = {worker.address for worker in task.who_has or ()}
                if addresses:
                    address = address if address in addresses else min(addresses)
                    holders[address].append((number, key))
            if holders:
                return holders
            try:
                await asyncio.wait_for(self.change.wait(), deadline - self.loop.time())
            except TimeoutError:
                count = len(self.scheduler.workers)
                raise DeadlineError(
                    f"waited {PATIENCE:.0f} s for blocks {list(missing)[:5]} of run {run.name} to be rebuilt; "
                    f"the cluster has {count} workers"
                ) from None

    def _revive(self, key: str, task: Any) -> None:
        """Have a block made again that Dask gave up on because workers died under it; raise any other error."""
        cause = (task.exception_blame or task).exception
        error = _exception(cause)
        if not isinstance(error, KilledWorker) or self.retries[key] >= RETRIES:
            raise error
        self.retries[key] += 1
        self.scheduler.stimulus_retry(keys=[key])


def _exception(cause: Any) -> Exception:
    """Return the exception of an erred task, which the scheduler holds in one of several serialized forms."""
    if isinstance(cause, Serialized):
        cause = deserialize(cause.header, cause.frames)
    if isinstance(cause, Serialize):
        cause = cause.data
    if isinstance(cause, bytes):
        cause = loads(cause)
    return cause if isinstance(cause, Exception) else ClusterError(f"a block could not be made: {cause!r}")
