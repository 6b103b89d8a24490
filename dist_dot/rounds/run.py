"""A run beside the scheduler: a program in a thread of its own, and the blocks of the cluster as it sees them."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic, perf_counter

import numpy as np
from distributed.protocol.pickle import dumps, loads
from distributed.scheduler import Scheduler

from dist_dot.errors import ClusterError, DeadlineError, RunCancelled
from dist_dot.kernels.blas import one_blas_thread
from dist_dot.kernels.checksum import combined
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.tree import Node, fold, root, uncovered
from dist_dot.rounds.asking import DEATHS, Rounds, RunSpec
from dist_dot.rounds.blocks import Program, Recovery, Report, T
from dist_dot.rounds.worker import NAME, Message, as_sent, pack, unpack
from dist_dot.typing import Array

CLOSED = 1.0  # seconds until a thread that waits for the event loop looks whether there is one any more


class Run:
    """One program at work, and all that is known of it.

    The program's thread reports progress and ends with an outcome; whoever follows the run reads both here. `reports`
    holds ("progress", object) and ("notice", words), in order.
    """

    def __init__(self, name: str, spec: RunSpec, scheduler: Scheduler, finished: Callable[["Run"], None]) -> None:
        self.name = name
        self.spec = spec
        self.started = datetime.now(UTC)
        self.reports: list[tuple[str, object]] = []
        self.result: bytes | None = None
        self.kind = "running"
        self.ended: float | None = None  # monotonic
        self.stopping = False
        self.news = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.rounds = Rounds(name, spec, scheduler, self.notice)
        self._finished = finished
        self.thread = threading.Thread(target=self._work, name=f"{NAME}-{name}", daemon=True)

    def cancel(self) -> None:
        """End it without a result; a round under way is abandoned."""
        self.rounds.cancel()

    def describe(self) -> Message:
        """Return what a list of runs shows."""
        progress = next((report for kind, report in reversed(self.reports) if kind == "progress"), None)
        ending = self.kind == "running" and (self.stopping or self.rounds.cancelled)
        return {
            "run": self.name,
            "label": self.spec.label,
            "state": "ending" if ending else self.kind,
            "started": self.started.isoformat(timespec="seconds"),
            "progress": dumps(progress),
        }

    def notice(self, words: str) -> None:
        """Tell whoever follows the run; called on the event loop."""
        self.reports.append(("notice", words))
        self.news.set()

    def _report(self, progress: object) -> bool:
        self.reports.append(("progress", progress))
        self.tell(self.news.set)
        return self.stopping

    def _work(self) -> None:
        outcome: tuple[str, object]
        try:
            program: Program[object] = loads(self.spec.program)
            blocks = SchedulerBlocks(self)
            with one_blas_thread():
                outcome = "done", (program(blocks, self._report), blocks.rounds)
        except Exception as error:  # all of them belong to the client
            outcome = "error", as_sent(error)
        except BaseException as error:  # of a loss that exits, say: the run is over, and the client is not to exit too
            outcome = "error", ClusterError(f"the run was ended by {error!r}")
        try:
            result = dumps(outcome)
        except Exception as error:
            outcome = "error", ClusterError(f"the outcome of the run cannot be sent: {error!r}")
            result = dumps(outcome)
        self.kind, self.result = outcome[0], result
        self.tell(self._finished, self)

    def tell(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function on the event loop, if there still is one."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(function, *arguments)


class SchedulerBlocks:
    """The blocks of a cluster as the loop's thread sees them."""

    def __init__(self, run: Run) -> None:
        self.host = run
        self.cuts = run.spec.cuts
        self.rounds = 0
        self.recovery = Recovery()
        self._usual = 0.0  # seconds of the last round that nothing disturbed

    @property
    def on_device(self) -> bool:
        """Whether the rows are on GPUs."""
        return bool(self.host.spec.devices)

    @property
    def where(self) -> str:
        """Where the rows live, in words."""
        count = len(self.host.rounds.scheduler.workers)
        return f"a Dask cluster of {count} worker{'s' if count != 1 else ''}{self.host.spec.devices}"

    @property
    def checksum(self) -> str:
        """A checksum of all rows, in their cuts. No round: it was taken when the blocks were made."""
        return combined(self.host.spec.checksums)

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the sum of kernel(block, parameters) over all blocks. One round; reads X once.

        Raises DeadlineError where no sum has come for `patience` seconds in which no worker was at work either,
        ClusterError where so many workers in a row were lost at the same blocks that these are likely to be the reason.
        """
        self.rounds += 1
        leaves = self.cuts.n_blocks
        message = {"kernel": dumps(kernel), "parameters": pack(parameters), "leaves": leaves}
        nodes: dict[Node, Array] = {}
        missing: list[int] | None = None
        attempts, begin = 0, perf_counter()
        waited, fallen = 0.0, self.host.rounds.fallen  # since a sum has come
        fallen.clear()
        while root(leaves) not in nodes:
            since, before = monotonic(), len(fallen)
            replies = self._wait(self.host.rounds.ask(self.rounds, message, missing))
            for reply in replies:
                if "error" in reply:
                    raise loads(reply["error"])
                if reply["nodes"]:
                    nodes |= self._decode(reply)
            if any(reply["nodes"] for reply in replies):
                waited = 0.0
                fallen.clear()
            elif len(fallen) == before:  # else a worker was at it when it was lost, which may have taken hours
                waited += monotonic() - since
            nodes = fold(nodes, leaves, kernel.merge)
            missing = uncovered(nodes, leaves)
            if missing:
                self._check(missing, waited, len(fallen))
            attempts += 1
        self._account(attempts, perf_counter() - begin)
        return nodes[root(leaves)]

    def _check(self, missing: list[int], waited: float, fallen: int) -> None:
        blocks = f"blocks {missing[:5]} of {self.host.spec.source}"
        if waited > self.host.spec.patience:
            raise DeadlineError(f"for {self.host.spec.patience:.0f} s no worker answered for {blocks}")
        if fallen > DEATHS:
            raise ClusterError(
                f"{fallen} workers in a row were lost while they worked on {blocks}: what is computed there may take "
                "more memory than a worker has"
            )

    def notice(self, words: str) -> None:
        """Tell whoever follows the run."""
        self.host.tell(self.host.notice, words)

    def run(self, program: Program[T], report: Report) -> T:
        """Run the program in this thread: it is already beside the rows."""
        return program(self, report)

    def _decode(self, reply: Message) -> dict[Node, Array]:
        # Sums of rows that are gathered differ in size, all others are as long as each other.
        sums = np.split(unpack(reply["sums"]), np.cumsum(reply["sizes"][:-1]))
        self.host.rounds.node_bytes = sums[0].nbytes
        return {(level, index): total for (level, index), total in zip(reply["nodes"], sums, strict=True)}

    def _account(self, attempts: int, seconds: float) -> None:
        before, lost = self.recovery, self.host.rounds.lost
        if attempts == 1:
            self._usual = seconds
            if lost == before.lost:
                return
            self.recovery = replace(before, lost=lost)
        else:
            beyond = max(0.0, seconds - self._usual)
            self.recovery = Recovery(lost, before.repeated + 1, before.seconds + beyond)

    def _wait(self, coroutine: Coroutine[None, None, list[Message]]) -> list[Message]:
        """Run a coroutine on the scheduler's event loop; it has deadlines of its own."""
        future: Future[list[Message]] = asyncio.run_coroutine_threadsafe(coroutine, self.host.loop)
        while not wait([future], CLOSED).done:
            if self.host.rounds.cancelled and not self.host.loop.is_running():
                raise RunCancelled(f"run {self.host.name} was cancelled: the scheduler has closed")
        return future.result()
