"""The worker's side of a round: kernels over the blocks that this worker holds."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from distributed import Worker, WorkerPlugin
from distributed.protocol import Serialize, Serialized, deserialize, to_serialize
from distributed.protocol.pickle import dumps, loads

from dist_dot.errors import ClusterError
from dist_dot.kernels import device
from dist_dot.kernels.blas import one_blas_thread
from dist_dot.kernels.checksum import checksum
from dist_dot.kernels.device import serialize  # noqa: F401 - it tells Dask how blocks of a GPU travel
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.tree import Node, fold, put, quietly
from dist_dot.rounds.placement import Ranges
from dist_dot.rows.arrays import Parameters, namespace, to_host
from dist_dot.rows.block import Block, block_key
from dist_dot.typing import Array

Message: TypeAlias = dict[str, Any]
"""What Dask's connections carry, by name."""
Stamp: TypeAlias = tuple[str, int, int]
"""The run, its round and the attempt that ask."""
NAME = "dist-dot"
# Below, bytes inside the message are faster; above, a frame of its own is (22 against 45 ms at a million numbers).
SMALL = 20_000


def pack(array: Array) -> bytes | Serialize:
    """Return an array in the form that travels fastest; `unpack` gives it back, as float64."""
    array = np.asarray(array, np.float64)
    return array.tobytes() if array.size < SMALL else to_serialize(array)


def unpack(message: bytes | Serialize | Serialized | Array) -> Array:
    """Return the float64 array, writeable; what the scheduler receives stays serialized, so that its loop is free."""
    if isinstance(message, bytes):
        return np.frombuffer(bytearray(message))
    if isinstance(message, Serialized):
        message = deserialize(message.header, message.frames)
    if isinstance(message, Serialize):  # within one process nothing is serialized at all
        message = message.data
    return np.require(message, requirements=["A", "W"])


def _together(sums: list[Array]) -> Array:
    """Return the sums end to end on the host: one transfer."""
    return np.asarray(to_host(namespace(sums[0]).concat(sums))) if sums else np.empty(0)


def as_sent(error: Exception) -> Exception:
    """Return the exception, or a ClusterError with its words where it does not survive being pickled."""
    try:
        loads(dumps(error))
    except Exception:
        return ClusterError(f"{type(error).__name__}: {error}")
    return error


@lru_cache(maxsize=64)
def _kernel(pickled: bytes) -> Kernel:
    kernel: Kernel = loads(pickled)
    return kernel


class KernelPlugin(WorkerPlugin):
    """Answers rounds, in threads of its own: in the worker's executor they would queue behind tasks."""

    name = NAME
    idempotent = True

    def setup(self, worker: Worker) -> None:
        """Start to answer."""
        self.worker, self.held = worker, ExitStack()
        worker.executors[NAME] = ThreadPoolExecutor(worker.state.nthreads, thread_name_prefix=NAME)
        worker.handlers["dist_dot_round"] = self.round
        self.attempts: dict[str, _Attempt] = {}  # run -> what it has asked for
        worker.metrics[NAME] = lambda worker: {run: attempt.done for run, attempt in self.attempts.items()}
        # A block is the unit of parallel work, and the bits of BLAS depend on its threads. A nanny sets the same.
        self.held.enter_context(one_blas_thread())

    def teardown(self, worker: Worker) -> None:
        """Stop to answer. The worker closes its executors itself when it closes."""
        worker.handlers.pop("dist_dot_round", None)
        worker.metrics.pop(NAME, None)
        worker.executors.pop(NAME).shutdown(wait=False)
        self.held.close()

    async def round(self, stamp: Stamp, **message: Any) -> Message | None:
        """Return the folded sums of kernel(block, parameters) over the blocks in `ranges` that are here.

        And the numbers of those that are not, the checksums of those to verify, and the stamp that was sent. None from
        a worker that is closing, and where the run has asked anew meanwhile: then nobody waits for this answer.
        """
        run, attempt = stamp[0], _Attempt()
        if run in self.attempts:
            self.attempts[run].wanted = False
        self.attempts[run] = attempt
        try:
            return await self._round(attempt, stamp, **message)
        finally:
            if self.attempts.get(run) is attempt:
                del self.attempts[run]

    async def _round(
        self,
        attempt: "_Attempt",
        stamp: Stamp,
        kernel: bytes,
        parameters: bytes | Serialize | Serialized | Array,
        prefix: str,
        ranges: Ranges,
        leaves: int,
        verify: list[int],
    ) -> Message | None:
        numbers = [number for start, stop in ranges for number in range(start, stop)]
        size = -(-len(numbers) // self.worker.state.nthreads)
        loop = asyncio.get_running_loop()
        try:
            run, at = _kernel(kernel), Parameters(unpack(parameters))
            work = partial(self._part, attempt, run, at, prefix, leaves=leaves, verify=verify)
            try:
                threads = [
                    loop.run_in_executor(self.worker.executors[NAME], work, numbers[i : i + size])
                    for i in range(0, len(numbers), size)
                ]
            except (KeyError, RuntimeError):  # the pool is gone, or takes no work any more
                return None
            parts = await asyncio.gather(*threads)
        except Exception as error:  # whatever a kernel raises ends the run, at the client, as what it is
            return {"stamp": stamp, "error": dumps(as_sent(error))}
        if not attempt.wanted:
            return None
        nodes = fold({node: total for part in parts for node, total in part.nodes.items()}, leaves, run.merge)
        return {
            "stamp": stamp,
            "nodes": list(nodes),
            "sizes": [int(total.shape[0]) for total in nodes.values()],
            "sums": pack(_together(list(nodes.values()))),
            "missing": [number for part in parts for number in part.missing],
            "checksums": [pair for part in parts for pair in part.checksums],
        }

    @quietly
    def _part(
        self,
        attempt: "_Attempt",
        kernel: Kernel,
        parameters: Parameters,
        prefix: str,
        numbers: list[int],
        leaves: int,
        verify: list[int],
    ) -> "_Part":
        """One block at a time, so that spilled ones do not all come back at once; those on a card all at once."""
        part, merge = _Part({}, [], []), kernel.merge
        on_card: dict[int, Block] = {}
        for number in numbers:
            if not attempt.wanted:
                break
            try:
                block = self.worker.data[block_key(prefix, number)]
            except KeyError:  # moved or dropped since the scheduler looked
                part.missing.append(number)
                continue
            if number in verify:
                part.checksums.append((number, checksum(block)))
            if block.on_device:
                on_card[number] = block
                continue
            put(part.nodes, (0, number), kernel(block, parameters), leaves, merge)
            attempt.done += 1
        if on_card and attempt.wanted:
            nodes = device.reduce(list(on_card.values()), list(on_card), leaves, kernel, parameters.host)
            attempt.done += len(on_card)
            for node, total in nodes.items():
                put(part.nodes, node, total, leaves, merge)
        return part


@dataclass(eq=False)
class _Attempt:
    """What a run waits for, and how much of it is done: threads may count a block too few, which harms nobody."""

    wanted: bool = True
    done: int = 0


class _Part(NamedTuple):
    """What one thread did of a worker's share."""

    nodes: dict[Node, Array]
    missing: list[int]
    checksums: list[tuple[int, str]]
