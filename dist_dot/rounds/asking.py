"""The event loop's side of a run: who holds its blocks, asking them, and what to do when they do not answer.

Every coroutine here runs on the scheduler's event loop, so nothing else happens between two awaits.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from distributed import KilledWorker, Status
from distributed.protocol import Serialize, Serialized, deserialize
from distributed.protocol.pickle import loads
from distributed.scheduler import Scheduler, TaskState, WorkerState

from dist_dot.errors import ClusterError, DataError, DeadlineError, RunCancelled
from dist_dot.rounds.placement import Ranges, assign, even, moves, nodes, ranges, slowest
from dist_dot.rounds.worker import NAME, Message, Stamp
from dist_dot.rows.block import Cuts, block_key

# Seconds.
STUCK = 1800.0  # for one block, or one task: a worker or a cluster that has finished none for so long does not get on
PAUSE = 0.05  # after an attempt that brought nothing: the scheduler is about to hear what we heard
SPEAK = 2.0  # a wait that is longer is worth a word
ARRIVAL = 30.0  # for blocks that are moved to another worker, and between two attempts at it
# Bytes of GPU blocks that are moved at a time: to Dask they are small, and it would send all of them in one message.
BUNDLE = 256 << 20
# Dask gives up on a task after a few deaths of workers under it, and never forgets them. Under a run of days that is no
# reason to stop, but a block that so many workers in a row have died of is: of making it, or of a round over it.
DEATHS = 20


@dataclass(frozen=True)
class RunSpec:
    """A run as it is sent to the service.

    program is pickled, to be unpickled in the run's own thread. Block i has the key block_key(prefix, i), and had the
    checksum checksums[i] when it was first made; source says in words where the rows come from. patience is in seconds.
    label and extra are for who finds the run later: words, and, pickled, what its client needs to use the outcome.
    devices names the GPUs that the blocks are on, "" for none.
    """

    program: bytes
    cuts: Cuts
    prefix: str
    checksums: tuple[str, ...]
    source: str
    patience: float
    label: str
    extra: bytes
    devices: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """Dask's keys of the blocks."""
        return tuple(block_key(self.prefix, number) for number in range(self.cuts.n_blocks))


