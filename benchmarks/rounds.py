"""What a round costs when there is next to nothing to compute, and whether ten thousand of them leave anything behind.

`python -m benchmarks.rounds`. The floor is a bare echo: the same thread beside the scheduler sends the same bytes to
the same workers, through the same hop into a thread pool, and waits for as many bytes to come back.
"""

import argparse
import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import active_count
from time import perf_counter
from typing import Any

import dist_dot_cluster
import numpy as np
from distributed import Worker, WorkerPlugin

from benchmarks.harness import environment, random_blocks, resident, save
from dist_dot import losses
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.passes import ValueAndGradient
from dist_dot.rounds.blocks import Report

ECHO = "dist_dot_benchmark_echo"


class EchoPlugin(WorkerPlugin):
    """Sends back what it was sent, from a thread pool."""

    name = ECHO

    def setup(self, worker: Worker) -> None:
        """Start to answer."""
        self.pool = ThreadPoolExecutor(1)
        worker.handlers[ECHO] = self.echo

    def teardown(self, worker: Worker) -> None:
        """Stop to answer."""
        worker.handlers.pop(ECHO)
        self.pool.shutdown()

    async def echo(self, content: bytes) -> bytes:
        """Return the content."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, bytes, content)


@dataclass(frozen=True)
class RoundsAndEchoes:
    """A program: seconds of rounds and of echoes, in turns."""

    kernel: Kernel
    parameters: np.ndarray[Any, Any]
    repeats: int

    def __call__(self, blocks: Any, report: Report) -> tuple[list[float], list[float]]:
        """Return the seconds of each round and of each echo."""
        scheduler, loop = blocks.host.rounds.scheduler, blocks.host.loop
        content = self.parameters.tobytes()

        async def fan_out() -> list[bytes]:
            asks = (scheduler.rpc(address).dist_dot_benchmark_echo(content=content) for address in scheduler.workers)
            return await asyncio.gather(*asks)

        rounds, echoes = [], []
        for _ in range(self.repeats):
            begin = perf_counter()
            blocks.reduce(self.kernel, self.parameters)
            between = perf_counter()
            replies = asyncio.run_coroutine_threadsafe(fan_out(), loop).result(60)
            sum(np.frombuffer(reply) for reply in replies)
            rounds.append(between - begin)
            echoes.append(perf_counter() - between)
        return rounds, echoes


def latency(client: Any, p: int, repeats: int) -> dict[str, Any]:
    """Return a record of rounds over one row per worker, beside the echo."""
    client.register_plugin(EchoPlugin())
    try:
        blocks = random_blocks(client, 8 * p * len(client.nthreads()), p, "float64", block_rows=1)
        program = RoundsAndEchoes(ValueAndGradient(losses.Squared()), np.full(p + 1, 0.01), repeats)
        rounds, echoes = (np.array(times[repeats // 10 :]) for times in blocks.run(program, lambda progress: False))
    finally:
        client.unregister_worker_plugin(ECHO)
    return {
        "benchmark": "latency",
        "p": p,
        "blocks": blocks.cuts.n_blocks,
        "rounds": repeats,
        "round_ms": 1e3 * float(np.median(rounds)),
        "echo_ms": 1e3 * float(np.median(echoes)),
        "ratio": float(np.median(rounds) / np.median(echoes)),
    }


@dataclass(frozen=True)
class Many:
    """A program: so many rounds, with reports as a training loop makes them."""

    rounds: int

    def __call__(self, blocks: Any, report: Report) -> int:
        """Return the number of rounds."""
        kernel, parameters = ValueAndGradient(losses.Squared()), np.full(blocks.cuts.n_features + 1, 0.01)
        for number in range(self.rounds):
            blocks.reduce(kernel, parameters)
            report(number)
        return self.rounds


def soak(client: Any, rounds: int) -> dict[str, Any]:
    """Return a record of the memory, tasks, connections and threads before and after so many rounds."""
    blocks = random_blocks(client, 64_000_000, 100, "float64")
    blocks.run(Many(rounds // 10), lambda progress: False)
    before = _state(client)
    begin = perf_counter()
    blocks.run(Many(rounds), lambda progress: False)
    seconds = perf_counter() - begin
    return {"benchmark": "soak", "rounds": rounds, "seconds": seconds, "before": before, "after": _state(client)}


def _state(client: Any) -> dict[str, Any]:
    def on_scheduler(dask_scheduler: Any) -> dict[str, int]:
        gc.collect()
        pool = dask_scheduler.rpc
        return {
            "memory": resident(),
            "tasks": len(dask_scheduler.tasks),
            "comms": pool.active + pool.open,
            "threads": active_count(),
        }

    def on_worker(dask_worker: Any) -> dict[str, int]:
        gc.collect()
        return {"memory": resident(), "tasks": len(dask_worker.state.tasks), "threads": active_count()}

    return {"scheduler": client.run_on_scheduler(on_scheduler), "workers": list(client.run(on_worker).values())}


def main() -> None:
    """Measure on a local cluster of two workers and write the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000)
    options = parser.parse_args()
    with dist_dot_cluster.open("local", 2) as client:
        records = [latency(client, p, 2000) for p in (50, 1000)] + [soak(client, options.rounds)]
    here = environment() | {"workers": 2, "threads": 1}
    print(save("rounds", [here | record for record in records]))


if __name__ == "__main__":
    main()
