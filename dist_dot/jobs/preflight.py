"""A look at the cluster before a run: whether every process has what the run needs, and the same of it.

What breaks a run is an error, which says where, what is there, what is here, and what to do; what only changes its bits
is a warning. Workers that join later are not looked at: one without dist_dot cannot load the plugin of the kernels,
which a run gives to all workers, and ends at once (distributed 2026.8).
"""

import inspect
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from dask.utils import format_bytes
from distributed import Client
from distributed.system import MEMORY_LIMIT

from dist_dot import __version__
from dist_dot.errors import ClusterError, DeadlineError, DeviceError, JobError
from dist_dot.jobs import probe
from dist_dot.rounds.blocks import log
from dist_dot.rows.block import Cuts

DEADLINE = 60.0  # seconds for all answers to one question
SILENT = 10.0  # seconds without a heartbeat, of which there are two a second, that name a worker that does not answer
# As text, evaluated by Dask's own handler: what is pickled by reference needs dist_dot there, what is pickled by value
# the same Python there.
CALL = "(exec(source, module := {'__name__': 'probe'}), module[function](*arguments))[1]"
SCHEDULER = "the scheduler"
# The part of a worker's limit that its blocks may take before Dask moves some to disk: Dask's own default.
SPILLS = 0.6
# What must be the same, since messages, graphs and functions by value fit one version only, and what should be.
BREAKS = {"dist_dot": "dist_dot", "dask": "dask", "distributed": "distributed", "python": "Python"}
CHANGES = {
    "code": "the code of dist_dot",
    "numpy": "numpy",
    "scipy": "scipy",
    "numba": "numba",
    "blas": "BLAS",
    "cpu": "the kind of CPU",
}

Facts = Mapping[str, Any]


def check_cluster(client: Client, files: Sequence[str] = ()) -> None:
    """Compare the scheduler and all workers with this process, and have the workers open the files.

    One message per process. Raises ClusterError for one without dist_dot, or with another version of what must be the
    same; JobError for files that workers do not see; DeadlineError for workers that do not answer. Logs one warning for
    all else that differs.
    """
    here = probe.facts(list(files))
    there: dict[str, Facts] = {f"worker {who}": of for who, of in _ask_workers(client, "facts", list(files)).items()}
    seen = {who: of["files"] for who, of in there.items()}
    try:
        there[SCHEDULER] = client.run_on_scheduler(eval, *_question("facts", []))  # it reads no data
    except ValueError as error:  # such calls are blocked there
        log.warning("%s is not compared with this process: %s", SCHEDULER, error)
    check_versions(here, there)
    check_files(here["files"], seen)


def check_memory(client: Client, cuts: Cuts, weights: bool) -> None:
    """Compare the bytes of the blocks with the memory that the workers have left. One message per worker.

    Raises ClusterError where they cannot fit; logs a warning where Dask will move some to disk.
    """
    needed = cuts.memory(weights)
    limits = {who: of["memory_limit"] for who, of in workers_of(client).items()}
    found = [Room(**of, limit=limits.get(who)) for who, of in _ask_workers(client, "memory").items()]
    if not found:
        return
    fits, quick = room(found, 1.0), room(found, SPILLS)
    words = (
        f"{cuts} take {format_bytes(needed)}, and the "
        f"{len(found)} worker{'s' if len(found) > 1 else ''} of {client.scheduler.address}"
    )
    if needed > fits:
        raise ClusterError(
            f"{words} {'have' if len(found) > 1 else 'has'} {format_bytes(fits)} left: use more workers, workers with "
            "more memory, or fewer columns; [cluster] preflight = false goes on, if Dask can keep the rest on disk"
        )
    if needed > quick:
        log.warning(
            "%s keep%s up to %s in memory: what is beyond goes to disk, and is read from there in every round",
            words, "" if len(found) > 1 else "s", format_bytes(quick),
        )  # fmt: skip


