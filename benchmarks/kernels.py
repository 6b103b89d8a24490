"""What a round of each kernel takes, beside reading X and beside BLAS. `python -m benchmarks.kernels`.

In each of four ways to use the cores: in this process with one thread and with as many as there are, on one worker with
as many, and on as many workers of one thread. The kernels of a setting take turns, round by round. Reading X is the
faster of two streaming sums over the same blocks; BLAS is NumPy's X.T @ X of all rows, in this process, on all cores.
"""

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from time import perf_counter
from typing import Any, ClassVar

import dist_dot_cluster
import numpy as np

from benchmarks.harness import CompiledSum, NumpySum, RandomRows, Times, environment, random_blocks, save
from dist_dot import losses
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.moments import CentredMoments
from dist_dot.kernels.passes import Curvature, HessianProduct, Moments, ValueAndGradient
from dist_dot.rounds.blocks import Blocks
from dist_dot.rounds.local import LocalBlocks
from dist_dot.rows.arrays import Parameters
from dist_dot.rows.block import Block, cut
from dist_dot.typing import Array

DTYPES = ("float64", "float32")
FEATURES = (8, 28, 100, 500)
CLASSES = (3, 5, 10)
READS = ("NumPy sum", "compiled sum")
WAYS = ("thread", "threads", "worker", "processes")


@dataclass(frozen=True)
class LogCosh:
    """A loss of the user's own, as functions of arrays."""

    name: ClassVar[str] = "log cosh"
    domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    curvature: ClassVar[float | None] = 1.0
    outputs: ClassVar[int] = 1

    def value(self, y: Array, z: Array) -> Array:
        """Return log(cosh(z - y))."""
        r = np.abs(z - y)
        return np.asarray(r + np.log1p(np.exp(-2.0 * r)) - math.log(2.0))

    def first(self, y: Array, z: Array) -> Array:
        """Return tanh(z - y)."""
        return np.asarray(np.tanh(z - y))

    def second(self, y: Array, z: Array) -> Array:
        """Return 1 - tanh(z - y)^2."""
        return np.asarray(1.0 - np.tanh(z - y) ** 2)

    def dropped(self, y: Array) -> Array:
        """Return 0."""
        return 0.0 * y

    def link(self, mean: float) -> float:
        """Return the mean itself."""
        return mean

    def predict(self, z: Array) -> Array:
        """Return z itself."""
        return z


def value(y: float, z: float) -> float:
    """Return log(cosh(z - y)), of numbers."""
    r = abs(z - y)
    return r + math.log1p(math.exp(-2.0 * r)) - 0.6931471805599453


def slope(y: float, z: float) -> float:
    """Return tanh(z - y)."""
    return math.tanh(z - y)


def bend(y: float, z: float) -> float:
    """Return 1 - tanh(z - y)^2."""
    return 1.0 - math.tanh(z - y) ** 2


