"""The blocks of a Dask cluster, as the client sees them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from distributed import Client, Future, KilledWorker
from distributed.client import _wait
from distributed.protocol.pickle import dumps

from dist_dot.errors import ClusterError, DeadlineError
from dist_dot.kernels.checksum import checksum, combined
from dist_dot.kernels.compiling import TOPIC
from dist_dot.kernels.kernel import Kernel
from dist_dot.rounds.asking import DEATHS, SPEAK, STUCK, RunSpec
from dist_dot.rounds.blocks import Blocks, Program, Recovery, Report, log
from dist_dot.rounds.remote import RemoteRun, install, start, workers_of
from dist_dot.rounds.worker import NAME
from dist_dot.rows.block import Block, Cuts, named
from dist_dot.typing import Array

if TYPE_CHECKING:
    from dask.delayed import Delayed

T = TypeVar("T")

# Seconds.
PATIENCE = 300.0  # without a worker that could go on
ARRIVAL = 600.0  # between one block's making and the next, while no worker is at work
PAUSED = 60.0  # that no worker takes tasks: one that only has to spill takes some again sooner
LOOK = 5.0  # between two looks at that


class ClusterBlocks:
    """Blocks that are futures on a cluster: released when nobody holds this object any more.

    patience is how long a run waits, in seconds, where no worker is there to go on; it may be set. checksums are those
    of the blocks when they were first made; devices names the GPUs that they are on, as `named` does.
    """

    def __init__(
        self,
        client: Client,
        futures: Sequence[Future],
        cuts: Cuts,
        prefix: str,
        checksums: Sequence[str],
        source: str,
        devices: str = "",
    ) -> None:
        self.client = client
        self.futures = tuple(futures)
        self.cuts = cuts
        self.prefix = prefix
        self.checksums = tuple(checksums)
        self.source = source
        self.devices = devices
        self.patience = PATIENCE
        self.rounds = 0
        self.recovery = Recovery()

    @property
    def where(self) -> str:
        """Where the rows live, in words."""
        return f"the Dask cluster at {self.client.scheduler.address}{self.devices}"

    @property
    def on_device(self) -> bool:
        """Whether the rows are on GPUs."""
        return bool(self.devices)

    @property
    def checksum(self) -> str:
        """A checksum of all rows, in their cuts. No round: it was taken when the blocks were made."""
        return combined(self.checksums)

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the sum of kernel(block, parameters) over all blocks. One round, and a run for it alone."""
        return self.run(_Once(kernel, parameters), lambda progress: False)

    def notice(self, words: str) -> None:
        """Log a warning."""
        log.warning("%s", words)

    def run(self, program: Program[T], report: Report) -> T:
        """Run program(blocks, report) beside the scheduler; reports reach this process some milliseconds behind.

        Raises what the program raises, DeadlineError or ClusterError where the cluster fails, and cancels the run on
        any exception here, Ctrl-C included.
        """
        result, rounds = self.start(program).follow(report)
        self.rounds += rounds
        return result

    def start(self, program: Program[T], label: str = "", extra: object = None) -> RemoteRun[T]:
        """Start program(blocks, report) beside the scheduler, where it goes on without this process.

        label and extra are for who finds the run later: words, and whatever its client needs to go on with the result.
        """
        spec = RunSpec(
            dumps(program),
            self.cuts,
            self.prefix,
            self.checksums,
            self.source,
            self.patience,
            label or f"{program} on {self.source}",
            dumps(extra),
            self.devices,
        )
        return start(self.client, spec)


class _Once:
    """The program of a single round."""

    def __init__(self, kernel: Kernel, parameters: Array) -> None:
        self.kernel, self.parameters = kernel, parameters

    def __str__(self) -> str:
        return "one round"

    def __call__(self, blocks: Blocks, report: Report) -> Array:
        return blocks.reduce(self.kernel, self.parameters)


def place(client: Client, tasks: Sequence["Delayed"], cuts: Cuts, prefix: str, source: str) -> ClusterBlocks:
    """Compute delayed Blocks, whose keys are block_key(prefix, number), on the cluster; wait for all of them.

    Contiguous ranges of blocks go to each worker, so that its answers stay O(log blocks) sums; only as a wish, so
    that a worker's death does not strand its blocks. Where there is no worker yet, Dask gives the blocks to those that
    come: a cluster that adapts its size starts some for them. Raises what a task raises; DeadlineError and ClusterError
    as `_next` does.
    """
    from dask import annotate, delayed

    install(client)  # now: it keeps the wish below from becoming a demand
    _listen(client)
    check = delayed(_look, pure=False)
    futures: list[Future] = []
    checks: list[Future] = []
    with annotate(**{NAME: True}):  # our tasks, and all that they need: see `Service.transition`
        for addresses, part in _ranges(client, tasks):
            made = client.compute(
                part + [check(task) for task in part], workers=addresses, allow_other_workers=bool(addresses)
            )
            futures += made[: len(part)]
            checks += made[len(part) :]
    with _cancelled_on_failure(client, futures + checks):
        _arrive(client, futures)
        looks = gather(client, checks)
    checksums, devices = zip(*looks, strict=True)
    return ClusterBlocks(client, futures, cuts, prefix, checksums, source, named(devices))