def workers_of(client: Client) -> dict[str, Any]:
    """Return what the scheduler says of each worker, by address. Raises ClusterError for one that is gone."""
    found: dict[str, Any] | None = client.scheduler_info(n_workers=-1).get("workers")
    if found is None:  # the client has lost it
        raise ClusterError("the scheduler is gone: start it again, or give the address of another one")
    return found


def check_memory_here(cuts: Cuts, weights: bool, widest: str) -> None:
    """Compare the bytes of the rows with the memory that this process can still take. widest says what makes columns.

    Raises JobError where they cannot fit.
    """
    here = probe.memory()
    needed, free = cuts.memory(weights), min(here["free"], MEMORY_LIMIT - here["taken"])
    if needed > free:
        raise JobError(
            f"{cuts} take {format_bytes(needed)}, and this process can have {format_bytes(max(0, free))}{widest}: use "
            "fewer columns, a cluster with more memory (--cluster), or [cluster] preflight = false to try it"
        )


def check_gpus(client: Client) -> None:
    """Look whether each worker has a GPU that it can use. One message per worker.

    Raises DeviceError for one that has none; logs a warning for GPUs, or versions of CuPy, that differ.
    """
    found = _ask_workers(client, "gpu")
    for reason, who in _by({f"worker {who}": of["missing"] for who, of in found.items() if of["missing"]}).items():
        raise DeviceError(f"GPUs are to keep the rows, and on {_names(who, found)} {reason}; or set data.device=cpu")
    kinds = sorted({of["name"] for of in found.values()})
    if len(kinds) > 1:
        log.warning("the GPUs of the workers differ, so that a fit may have other bits each time: %s", "; ".join(kinds))


def check_gpu_memory(client: Client, cuts: Cuts, weights: bool) -> None:
    """Compare the bytes of the blocks with the free memory of the workers' GPUs. One message per worker.

    Raises DeviceError where a GPU cannot hold the blocks of its workers.
    """
    found = _ask_workers(client, "gpu")
    threads = {who: of["nthreads"] for who, of in workers_of(client).items()}
    shares = shared_out(cuts.memory(weights), {who: threads.get(who, 1) for who in found})
    cards: dict[tuple[str, str], list[str]] = defaultdict(list)
    for worker, of in found.items():
        cards[of["host"], of["card"]].append(worker)
    for those in cards.values():
        needed, free = sum(shares[who] for who in those), min(found[who]["free"] for who in those)
        if needed > free:
            names = _names([f"worker {who}" for who in those], found)
            raise DeviceError(
                f"{cuts} take {format_bytes(cuts.memory(weights))}, of which {names} would keep "
                f"{format_bytes(needed)}, and the GPU there ({found[those[0]]['name']}) has {format_bytes(free)} free: "
                "use more GPUs or fewer columns, or set data.device=cpu"
            )


