"""What every benchmark shares: blocks of random rows, times taken beside the scheduler, and records."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numba import njit

import dist_dot
from dist_dot.kernels.kernel import Kernel
from dist_dot.rounds.blocks import Blocks, Report
from dist_dot.rounds.layout import lay_out_rows, make_block
from dist_dot.rows.arrays import Parameters
from dist_dot.rows.block import Block, Cuts, cut
from dist_dot.typing import Array

MISSING = "not installed"
RECORDS = Path(__file__).parent / "records"
VERSIONS = ("dist-dot", "dask", "distributed", "numpy", "numba", "scikit-learn", "scipy", "statsmodels")


@dataclass(frozen=True)
class RandomRows:
    """Make block `number` of rows of standard normal numbers, with labels 0 and 1."""

    cuts: Cuts

    def __call__(self, number: int) -> Block:
        """Return the block, the same each time."""
        start, stop = self.cuts.bounds(number)
        random = np.random.default_rng(number)
        X = random.standard_normal((stop - start, self.cuts.n_features), self.cuts.dtype)
        return make_block(X, (np.arange(start, stop) % 2).astype(X.dtype), self.cuts, number)


def random_blocks(client: Any, nbytes: int, p: int, dtype: str, block_rows: int | str = "auto") -> Blocks:
    """Lay out so many bytes of random rows of p columns, on the client's cluster, or here for None."""
    cuts = cut(max(1, nbytes // (p * np.dtype(dtype).itemsize)), p, dtype, block_rows)
    return lay_out_rows(RandomRows(cuts), cuts, client)


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _compiled_sum(values: Array) -> float:
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@dataclass(frozen=True)
class CompiledSum(Kernel):
    """The sum of X by a compiled loop: one way to read it as a stream."""

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        return np.array([_compiled_sum(block.X.dense().reshape(-1))])


@dataclass(frozen=True)
class NumpySum(Kernel):
    """The sum of X by NumPy: another way."""

    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Read X once."""
        return np.array([float(block.X.dense().sum())])


@dataclass(frozen=True)
class Times:
    """A program: seconds of `repeats` rounds of each kernel, in turns, after one that does not count.

    All workers answer a round at the same time, so kernels are compared under the same load of the memory.
    """

    kernels: Mapping[str, Kernel]
    parameters: Array
    repeats: int

    def __call__(self, blocks: Blocks, report: Report) -> dict[str, list[float]]:
        """Return the seconds by the kernels' names."""
        times: dict[str, list[float]] = {name: [] for name in self.kernels}
        for repeat in range(self.repeats + 1):
            for name, kernel in self.kernels.items():
                begin = perf_counter()
                blocks.reduce(kernel, self.parameters)
                if repeat:
                    times[name].append(perf_counter() - begin)
        return times


def resident(field: str = "VmRSS") -> int:
    """Return the memory of this process in bytes: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def environment(more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return where and with what a record was made, with the versions of more packages where they are installed."""
    versions = {name: _version(name) for name in VERSIONS} | {
        name: number for name in more if (number := _version(name)) != MISSING
    }
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": versions,
    }


def save(name: str, records: list[dict[str, Any]]) -> Path:
    """Write the records of one benchmark, one per line, over those of its last run."""
    RECORDS.mkdir(exist_ok=True)
    return write(RECORDS / f"{name}.jsonl", records)


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write records to a file, one per line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def load(name: str) -> list[dict[str, Any]]:
    """Read the records of one benchmark."""
    return [json.loads(line) for line in (RECORDS / f"{name}.jsonl").read_text().splitlines()]


def _version(name: str) -> str:
    """Return the version of a package; dist_dot's own, where it is a folder and not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return dist_dot.__version__ if name == "dist-dot" else MISSING


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