@dataclass(frozen=True)
class First(Kernel):
    """Another kernel, at the first so many of the parameters: so those that take other numbers of them can be timed."""

    kernel: Kernel
    size: int

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Do what the kernel does."""
        return self.kernel(block, Parameters(parameters.host[: self.size]))

    def merge(self, left: Array, right: Array) -> Array:
        """Merge as the kernel does."""
        return self.kernel.merge(left, right)


def kernels(p: int, own: losses.Loss) -> dict[str, Kernel]:
    """Return the kernels by name."""
    one = p + 1
    plain = (losses.Squared(), losses.Logistic(), losses.Poisson(), losses.Gamma(), losses.Huber())
    found: dict[str, Kernel] = {"NumPy sum": NumpySum(), "compiled sum": CompiledSum()}
    found |= {loss.name: First(ValueAndGradient(loss), one) for loss in plain}
    found |= {f"softmax of {k}": First(ValueAndGradient(losses.Softmax(k)), k * one) for k in CLASSES}
    found["own loss, of numbers"] = First(ValueAndGradient(own), one)
    found["own loss, of arrays"] = First(ValueAndGradient(LogCosh()), one)
    found["logistic at 8 points"] = First(ValueAndGradient(losses.Logistic(), 8), 8 * one)
    found["Hessian product, logistic"] = First(HessianProduct(losses.Logistic()), 2 * one)
    found["Hessian product, softmax of 5"] = First(HessianProduct(losses.Softmax(5)), 10 * one)
    found["moments"] = First(Moments(), one)
    found["X.T X about the mean"] = First(CentredMoments(), one)
    found["curvature, squared"] = First(Curvature(losses.Squared()), one)
    found["curvature, logistic"] = First(Curvature(losses.Logistic()), one)
    if p <= 100:
        found["curvature, softmax of 5"] = First(Curvature(losses.Softmax(5)), 5 * one)
    return found


@contextmanager
def way(name: str, cores: int) -> Iterator[tuple[str, Any]]:
    """Open a way to use the cores: give its name, and the client of its cluster, or None for this process."""
    if name == "processes":
        with dist_dot_cluster.open("local", cores) as client:
            yield f"{cores} workers", client
    elif name == "worker":
        with dist_dot_cluster.open("local", 1, threads=cores) as client:
            yield f"1 worker, {cores} threads", client
    else:
        yield "1 thread" if name == "thread" else f"{cores} threads", None


def rows(name: str, client: Any, nbytes: int, p: int, dtype: str) -> Blocks:
    """Return the blocks of a case."""
    blocks = random_blocks(client, nbytes, p, dtype)
    if name == "thread":
        assert isinstance(blocks, LocalBlocks)
        blocks._threads = 1
    return blocks


def blas(nbytes: int, p: int, dtype: str, repeats: int) -> float:
    """Return the seconds of NumPy's X.T @ X on all cores."""
    cuts = cut(max(1, nbytes // (p * np.dtype(dtype).itemsize)), p, dtype)
    X = RandomRows(replace(cuts, block_rows=cuts.n_samples))(0).X.dense()
    seconds = []
    for _ in range(repeats + 1):
        begin = perf_counter()
        X.T @ X
        seconds.append(perf_counter() - begin)
    return float(np.median(seconds[1:]))


def measure(way: str, blocks: Blocks, repeats: int, syrk: float, own: losses.Loss) -> list[dict[str, Any]]:
    """Return a record for each kernel on these blocks."""
    p = blocks.cuts.n_features
    asked = kernels(p, own)
    size = max(kernel.size for kernel in asked.values() if isinstance(kernel, First))
    at = np.random.default_rng(0).standard_normal(size) / 10.0 / math.sqrt(p)
    times = blocks.run(Times(asked, at, repeats), lambda progress: False)  # type: ignore[attr-defined]
    read = np.minimum(*(times[name] for name in READS))
    return [
        {
            "benchmark": "kernels",
            "way": way,
            "kernel": name,
            "n": blocks.cuts.n_samples,
            "p": p,
            "dtype": blocks.cuts.dtype,
            "blocks": blocks.cuts.n_blocks,
            "rounds": repeats,
            "read_ms": 1e3 * float(np.median(read)),
            "ms": 1e3 * float(np.median(times[name])),
            "reads": float(np.median(np.array(times[name]) / read)),
            "syrk_ms": 1e3 * syrk,
        }
        for name in asked
        if name not in READS
    ]


def main() -> None:
    """Measure, print, and write the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=300, help="size of X in each case")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--features", type=int, nargs="*", default=FEATURES)
    parser.add_argument("--dtypes", nargs="*", default=DTYPES)
    options = parser.parse_args()
    own = losses.ScalarLoss(value, slope, bend, name="log cosh", curvature=1.0)
    nbytes, cases = options.megabytes * 1_000_000, list(product(options.dtypes, options.features))
    syrk = {(dtype, p): blas(nbytes, p, dtype, options.repeats) for dtype, p in cases}
    records: list[dict[str, Any]] = []
    for name in WAYS:
        with way(name, options.cores) as (words, client):
            for dtype, p in cases:
                blocks = rows(name, client, nbytes, p, dtype)
                records += measure(words, blocks, options.repeats, syrk[dtype, p], own)
                print(words, dtype, p, flush=True)
    for dtype, p in cases:
        print(text([r for r in records if r.get("p") == p and r.get("dtype") == dtype]))
    here = environment() | {"cores_used": options.cores}
    print(save("kernels", [here | record for record in records]))


def text(records: list[dict[str, Any]]) -> str:
    """Return a table of the milliseconds and reads of each kernel by way."""
    first, names = records[0], list(dict.fromkeys(r["kernel"] for r in records))
    each = list(dict.fromkeys(r["way"] for r in records))
    lines = [f"{first['n']:,} x {first['p']} {first['dtype']}, ms (reads); X.T @ X {first['syrk_ms']:.0f} ms"]
    reading = {r["way"]: r["read_ms"] for r in records}
    lines.append(f"{'':32}" + "".join(f"{way:>22}" for way in each))
    lines.append(f"{'reading X':32}" + "".join(f"{reading[way]:>22.1f}" for way in each))
    of = {(r["kernel"], r["way"]): f"{r['ms']:.1f} ({r['reads']:.2f})" for r in records}
    lines += [f"{name:32}" + "".join(f"{of[name, way]:>22}" for way in each) for name in names]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
