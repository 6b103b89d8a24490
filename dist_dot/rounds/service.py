"""The service beside the scheduler: it hosts the runs, and is gone again when there are none.

A run is a program (see `dist_dot.rounds.blocks`) with a thread of its own (`run.py`); the scheduler's event loop only
moves bytes for it, one message per worker and round (`asking.py`). What did not come back, because a worker died or a
block had moved, is asked for again once Dask has rebuilt it.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Coroutine
from contextlib import suppress
from time import monotonic, time

from distributed import SchedulerPlugin
from distributed.core import rpc
from distributed.protocol.pickle import dumps, loads
from distributed.scheduler import Scheduler, WorkerState, heartbeat_interval

from dist_dot.errors import ClusterError
from dist_dot.rounds.asking import STUCK, RunSpec, silent
from dist_dot.rounds.run import Run
from dist_dot.rounds.worker import NAME, KernelPlugin, Message
from dist_dot.rows.block import BLOCK

# Seconds.
TICK = 0.5  # between two looks at what goes on
SILENCE = 20.0  # without a sign of life from a worker that owes an answer, and at least ten heartbeats
INSTALL = 20.0  # for the workers to take our plugin, or to let it go; one that is frozen takes it when it wakes
KEPT = 86_400.0  # for a result that nobody fetches
LINGER = 30.0  # without runs and without news of blocks: the next fit need not install the service again
ENDING = 10.0  # for a run that is cancelled to end: its loop may be at algebra of its own, or write its checkpoint
GATHER = 0.02  # progress is sent in bundles of this length


class Service(SchedulerPlugin):
    """The scheduler plugin: start, follow, stop and forget runs.

    It is idempotent, because a second client that registers it must not replace the one that has runs. One that stays
    does not leave when it has none.
    """

    name = NAME
    idempotent = True

    def __init__(self, stays: bool = False) -> None:
        self.stays = stays

    async def start(self, scheduler: Scheduler) -> None:
        """Open the handlers."""
        self.scheduler = scheduler
        self.loop = asyncio.get_running_loop()
        self.runs: dict[str, Run] = {}
        self.wanted: dict[str, set[Run]] = defaultdict(set)  # key -> the runs that go on and need it
        self.active: set[Run] = set()  # the runs that have not ended; one may be forgotten before it has
        self.tasks: set[asyncio.Task[None]] = set()
        self.lock = asyncio.Lock()
        self.gone = False
        self.idle_since = monotonic()
        self.handlers = {
            "dist_dot_start": self.start_run,
            "dist_dot_follow": self.follow_run,
            "dist_dot_stop": self.stop_run,
            "dist_dot_forget": self.forget_run,
            "dist_dot_runs": self.list_runs,
            "dist_dot_extra": self.extra_of_run,
            "dist_dot_sees": self.sees,
        }
        scheduler.handlers |= self.handlers
        scheduler.stream_handlers["dist_dot_forget"] = self.hear_forget
        self._spawn(self._watch())

    async def before_close(self) -> None:
        """End the threads of all runs."""
        self.gone = True
        for run in self.runs.values():
            run.cancel()

    # What the scheduler tells.

    def transition(self, key: str, start: str, finish: str, *args: object, stimulus_id: str, **rest: object) -> None:
        """Tell the runs that need the block; keep Dask from waiting for a worker that is gone.

        "Rather on these workers, but others will do" turns into "on these alone" while the cluster has no workers: when
        there are new ones, Dask (2026.8) finds none of them in the list, and the task waits for ever. Tasks of ours are
        those that `place` has marked; for what others wish, others answer.
        """
        if finish == "no-worker":
            task = self.scheduler.tasks[key]
            if task.loose_restrictions and NAME in (task.annotations or ()):
                self.scheduler.set_restrictions(worker={key: None})
        if isinstance(key, str) and key.startswith(BLOCK):
            self.idle_since = monotonic()  # whoever lays out rows is about to start a run
        for run in self.wanted.get(key, ()):
            run.rounds.block_changed(key, start, finish)

    def remove_worker(self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **rest: object) -> None:
        """Tell the runs."""
        for run in self.active:
            run.rounds.worker_left(worker)

    def restart(self, scheduler: Scheduler) -> None:
        """Tell the runs that their blocks are forgotten."""
        for run in self.active:
            run.rounds.outdated()

    def valid_workers_downscaling(self, scheduler: Scheduler, workers: list[WorkerState]) -> list[WorkerState]:
        """Keep the workers that have a part in a run: they have no tasks, but they are not idle."""
        busy = set().union(*(run.rounds.members for run in self.active))
        return [worker for worker in workers if worker.address not in busy]

    # What clients ask.

    async def start_run(self, run: str, spec: bytes) -> bool | None:
        """Start a run; return True, or None if this service was about to leave.

        The blocks must be known to the scheduler; they stay until the run has ended, whatever becomes of the client.
        """
        loaded: RunSpec = loads(spec)
        async with self.lock:
            if self.gone:
                return None
            await self._install()
            unknown = [key for key in loaded.keys if key not in self.scheduler.tasks]
            if unknown:
                raise ClusterError(f"the scheduler does not know {len(unknown)} of the run's blocks: {unknown[0]} ...")
            self.scheduler.client_desires_keys(keys=loaded.keys, client=f"{NAME}-{run}")
            self.runs[run] = started = Run(run, loaded, self.scheduler, self._finished)
            self.active.add(started)
            for key in loaded.keys:
                self.wanted[key].add(started)
            started.thread.start()
        return True

    async def follow_run(self, run: str, after: int, wait: float) -> Message:
        """Return the reports after the first `after`, and the result once there is one.

        Answers as soon as there is news, at the latest after `wait` seconds.
        """
        known = self._known(run)
        if known.result is None:
            if len(known.reports) <= after:
                known.news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await known.news.wait()
            if known.result is None:
                await asyncio.sleep(GATHER)
        # The result first: what was reported before it is then in the reports.
        result = known.result
        return {"reports": dumps(known.reports[after:]), "result": result}

    async def stop_run(self, run: str, cancel: bool) -> None:
        """Ask a run to end after this round with what it has, or to be cancelled, without a result."""
        known = self._known(run)
        if cancel:
            known.cancel()
        known.stopping = not cancel

    def hear_forget(self, run: str, **rest: object) -> None:
        """Forget a run by the word of a client that waits for no answer."""
        self._spawn(self.forget_run(run=run))

    async def forget_run(self, run: str) -> None:
        """Drop the result of a run; cancel it if it has not ended, and wait until it has left its checkpoint."""
        known = self.runs.pop(run, None)
        self.idle_since = monotonic()
        if known is None or known.result is not None:
            return
        known.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING):
                while known.result is None:
                    known.news.clear()
                    await known.news.wait()

    async def list_runs(self) -> list[Message]:
        """Return what is known of each run."""
        return [run.describe() for run in self.runs.values()]

    async def extra_of_run(self, run: str) -> bytes:
        """Return what its client left for whoever fetches the result."""
        return self._known(run).spec.extra

    async def sees(self, path: str) -> bool:
        """Return whether there is such a file where the loops run."""
        return os.path.exists(path)

    # The life of runs and of the service.

    def _finished(self, run: Run) -> None:
        """Let go of the blocks; keep the result until it is fetched, or for a day."""
        self.active.discard(run)
        for key in run.spec.keys:
            self.wanted[key].discard(run)
            if not self.wanted[key]:
                del self.wanted[key]
        self.scheduler.remove_client(f"{NAME}-{run.name}")
        run.ended = monotonic()
        run.news.set()

    def _known(self, run: str) -> Run:
        if run not in self.runs:
            raise ClusterError(f"there is no run {run} here: {sorted(self.runs) or 'none at all'}")
        return self.runs[run]

    async def _install(self) -> None:
        """Give all workers, now and later, the worker's half. Raises what its setup raises."""
        if NAME in self.scheduler.worker_plugins:
            return
        plugin = self.scheduler.worker_plugins[NAME] = dumps(KernelPlugin())
        for answer in await self._broadcast({"op": "plugin-add", "plugin": plugin, "name": NAME}):
            if answer["status"] == "error":
                del self.scheduler.worker_plugins[NAME]
                raise ClusterError(f"a worker cannot take part: {answer['exception_text']}")

    async def _broadcast(self, message: Message) -> list[Message]:
        """Send to all workers, whoever of them may be dying."""
        with suppress(TimeoutError):
            async with asyncio.timeout(INSTALL):
                answers = await self.scheduler.broadcast(msg=message, on_error="ignore")
                return [answer for answer in answers.values() if isinstance(answer, dict)]
        return []

    async def _leave(self) -> None:
        """Take everything of ours off the workers and the scheduler, unless a run has come meanwhile."""
        async with self.lock:
            if self.runs or self.active:
                return
            self.gone = True
            if self.scheduler.worker_plugins.pop(NAME, None) is not None:
                await self._broadcast({"op": "plugin-remove", "name": NAME})
            for handler in self.handlers:
                self.scheduler.handlers.pop(handler, None)
            self.scheduler.stream_handlers.pop("dist_dot_forget", None)
            self.scheduler.remove_plugin(NAME)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _watch(self) -> None:
        """Look after what no message tells of: frozen workers, uneven loads, and that a busy cluster looks idle."""
        while not self.gone:
            before = self.loop.time()
            await asyncio.sleep(TICK)
            if self.active:
                self.idle_since = monotonic()
                self.scheduler.idle_since = None
            self._drop_old()
            if not self.stays and not self.runs and not self.active and monotonic() - self.idle_since > LINGER:
                await self._leave()
            on_time = self.loop.time() - before < 2 * TICK + 1.0
            for run in self.active:
                if on_time:  # else it was this loop that was away, and has not read the heartbeats yet
                    self._evict_frozen(run)
                self._spawn(run.rounds.even_out())

    def _drop_old(self) -> None:
        """Forget the outcomes that nobody has fetched for a day."""
        for run in list(self.runs.values()):
            if run.ended is not None and monotonic() - run.ended > KEPT:
                del self.runs[run.name]

    def _evict_frozen(self, run: Run) -> None:
        workers = self.scheduler.workers
        limit = max(SILENCE, 10 * heartbeat_interval(len(workers)))
        for address in silent(run.rounds.owing, workers, self.loop.time(), time(), limit):
            run.rounds.notice(f"worker {address} has been silent for {limit:.0f} s and is taken for frozen")
            self._spawn(self._evict(address))
        for address in run.rounds.stuck(STUCK):
            run.rounds.notice(f"worker {address} has finished no block for {STUCK:.0f} s and is taken for stuck")
            self._spawn(self._evict(address))

    async def _evict(self, address: str) -> None:
        """Remove a worker, which frees its blocks at once, and have its nanny replace it."""
        if address not in self.scheduler.workers:
            return  # another run was first
        nanny = self.scheduler.workers[address].nanny
        await self.scheduler.remove_worker(address, stimulus_id=f"{NAME}-evict-{time()}")
        if nanny:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(SILENCE), rpc(nanny, connection_args=self.scheduler.connection_args) as it:
                    await it.kill(reason=f"{NAME}: silent or stuck")


async def dask_setup(scheduler: Scheduler) -> None:
    """Start the service with the scheduler: dask scheduler --preload dist_dot.rounds.service.

    For schedulers that take no plugins from clients (`distributed.scheduler.blocked-handlers`). It stays until the
    scheduler ends.
    """
    await scheduler.register_scheduler_plugin(Service(stays=True), idempotent=True)
