"""Run the parts one after the other, each for so many seconds at most, and print the tables of what they measured."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.gpu.clock import Clock
from benchmarks.gpu.report import section
from benchmarks.harness import environment, write

Record = dict[str, Any]


class Part(NamedTuple):
    """A module of this package, whose `measure(clock, quick)` yields records, and the seconds that it may take."""

    module: str
    seconds: float
    quick: float


# In this order: what comes last is what may be missing when the time is over.
PARTS = {
    "passes": Part("passes", 50, 20),
    "fits": Part("fits", 25, 8),
    "peers: torch": Part("torch_peers", 22, 10),
    "peers: CuPy": Part("cupy_peers", 22, 10),
    "first, cold": Part("first", 30, 20),
    "first, warm": Part("first", 15, 10),
    "cluster": Part("on_a_cluster", 25, 15),
    "bits": Part("bits", 25, 10),
    "products": Part("products", 20, 8),
    "cpu": Part("on_the_cpu", 20, 0),
}
CARD_VERSIONS = ("cupy-cuda12x", "cupy-cuda13x", "torch", "dask-cuda")
GRACE = 5.0  # seconds that a part has to end after its time is over


def main() -> None:
    """Measure everything, or be one of the parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, help="the folder for gpu.jsonl and gpu.log")
    parser.add_argument("--quick", action="store_true", help="fewer cases and repeats, in some 80 s")
    parser.add_argument("--seconds", type=float, help="for all parts together (default: 175, quick 85)")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone; may be given several times")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part(options.part, options.seconds, options.quick)
    elif options.out is None:
        parser.error("--out is missing: name a folder for the records")
    else:
        names = options.only or list(PARTS)
        everything(options.out, names, options.seconds or (85.0 if options.quick else 175.0), options.quick)


def part(name: str, seconds: float, quick: bool) -> None:
    """Print the records of a part, one per line, as they come."""
    measure: Callable[[Clock, bool], Iterator[Record]]
    measure = import_module(f"benchmarks.gpu.{PARTS[name].module}").measure
    for record in measure(Clock(seconds), quick):
        print(json.dumps({"part": name} | record), flush=True)


def everything(out: Path, names: list[str], seconds: float, quick: bool) -> None:
    """Run the parts, write the records after each, and print the tables."""
    out.mkdir(parents=True, exist_ok=True)
    clock, records = Clock(seconds), list[Record]()
    here = environment(CARD_VERSIONS) | card()
    with open(out / "gpu.log", "w") as log, tempfile.TemporaryDirectory() as folder:
        os.environ["SCIPY_ARRAY_API"] = "1"  # SciPy reads it when it is imported
        for name in names:
            limit = min(PARTS[name].quick if quick else PARTS[name].seconds, clock.left - GRACE)
            begin = perf_counter()
            if limit < 5:
                records.append({"benchmark": "skipped", "part": name, "why": "no time was left"})
            else:
                records += in_a_process(name, limit, quick, Path(folder), log)
            print(f"{name}: {perf_counter() - begin:.1f} s", flush=True)
            write(out / "gpu.jsonl", [here | record for record in records])
    print(section([here | record for record in records]))


def in_a_process(name: str, seconds: float, quick: bool, folder: Path, log: Any) -> list[Record]:
    """Return the records of one part. It is killed, with all that it started, when it overruns its time."""
    lines = folder / "records.jsonl"
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--seconds", str(seconds)]
    variables = dict(os.environ)
    if PARTS[name].module == "first":  # the second process finds what the first has compiled
        variables["CUPY_CACHE_DIR"] = str(folder / "kernels")
        (folder / "kernels").mkdir(exist_ok=True)
    log.write(f"== {name}\n")
    log.flush()
    with open(lines, "w") as output:
        process = subprocess.Popen(
            command + ["--quick"] * quick, stdout=output, stderr=log, env=variables, start_new_session=True
        )
        try:
            status: int | None = process.wait(seconds + GRACE)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    records = [json.loads(line) for line in lines.read_text().splitlines() if line.startswith("{")]
    if status is None:
        records.append({"benchmark": "failed", "part": name, "why": f"killed after {seconds + GRACE:.0f} s"})
    elif status:
        records.append({"benchmark": "failed", "part": name, "why": f"exit status {status}: see gpu.log"})
    return records


def card() -> Record:
    """Return the card's name and driver, without a context of CUDA in this process."""
    by_cupy = """import cupy
runtime = cupy.cuda.runtime
print(runtime.getDeviceProperties(0)["name"].decode(), f"of CUDA {runtime.driverGetVersion()}", "", sep=", ")"""
    queries = (
        ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
        [sys.executable, "-c", by_cupy],
    )
    name, driver, memory = "an unknown card", "unknown", ""
    for query in queries:
        try:
            line = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
            name, driver, memory = (word.strip() for word in line.split(","))
            break
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
            print(f"{query[0]}: {type(error).__name__}", file=sys.stderr)
    return {"card": name, "driver": driver, "card_memory": memory}


if __name__ == "__main__":
    main()
