"""How close each kernel comes to reading X at the rate of the memory. `python -m benchmarks.roofline`.

The roof is the faster of two streaming sums over the same blocks, by the same worker processes, at the same time, in
turns with the kernel; the share is the median, over the repeats, of roof time / kernel time.
"""

import argparse
from dataclasses import dataclass
from itertools import product
from typing import Any

import dist_dot_cluster
import numpy as np

from benchmarks.harness import CompiledSum, NumpySum, Times, environment, random_blocks, resident, save
from dist_dot import losses
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.passes import Curvature, ValueAndGradient
from dist_dot.rounds.blocks import Blocks
from dist_dot.rows.arrays import Parameters
from dist_dot.rows.block import Block
from dist_dot.typing import Array

LOSSES = (losses.Squared(), losses.Logistic())
DTYPES = ("float64", "float32")
FEATURES = (28, 100, 160, 1000)


def measure(blocks: Blocks, repeats: int) -> list[dict[str, Any]]:
    """Return a record for each loss on these blocks."""
    passes = {loss.name: ValueAndGradient(loss) for loss in LOSSES}
    kernels = {"NumPy sum": NumpySum(), "compiled sum": CompiledSum(), **passes}
    parameters = np.full(blocks.cuts.n_features + 1, 0.01)
    times = blocks.run(Times(kernels, parameters, repeats), lambda progress: False)
    roof = np.minimum(times["NumPy sum"], times["compiled sum"])
    nbytes = blocks.cuts.nbytes
    return [
        {
            "benchmark": "roofline",
            "kernel": name,
            "n": blocks.cuts.n_samples,
            "p": blocks.cuts.n_features,
            "dtype": blocks.cuts.dtype,
            "blocks": blocks.cuts.n_blocks,
            "rounds": repeats,
            "read_gb_s": nbytes / float(np.median(roof)) / 1e9,
            "gb_s": nbytes / float(np.median(times[name])) / 1e9,
            "share": float(np.median(roof / np.array(times[name]))),
        }
        for name in passes
    ]


def products(blocks: Blocks, repeats: int) -> dict[str, Any]:
    """Return a record of the Gram matrix beside NumPy's own syrk on whole blocks."""
    kernels = {"gram": Curvature(losses.Squared()), "syrk": PlainSyrk()}
    p = blocks.cuts.n_features
    times = blocks.run(Times(kernels, np.zeros(p + 1), repeats), lambda progress: False)
    return {
        "benchmark": "gram",
        "n": blocks.cuts.n_samples,
        "p": p,
        "dtype": blocks.cuts.dtype,
        "rounds": repeats,
        "gflop_s": blocks.cuts.n_samples * p * p / float(np.median(times["gram"])) / 1e9,
        "share": float(np.median(np.array(times["syrk"]) / np.array(times["gram"]))),
    }


def points(blocks: Blocks, count: int, repeats: int) -> dict[str, Any]:
    """Return a record of the squared loss at several points, in units of a streaming read."""
    kernels = {"NumPy sum": NumpySum(), "compiled sum": CompiledSum(), "points": ValueAndGradient(LOSSES[0], count)}
    p = blocks.cuts.n_features
    times = blocks.run(Times(kernels, np.full(count * (p + 1), 0.01), repeats), lambda progress: False)
    reads = np.array(times["points"]) / np.minimum(times["NumPy sum"], times["compiled sum"])
    return {
        "benchmark": "points",
        "points": count,
        "n": blocks.cuts.n_samples,
        "p": p,
        "dtype": blocks.cuts.dtype,
        "rounds": repeats,
        "reads": float(np.median(reads)),
    }


@dataclass(frozen=True)
class PlainSyrk(Kernel):
    """X.T X by NumPy, which calls syrk, of a whole block."""

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        X = block.X.dense()
        return np.array([float((X.T @ X)[0, 0])])


def memory(client: Any, nbytes: int) -> dict[str, Any]:
    """Return a record of the workers' peak memory over the bytes of the blocks, laid out and passed over thrice."""
    program = Times({"squared": ValueAndGradient(losses.Squared())}, np.zeros(101), 3)
    random_blocks(client, 1_000_000, 100, "float64").run(program, lambda progress: False)  # compiles
    before = client.run(resident, "VmRSS")
    blocks = random_blocks(client, nbytes, 100, "float64")
    blocks.run(program, lambda progress: False)
    peak = client.run(resident, "VmHWM")
    used = sum(peak[worker] - before[worker] for worker in peak)
    return {"benchmark": "memory", "nbytes": blocks.cuts.nbytes, "ratio": used / blocks.cuts.nbytes}


def main() -> None:
    """Measure on a local cluster and write the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=400, help="size of X in each case")
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    records = []
    with dist_dot_cluster.open("local", options.workers) as client:
        records.append(memory(client, 2_100_000_000))
        for dtype, p in product(DTYPES, FEATURES):
            blocks = random_blocks(client, options.megabytes * 1_000_000, p, dtype)
            records += measure(blocks, options.repeats)
            print("  ".join(f"{r['kernel']} {dtype} p={p}: {r['share']:.2f}" for r in records[-len(LOSSES) :]))
            if p in (100, 1000):
                # Blocks of 3 p rows or more: below, the p x p numbers of a block weigh as much as making them.
                records.append(products(random_blocks(client, 4 * options.megabytes * 1_000_000, p, dtype), 5))
            if p == 160:
                records += [points(blocks, count, options.repeats) for count in (2, 8)]
    here = environment() | {"workers": options.workers, "threads": 1}
    print(save("roofline", [here | record for record in records]))


if __name__ == "__main__":
    main()