class Rounds:
    """Who holds the blocks of one run, and asking them."""

    def __init__(self, name: str, spec: RunSpec, scheduler: Scheduler, notice: Callable[[str], None]) -> None:
        self.name = name
        self.spec = spec
        self.scheduler = scheduler
        self.notice = notice
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.keys = spec.keys
        self.numbers = {key: number for number, key in enumerate(self.keys)}
        self.change = asyncio.Event()
        self.placement: dict[str, Ranges] | None = None  # of all blocks; None once it may be out of date
        self.members: set[str] = set()  # the workers that had a part in a round
        self.owing: dict[str, float] = {}  # worker -> since when it owes an answer
        self.waits: dict[str, asyncio.Timeout] = {}  # worker -> the wait for its answer
        self.fallen: set[str] = set()  # ids of workers that were lost while they owed an answer
        # Worker -> since when it owes an answer and how many blocks it had done, and when that was news: see `stuck`.
        self.course: dict[str, tuple[tuple[float, int | None], float]] = {}
        self.unverified: set[int] = set()  # blocks that were rebuilt
        self.deaths: dict[int, int] = defaultdict(int)  # block -> workers that died of it in a row
        self.lost = 0
        self.attempts = 0
        self.rounds = 0
        self.node_bytes = 0
        self.next_move = 0.0
        self.cancelled = False

    # What the scheduler tells us.

    def block_changed(self, key: str, start: str, finish: str) -> None:
        """Note that a block has another state."""
        number = self.numbers[key]
        if finish == "memory":
            self.deaths.pop(number, None)
            if start == "processing":
                self.unverified.add(number)
        self.outdated()

    def worker_left(self, address: str) -> None:
        """Note that a worker is gone."""
        self.lost += 1
        if address in self.members:
            self.members.discard(address)
            self.notice(f"worker {address} is gone: Dask rebuilds its blocks")
        if address in self.waits:  # else a connection to where nobody listens is tried again for half a minute
            self.waits[address].reschedule(self.loop.time())
        self.outdated()

    def cancel(self) -> None:
        """End the run: no answer is waited for any more."""
        self.cancelled = True
        for wait in self.waits.values():
            if not wait.expired():
                wait.reschedule(self.loop.time())
        self.change.set()

    def outdated(self) -> None:
        """Look again who holds what, and wake who waits for it."""
        self.placement = None
        self.change.set()

    # A round.

    async def ask(self, number: int, message: Message, missing: Collection[int] | None) -> list[Message]:
        """Ask each worker for its part of the missing blocks, None for all; return the replies that arrived.

        Raises DataError for a block that was rebuilt with other contents, DeadlineError where no worker holds any of
        the blocks for too long.
        """
        placement = await self._placed(missing)
        self.rounds = number
        self.attempts += 1
        stamp = self.name, number, self.attempts
        replies = await asyncio.gather(
            *(self._ask_worker(address, stamp, part, message) for address, part in placement.items())
        )
        good = [reply for reply in replies if reply is not None]
        if len(good) < len(replies) or any(reply.get("missing") for reply in good):
            self.placement = None
        if not any("error" in reply or reply["nodes"] for reply in good):
            await asyncio.sleep(PAUSE)
        return good

    async def _ask_worker(self, address: str, stamp: Stamp, part: Ranges, message: Message) -> Message | None:
        """Return a worker's reply, None for one that cannot be reached, knows nothing of us or stays silent."""
        verify = [n for n in self.unverified if any(start <= n < stop for start, stop in part)]
        if address not in self.scheduler.workers:  # it left while we looked
            return None
        self.owing[address] = self.loop.time()
        who = self.scheduler.workers[address].server_id  # a new worker may have the address of an old one
        try:
            # No time is too long for a worker that works: the service takes away the others, see `silent` and `stuck`.
            async with asyncio.timeout(None) as self.waits[address]:
                reply: Message | None = await self.scheduler.rpc(address).dist_dot_round(
                    stamp=stamp, prefix=self.spec.prefix, ranges=part, verify=verify, **message
                )
        except (OSError, TimeoutError):
            self.fallen.add(who)
            return None
        finally:
            del self.owing[address], self.waits[address]
        if reply is None or tuple(reply["stamp"]) != stamp:  # an abandoned attempt's answer is none
            return None
        for block, found in reply.get("checksums", ()):
            self._verify(block, found)
        return reply

    def _verify(self, number: int, found: str) -> None:
        if found != self.spec.checksums[number]:
            start, stop = self.spec.cuts.bounds(number)
            raise DataError(
                f"rows {start} .. {stop} of {self.spec.source} were read again after the loss of a worker, and are not "
                "what they were: the source has changed under the run; keep it as it is, and start anew"
            )
        self.unverified.discard(number)

    async def _placed(self, missing: Collection[int] | None) -> dict[str, Ranges]:
        """Return worker -> what to ask it for; wait until some worker holds some of the missing blocks."""
        self.check()
        if missing is None and self.placement is not None:
            return self.placement
        begin = since = self.loop.time()
        spoken, done = False, self.scheduler.transition_counter
        while True:
            self.check()
            self.change.clear()
            wanted = range(len(self.keys)) if missing is None else missing
            holders = {number: who for number in wanted if (who := self._holders(number))}
            if holders:
                threads = {address: worker.nthreads for address, worker in self.scheduler.workers.items()}
                placement = {address: ranges(part) for address, part in assign(holders, threads).items()}
                self.members |= placement.keys()
                if missing is None and len(holders) == len(self.keys):
                    self.placement = placement
                return placement
            limit = self.spec.patience
            if self._at_work():  # on the blocks, or on what is before them
                limit = max(limit, STUCK)
                if self.scheduler.transition_counter != done:
                    since, done = self.loop.time(), self.scheduler.transition_counter
            waited = self.loop.time() - since
            if waited >= limit:
                raise DeadlineError(f"waited {limit:.0f} s: {self._wish(wanted)}")
            if self.loop.time() - begin >= SPEAK and not spoken:
                spoken = True
                self.notice(f"waiting up to {limit:.0f} s: {self._wish(wanted)}")
            try:
                async with asyncio.timeout(min(SPEAK, limit - waited)):
                    await self.change.wait()
            except TimeoutError:
                pass

    def _at_work(self) -> bool:
        """Whether some worker has a task that it can go on with: one that is paused finishes what it has begun."""
        workers = self.scheduler.workers.values()
        return any(worker.executing or (worker.processing and worker.status is Status.running) for worker in workers)

    def _wish(self, wanted: Collection[int]) -> str:
        workers = len(self.scheduler.workers)
        paused = sum(worker.status is Status.paused for worker in self.scheduler.workers.values())
        return (
            f"{len(wanted)} of {len(self.keys)} blocks of {self.spec.source} are on no worker, and the cluster has "
            f"{workers or 'no'} worker{'' if workers == 1 else 's'} to rebuild them"
            + (f", {paused} of which Dask has paused, for their memory runs full" if paused else "")
        )

    def _holders(self, number: int) -> frozenset[str]:
        key = self.keys[number]
        task = self.scheduler.tasks.get(key)
        if task is None:
            raise ClusterError(f"the blocks of run {self.name} were forgotten: was the cluster restarted?")
        if task.state == "erred":
            self._revive(number, task)
        return frozenset(worker.address for worker in task.who_has or ())

    def _revive(self, number: int, task: TaskState) -> None:
        """Have a block made again that Dask gave up on because workers died under it; raise any other error."""
        error = exception_of((task.exception_blame or task).exception)
        if not isinstance(error, KilledWorker) or self.deaths[number] >= DEATHS:
            raise error
        self.deaths[number] += 1
        self.scheduler.stimulus_retry(keys=[self.keys[number]])

    def check(self) -> None:
        """Raise RunCancelled once somebody has asked for it."""
        if self.cancelled:
            raise RunCancelled(f"run {self.name} was cancelled")

    def stuck(self, limit: float) -> list[str]:
        """Return the workers that owe an answer and have finished no block for `limit` seconds.

        They tell how many they have with each heartbeat. To be called again and again.
        """
        now, workers = self.loop.time(), self.scheduler.workers
        course = {}
        for address, since in self.owing.items():
            if address in workers:
                done = since, workers[address].metrics.get(NAME, {}).get(self.name)
                before = self.course.get(address)
                course[address] = before if before and before[0] == done else (done, now)
        self.course = course
        return [address for address, (_, seen) in course.items() if now - seen > limit]

    # New workers.

    async def even_out(self) -> None:
        """Move blocks to workers that have too few, where the run gains more by it than it costs.

        What it gains is reckoned for as long a future as its past is: then, whenever the run ends, it has not lost more
        than half by having waited, nor by having moved.
        """
        now = self.loop.time()
        if self.placement is None or now < self.next_move:
            return
        self.next_move = now + 1.0
        here = {address: [n for a, b in part for n in range(a, b)] for address, part in self.placement.items()}
        workers = {worker.address: worker for worker in self.scheduler.running}
        threads = {address: worker.nthreads for address, worker in workers.items()}
        if not here.keys() <= threads.keys():
            return  # one of them is paused or about to leave
        wanted = even(here, threads)
        plan = moves(here, wanted)
        size = {address: sum(self._size(number) for number, _ in part) for address, part in plan.items()}
        if not plan or any(self._room(workers[address]) < 1.2 * nbytes for address, nbytes in size.items()):
            return
        gain = (now - self.began) * (1.0 - slowest(wanted, threads) / slowest(here, threads))
        fewer = nodes(here, len(self.keys)) - nodes(wanted, len(self.keys))
        gain += self.rounds * self.node_bytes * fewer / self.scheduler.bandwidth
        if gain < sum(size.values()) / self.scheduler.bandwidth:
            return
        self.next_move = now + ARRIVAL
        self.notice(f"to even out the load, blocks are moved: {sum(map(len, plan.values()))} of {len(self.keys)}")
        await asyncio.gather(*(self._move_all(address, part) for address, part in plan.items()))
        self.next_move = self.loop.time() + 1.0

    async def _move_all(self, address: str, part: list[tuple[int, str]]) -> None:
        """Have a worker fetch blocks, those of GPUs some at a time."""
        bundle: list[tuple[int, str]] = []
        for move in part:
            bundle.append(move)
            if self.spec.devices and sum(self._size(number) for number, _ in bundle) >= BUNDLE:
                await self._move(address, bundle)
                bundle = []
        if bundle:
            await self._move(address, bundle)

    async def _move(self, address: str, part: list[tuple[int, str]]) -> None:
        """Have a worker fetch blocks, wait until it has them, and only then drop them where they were."""
        stimulus = f"{NAME}-{self.name}-even-out"
        tasks = {self.keys[number]: self.scheduler.tasks.get(self.keys[number]) for number, _ in part}
        there = [key for key, task in tasks.items() if task is not None and task.who_has]
        if address not in self.scheduler.workers or not there:
            return
        self.scheduler.request_acquire_replicas(address, there, stimulus_id=stimulus)
        deadline = self.loop.time() + ARRIVAL
        arrived: dict[str, list[str]] = defaultdict(list)  # source -> keys
        pending = {self.keys[number]: source for number, source in part}
        while pending and self.loop.time() < deadline and not self.cancelled:
            await asyncio.sleep(0.02)
            for key, source in list(pending.items()):
                if address in self._holders_now(key):
                    arrived[source].append(key)
                    del pending[key]
        for source, keys in arrived.items():
            extra = [key for key in keys if {address, source} <= self._holders_now(key)]
            if extra:
                self.scheduler.request_remove_replicas(source, extra, stimulus_id=stimulus)
        self.outdated()

    def _holders_now(self, key: str) -> set[str]:
        task = self.scheduler.tasks.get(key)
        return set() if task is None else {worker.address for worker in task.who_has or ()}

    def _size(self, number: int) -> int:
        """Bytes of a block. Dask knows of a block on a GPU what it takes of the host: next to nothing."""
        task = self.scheduler.tasks.get(self.keys[number])
        if task is None:
            return 0
        if not self.spec.devices:
            return max(0, int(task.nbytes))
        start, stop = self.spec.cuts.bounds(number)
        return self.spec.cuts.memory(3) * (stop - start) // self.spec.cuts.n_samples

    def _room(self, worker: WorkerState) -> float:
        """Bytes of blocks that a worker can take in: none on a GPU of which Dask knows nothing, for it may have none.

        Of the host, up to 60 % of its limit, Dask's own default target, beyond which it spills.
        """
        if self.spec.devices:  # what Dask reports where pynvml is installed, as dask-cuda has it
            used = worker.metrics.get("gpu_memory_used") or 0
            return 0.9 * float(worker.metrics.get("gpu-memory-total", 0)) - used
        return float("inf") if not worker.memory_limit else float(0.6 * worker.memory_limit - worker.memory.process)


def silent(
    owing: Mapping[str, float], workers: Mapping[str, WorkerState], now: float, wall: float, limit: float
) -> list[str]:
    """Return the workers that owe an answer and have not been heard of at all for `limit` seconds.

    A worker that is only slow goes on sending heartbeats. now and wall are the event loop's and the wall clock's time.
    """
    return [
        address
        for address, since in owing.items()
        if address in workers and now - since > limit and wall - workers[address].last_seen > limit
    ]


def exception_of(cause: Serialized | Serialize | bytes | BaseException | None) -> Exception:
    """Return the exception of an erred task, which the scheduler holds in one of several serialized forms."""
    if isinstance(cause, Serialized):
        cause = deserialize(cause.header, cause.frames)
    if isinstance(cause, Serialize):
        cause = cause.data
    if isinstance(cause, bytes):
        cause = loads(cause)
    return cause if isinstance(cause, Exception) else ClusterError(f"a block could not be made: {cause!r}")
