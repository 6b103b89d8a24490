"""The blocks of a Dask cluster, as the client sees them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

from distributed import Client, Future, wait
from distributed.protocol.pickle import dumps, loads

from dist_dot.blocks.block import Cuts, Kernel, Program, Report
from dist_dot.blocks.service import RunSpec, Service
from dist_dot.blocks.worker import KernelPlugin
from dist_dot.errors import ClusterError, DeadlineError
from dist_dot.typing import Array

T = TypeVar("T")

# Seconds.
PATIENCE = 600.0  # between one block's arrival and the next
WAIT = 5.0  # for news of a run, on the scheduler's side
DEADLINE = 60.0  # for the scheduler's answer to anything


class ClusterBlocks:
    """Blocks that are futures on a cluster: released when nobody holds this object any more."""

    def __init__(self, client: Client, futures: Sequence[Future], cuts: Cuts) -> None:
        self.client = client
        self.futures = tuple(futures)
        self.cuts = cuts
        self.rounds = 0

    @property
    def where(self) -> str:
        """Where the rows live, in words."""
        return f"the Dask cluster at {self.client.scheduler.address}"

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the sum of kernel(block, parameters) over all blocks. One round, and a run for it alone."""
        return self.run(_Once(kernel, parameters), lambda progress: False)

    def run(self, program: Program[T], report: Report) -> T:
        """Run program(blocks, report) beside the scheduler; reports reach this process some milliseconds behind.

        Raises what the program raises, DeadlineError or ClusterError where the cluster fails, and cancels the run on
        any exception here, Ctrl-C included.
        """
        install(self.client)
        name = uuid4().hex[:12]
        keys = tuple(future.key for future in self.futures)
        counted = _Counted(program)
        self._ask("dist_dot_start", run=name, spec=dumps(RunSpec(counted, self.cuts, keys)))
        try:
            seen, stopping = 0, False
            while True:
                news = self._ask("dist_dot_follow", run=name, after=seen, wait=WAIT)
                for progress in loads(news["progress"]):
                    seen += 1
                    stopping = report(progress) or stopping
                if news["result"] is not None:
                    break
                if stopping:
                    self._ask("dist_dot_stop", run=name, cancel=False)
        finally:
            self._ask("dist_dot_forget", run=name)
        kind, outcome = loads(news["result"])
        if kind == "error":
            raise outcome
        result: T
        result, rounds = outcome
        self.rounds += rounds
        return result

    def _ask(self, handler: str, **message: Any) -> Any:
        """Call a handler of the service."""
        call: Callable[..., Any] = getattr(self.client.scheduler, handler)
        try:
            return self.client.sync(call, callback_timeout=DEADLINE, **message)
        except TimeoutError as error:
            raise DeadlineError(f"the scheduler did not answer {handler} within {DEADLINE:.0f} s") from error
        except OSError as error:
            raise ClusterError(f"the scheduler is gone: {error}") from error


class _Once:
    """The program of a single round."""

    def __init__(self, kernel: Kernel, parameters: Array) -> None:
        self.kernel, self.parameters = kernel, parameters

    def __call__(self, blocks: Any, report: Report) -> Array:
        total: Array = blocks.reduce(self.kernel, self.parameters)
        return total


class _Counted:
    """A program that also says how many rounds it took."""

    def __init__(self, program: Program[Any]) -> None:
        self.program = program

    def __call__(self, blocks: Any, report: Report) -> tuple[Any, int]:
        return self.program(blocks, report), blocks.rounds


def install(client: Client) -> None:
    """Give the cluster our plugins, once; later calls find them there."""
    try:
        client.register_plugin(Service())
    except RuntimeError as error:
        raise ClusterError(
            "this scheduler takes no code from clients, and the training loop runs beside it: "
            "set distributed.scheduler.pickle to True where it is started"
        ) from error
    client.register_plugin(KernelPlugin())


def place(client: Client, tasks: Sequence[Any], cuts: Cuts) -> ClusterBlocks:
    """Compute one delayed Block per task on the cluster and wait for all of them.

    Contiguous ranges of blocks go to each worker, so that its answers stay O(log blocks) sums; only as a wish, so
    that a worker's death does not strand its blocks. Raises what a task raises; DeadlineError if no block arrives
    for ten minutes, ClusterError without workers.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        client.wait_for_workers(1, timeout=DEADLINE)
        workers = client.scheduler_info(n_workers=-1)["workers"]
    futures: list[Future] = []
    total = sum(worker["nthreads"] for worker in workers.values())
    threads = 0
    for address in sorted(workers):
        begin = len(tasks) * threads // total
        threads += workers[address]["nthreads"]
        part = list(tasks[begin : len(tasks) * threads // total])
        if part:
            futures += client.compute(part, workers=[address], allow_other_workers=True)
    _arrive(client, futures)
    return ClusterBlocks(client, futures, cuts)


def gather(client: Client, futures: Sequence[Future]) -> list[Any]:
    """Return the results of futures. Raises what a task raises; DeadlineError if none ends for ten minutes."""
    _arrive(client, futures)
    results: list[Any] = client.gather(list(futures))
    return results


def _arrive(client: Client, futures: Sequence[Future]) -> None:
    """Wait for all of the futures; cancel them where one fails or nothing happens for too long."""
    pending = set(futures)
    try:
        while pending:
            done, pending = wait(pending, timeout=PATIENCE, return_when="FIRST_COMPLETED")
            for future in done:
                if future.status != "finished":
                    raise future.exception()
    except TimeoutError:
        raise DeadlineError(f"waited {PATIENCE:.0f} s for the next of {len(pending)} tasks of {len(futures)}") from None
    finally:
        if pending:
            client.cancel(list(futures))
