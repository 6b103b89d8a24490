"""The worker's side of a round: kernels over the blocks that this worker holds."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from distributed import Worker, WorkerPlugin
from distributed.protocol import Serialize, Serialized, deserialize, to_serialize
from distributed.protocol.pickle import dumps, loads
from threadpoolctl import threadpool_limits

from dist_dot.blocks.arrays import Parameters, namespace, to_host
from dist_dot.blocks.block import Kernel, merge_of
from dist_dot.blocks.reduce import Node, fold
from dist_dot.typing import Array

NAME = "dist-dot"
# Below, bytes inside the message are faster; above, a frame of its own is (22 against 45 ms at a million numbers).
SMALL = 20_000


def pack(array: Array) -> Any:
    """Return a float64 array in the form that travels fastest; `unpack` gives it back."""
    return array.tobytes() if array.size < SMALL else to_serialize(array)


def unpack(message: Any) -> Array:
    """Return the float64 array; the scheduler leaves what it receives serialized, so that its loop stays free."""
    if isinstance(message, bytes):
        return np.frombuffer(message)
    if isinstance(message, Serialized):
        message = deserialize(message.header, message.frames)
    if isinstance(message, Serialize):  # within one process nothing is serialized at all
        message = message.data
    return np.require(message, requirements="A")


def _together(sums: list[Any]) -> Array:
    """Return the sums end to end on the host: one transfer."""
    return np.asarray(to_host(namespace(sums[0]).concat(sums))) if sums else np.empty(0)


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
        self.worker = worker
        worker.executors[NAME] = ThreadPoolExecutor(worker.state.nthreads, thread_name_prefix=NAME)
        worker.handlers["dist_dot_round"] = self.round
        # A block is the unit of parallel work, and the bits of BLAS depend on its threads. A nanny sets the same.
        self.blas = threadpool_limits(1, user_api="blas")

    def teardown(self, worker: Worker) -> None:
        """Stop to answer. The worker closes its executors itself when it closes."""
        worker.handlers.pop("dist_dot_round", None)
        worker.executors.pop(NAME).shutdown(wait=False)
        self.blas.restore_original_limits()

    async def round(self, kernel: bytes, parameters: Any, blocks: list[tuple[int, str]], leaves: int) -> Any:
        """Return the folded sums of kernel(block, parameters) over the blocks that are here, and which are not."""
        executor = self.worker.executors[NAME]
        threads = min(self.worker.state.nthreads, len(blocks))
        size = -(-len(blocks) // threads)
        parts = [blocks[at : at + size] for at in range(0, len(blocks), size)]
        try:
            run, at = _kernel(kernel), Parameters(unpack(parameters))
            loop = asyncio.get_running_loop()
            done = await asyncio.gather(
                *(loop.run_in_executor(executor, self._part, run, at, part, leaves) for part in parts)
            )
        except Exception as error:  # whatever a kernel raises ends the run, at the client, as what it is
            return {"error": dumps(error)}
        nodes: dict[Node, Array] = {}
        for part_nodes, _ in done:
            nodes |= part_nodes
        nodes = fold(nodes, leaves, merge_of(run))
        sums = _together(list(nodes.values()))
        return {
            "nodes": list(nodes),
            "sums": pack(sums),
            "missing": [number for _, missing in done for number in missing],
        }

    def _part(
        self, kernel: Kernel, parameters: Parameters, blocks: list[tuple[int, str]], leaves: int
    ) -> tuple[dict[Node, Array], list[int]]:
        """One block at a time, so that spilled ones do not all come back at once."""
        nodes, missing = {}, []
        for number, key in blocks:
            try:
                block = self.worker.data[key]
            except KeyError:  # moved or dropped since the scheduler looked
                missing.append(number)
                continue
            nodes[0, number] = kernel(block, parameters)
        return fold(nodes, leaves, merge_of(kernel)), missing