def shared_out(nbytes: int, threads: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes that each worker is to hold: blocks are laid out in proportion to the threads of workers."""
    total = sum(threads.values())
    return {who: -(-nbytes * count // total) for who, count in threads.items()}


@dataclass(frozen=True)
class Room:
    """Bytes: free on the host of a worker, taken by the worker, and its limit, None or 0 where it has none."""

    host: str
    free: int
    taken: int
    limit: int | None


def room(workers: Sequence[Room], part: float) -> int:
    """Return the bytes that workers can take in up to a part of their limits, and of what is free on their hosts."""
    hosts: dict[str, list[Room]] = defaultdict(list)
    for worker in workers:
        hosts[worker.host].append(worker)
    total = 0.0
    for those in hosts.values():
        within = sum(max(0.0, part * each.limit - each.taken) if each.limit else inf for each in those)
        total += min(within, part * min(each.free for each in those))
    return int(total)


def check_versions(here: Facts, there: Mapping[str, Facts]) -> None:
    """Compare what processes say of themselves with what this one does. Raises ClusterError; logs a warning."""
    missing = {who: of["missing"] for who, of in there.items() if of["missing"]}
    wrong = [
        f"dist_dot cannot be imported on {_names(who, there)} ({reason}): install dist-dot {__version__} there"
        for reason, who in _by(missing).items()
    ]
    for key, name in BREAKS.items():
        others = {who: of[key] for who, of in there.items() if _release(key, of[key]) != _release(key, here[key])}
        wrong += [
            f"{name} is {value or 'not installed'} on {_names(who, there)}, and {here[key]} here: install the same"
            for value, who in _by({who: value for who, value in others.items() if who not in missing}).items()
        ]
    changed = []
    for key, name in CHANGES.items():
        others = {who: of[key] for who, of in there.items() if of[key] != here[key] and who not in missing}
        for value, who in _by(others).items():
            if value is None and key in probe.PACKAGES:
                wrong.append(f"{name} is not installed on {_names(who, there)}, and {here[key]} here: install the same")
            else:
                changed.append(f"{name} is {value} on {_names(who, there)}, and {here[key]} here")
    if wrong:
        raise ClusterError("; ".join(wrong))
    if changed:
        mixed = any(len({of[key] for of in there.values()}) > 1 for key in CHANGES)
        what = (
            "the processes of the cluster differ, so that a fit may have other bits each time"
            if mixed
            else "the cluster differs from this process, so that a fit may have other bits there than here"
        )
        log.warning("%s: %s", what, "; ".join(changed))


def check_files(here: Mapping[str, Any], there: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise JobError for a file that a worker cannot open, or that has another size there."""
    for file, size in here.items():
        for answer, who in _by({who: of[file] for who, of in there.items() if of[file] != size}).items():
            what = f"has {answer:,} bytes on" if isinstance(answer, int) else "cannot be opened on"
            why = f", and {size:,} here" if isinstance(answer, int) else f" ({answer})"
            advice = (
                "the workers need the packages and the rights that this process has"
                if "://" in file and not file.startswith("file://")
                else "it is a path of this machine: put it where all of them see it under the same path, or give a URL "
                "that they can read, such as s3://bucket/table.parquet"
            )
            raise JobError(f"[data] source {file} {what} {_names(who, there)}{why}: {advice}")


def _question(function: str, *arguments: Any) -> tuple[str, dict[str, Any]]:
    """Return the arguments of eval that call a function of `probe` in another process."""
    return CALL, {"source": inspect.getsource(probe), "function": function, "arguments": arguments}


def _ask_workers(client: Client, function: str, *arguments: Any) -> dict[str, Any]:
    """Return the answer of each worker that gives one; a worker that dies meanwhile gives none."""
    try:
        answers = client.run(eval, *_question(function, *arguments), on_error="return", callback_timeout=DEADLINE)
    except TimeoutError:
        beats = {who: of["last_seen"] for who, of in workers_of(client).items()}
        silent = [f"worker {who}" for who, beat in beats.items() if max(beats.values()) - beat > SILENT]
        names = _names(silent, beats) if silent else f"some of the {len(beats)} workers"
        raise DeadlineError(f"waited {DEADLINE:.0f} s for an answer of {names}, before the run") from None
    for who, answer in answers.items():
        if isinstance(answer, Exception) and not isinstance(answer, OSError):
            log.warning("worker %s is not compared with this process: %s", who, answer)
    return {who: answer for who, answer in answers.items() if not isinstance(answer, Exception)}


def _release(key: str, version: str | None) -> str | None:
    """Return what of a version must be the same: 3.12 of Python 3.12.3, all of the others."""
    return ".".join(version.split(".")[:2]) if version and key == "python" else version


def _by(found: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Return who has it, by what they have."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for who, value in found.items():
        groups[value].append(who)
    return groups


def _names(who: Sequence[str], everybody: Collection[str]) -> str:
    """Return one of them, and how many more."""
    workers = [each for each in who if each != SCHEDULER]
    names = [SCHEDULER] if SCHEDULER in who else []
    names += workers[:1]
    words = " and ".join(names)
    total = len(everybody) - (SCHEDULER in everybody)
    return f"{words} and {len(workers) - 1} more of {total} workers" if len(workers) > 1 else words