def _ranges(client: Client, tasks: Sequence["Delayed"]) -> Iterator[tuple[list[str], list["Delayed"]]]:
    """Yield the worker, in a list, and its range of the tasks; no worker and all of the tasks where there is none."""
    workers = workers_of(client)
    if not workers:
        yield [], list(tasks)
    total = sum(worker["nthreads"] for worker in workers.values())
    threads = 0
    for address in sorted(workers):
        begin = round(len(tasks) * threads / total)
        threads += workers[address]["nthreads"]
        part = list(tasks[begin : round(len(tasks) * threads / total)])
        if part:
            yield [address], part


def _look(block: Block) -> tuple[str, str]:
    """Return the checksum of a block, and the GPU that it is on."""
    return checksum(block), block.device


def _listen(client: Client) -> None:
    """Log what the workers have to say, once where all of them say it."""
    said: set[str] = set()

    def hear(event: tuple[float, str]) -> None:
        if event[1] not in said:
            said.add(event[1])
            log.warning("%s", event[1])

    client.subscribe_topic(TOPIC, hear)


def gather(client: Client, futures: Sequence[Future]) -> list[Any]:
    """Return the results of futures. Raises what a task raises; DeadlineError, ClusterError as `place` does."""
    with _cancelled_on_failure(client, futures):
        for _ in range(DEATHS):
            _arrive(client, futures)
            try:
                results: list[Any] = client.gather(list(futures))
            except KilledWorker:
                continue  # lost since it arrived, and then more workers died
            return results
    raise ClusterError(f"workers die faster than {len(futures)} results can be fetched from them")


@contextmanager
def _cancelled_on_failure(client: Client, futures: Sequence[Future]) -> Iterator[None]:
    """Let go of futures where one has failed: the client keeps its exception, whose traceback keeps them alive."""
    try:
        yield
    except BaseException:
        client.cancel(list(futures))
        raise


def _next(client: Client, pending: set[Future], wanted: str) -> tuple[set[Future], set[Future]]:
    """Wait for one of the futures to end; return those that have, and the others.

    Raises DeadlineError after five minutes without a worker, after ten in which none has done anything, or half an hour
    where some are at work but finish nothing; ClusterError where all workers have been paused for a minute.
    """
    begin = taken = monotonic()
    before: dict[str, dict[str, int]] | None = None
    seconds = SPEAK
    while True:
        ended = client.sync(_first_ended, pending, seconds)
        if ended is not None:
            return ended.done, ended.not_done
        seconds = LOOK
        workers = workers_of(client)
        now = monotonic()
        if not workers or any(map(_works, workers.values())):
            taken = now
        if now - taken >= PAUSED:
            raise ClusterError(f"waited {PAUSED:.0f} s for {wanted}: {_paused(workers)}")
        counts = {address: worker["metrics"]["task_counts"] for address, worker in workers.items()}
        none = f"the cluster at {client.scheduler.address} has no workers"
        if not workers and before != {}:
            log.warning("waiting up to %.0f s for %s: %s", PATIENCE, wanted, none)
        if counts != before:  # what the tasks wait for takes as long as it takes
            begin, before = now, counts
        at_work = any(count.get("executing") for count in counts.values())
        limit = PATIENCE if not workers else STUCK if at_work else ARRIVAL
        if now - begin >= limit:
            raise DeadlineError(f"waited {limit:.0f} s for {wanted}" + ("" if workers else f": {none}"))


async def _first_ended(futures: set[Future], seconds: float) -> Any:
    """Return the futures that have ended and the others, once one has; None where time is up before.

    The TimeoutError is caught here: Dask's `sync` would raise it in a frame that holds it, and so keep the frames of
    all callers, and the blocks that they made, until Python collects garbage.
    """
    try:
        return await _wait(futures, seconds, "FIRST_COMPLETED")
    except TimeoutError:
        return None


def _works(worker: Mapping[str, Any]) -> bool:
    """Whether it takes tasks, or is at one: a worker that is paused finishes what it has begun."""
    return bool(worker["status"] != "paused" or worker["metrics"]["task_counts"].get("executing", 0))


def _paused(workers: Mapping[str, Any]) -> str:
    address, worker = min(workers.items())
    used, limit = (f"{nbytes / 2**20:,.0f} MiB" for nbytes in (worker["metrics"]["memory"], worker["memory_limit"]))
    return (
        f"Dask has paused all workers, whose memory runs full: {address}, for one, uses {used} of {limit}. "
        "Give the workers more memory, or the cluster more workers"
    )


def _arrive(client: Client, futures: Sequence[Future]) -> None:
    """Wait for all of the futures. Raises what a task raises; DeadlineError, ClusterError as `_next` does.

    A task that Dask gave up on because workers died under it is tried again, up to a number of deaths in a row.
    """
    pending = set(futures)
    deaths: dict[Future, int] = defaultdict(int)
    while pending:
        done, pending = _next(client, pending, f"the next of {len(pending)} tasks of {len(futures)}")
        for future in done:
            if future.status == "finished":
                continue
            error = future.exception()
            if error is not None:  # none: it was lost after it was made, and is on its way again
                deaths[future] += 1
                if not isinstance(error, KilledWorker) or deaths[future] > DEATHS:
                    raise error
                client.retry([future])
            pending.add(future)
