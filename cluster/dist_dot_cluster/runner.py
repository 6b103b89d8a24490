"""In the pod of a run: the command, once all workers are there, and what its end means for the Job.

`python -m dist_dot_cluster.runner --name NAME --namespace NAME --scheduler ADDRESS --workers N [--copy FOLDER URL] --
COMMAND`.
Statuses of the command:

- 0 and 3 are done; 2 is a mistake, which no retry mends.
- Anything else is a failure. It is retried by the Job, in a new pod, as often as its backoffLimit says, where something
  was lost: this pod, the scheduler, a worker. Where nothing was, the same would happen again.

Once it is over the cluster is deleted. The status and the last error are the termination message of the container.
"""

import argparse
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO, Any
from urllib.parse import urlsplit

DONE, MISTAKE, FAILURE = (0, 3), 2, 1
MESSAGE = Path("/dev/termination-log")
# Seconds.
PATIENCE = 900.0  # for scheduler and workers: nodes may have to be started for them, and the image pulled
ANSWER = 10.0
PAUSED = 15.0  # that a worker without rows may be paused: its start takes more memory than it keeps
LOOK = 0.5
GLANCE = 5.0  # between two looks while the command runs


@dataclass(frozen=True)
class Cluster:
    """What a scheduler says: who it is, and its workers by their addresses."""

    scheduler: str
    workers: dict[str, dict[str, Any]]

    def is_still(self, other: "Cluster | None") -> bool:
        """Whether nobody has gone, and nobody has come instead."""
        return other is not None and self.scheduler == other.scheduler and self.workers.keys() <= other.workers.keys()


@dataclass(frozen=True)
class Outcome:
    """How the command has ended: its status, the last line that it wrote as an error, and whether to try again."""

    status: int
    error: str = ""
    retry: bool = False


def main() -> None:
    """Run the command and exit with what the Job is to make of it: 0 for what is done."""
    parser = argparse.ArgumentParser(description="Run a command beside a Dask cluster on Kubernetes.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--scheduler", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--copy", nargs=2, metavar=("FOLDER", "URL"))
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    outcome = run(options.command, options.scheduler, options.workers)
    if outcome.status in DONE and options.copy:
        try:
            copy(*options.copy)
        except Exception as problem:  # whatever a store raises; the next runner tries again
            words = f"the run is done, but cannot be copied to {options.copy[1]}: {problem}"
            outcome = Outcome(FAILURE, words, retry=True)
    MESSAGE.write_text(json.dumps({"status": outcome.status, "error": outcome.error}))
    conclude(options.name, options.namespace, outcome)
    sys.exit(0 if outcome.status in DONE else outcome.status)


def run(command: list[str], scheduler: str, workers: int) -> Outcome:
    """Run the command once all workers are there; return how it has ended.

    SIGTERM is handed on: the command has until the pod's grace period is over.
    """
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: terminated.append(number))
    before = wait_for_workers(scheduler, workers, terminated)
    if isinstance(before, Outcome):
        return before
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:

        def terminate(number: int, frame: object) -> None:
            terminated.append(number)
            process.terminate()

        signal.signal(signal.SIGTERM, terminate)
        if terminated:
            process.terminate()
        assert process.stderr is not None
        lines: list[str] = []
        reader = Thread(target=_tee, args=(process.stderr, sys.stderr, lines.append))
        reader.start()
        stuck = watch_over(process, scheduler)
        status = process.wait()
        reader.join()
    if stuck:
        return Outcome(MISTAKE, stuck)
    if status in DONE:
        return Outcome(status)
    error = lines[-1] if lines else f"ended with status {status}"
    lost = bool(terminated) or status < 0 or not before.is_still(look(scheduler))
    if status == MISTAKE and not lost:
        return Outcome(MISTAKE, error)  # else the command was looking for what went
    return Outcome(FAILURE, error, retry=lost)


def wait_for_workers(scheduler: str, workers: int, terminated: Sequence[int]) -> Cluster | Outcome:
    """Return the cluster once it has so many workers, or the outcome of a wait in vain.

    A worker that Dask has paused before it holds anything is one whose memory limit is too small: it stays so.
    """
    deadline, paused_since = time.monotonic() + PATIENCE, time.monotonic()
    while True:
        found = look(scheduler)
        there = [] if found is None else list(found.workers.values())
        paused = paused_for_good(there)
        if found is not None and len(there) - len(paused) >= workers:
            return found
        paused_since = paused_since if paused else time.monotonic()
        if paused and time.monotonic() - paused_since > PAUSED:
            return Outcome(MISTAKE, _too_little(paused[0]))
        if terminated or time.monotonic() > deadline:
            words = f"waited for the scheduler at {scheduler} and {workers} workers: {len(there)} have come"
            return Outcome(FAILURE, words, retry=True)
        time.sleep(LOOK)


def watch_over(process: "subprocess.Popen[str]", scheduler: str) -> str:
    """Wait for the end of the command; end it where all workers are paused for good, and return that in words."""
    paused_since = time.monotonic()
    while True:
        try:
            process.wait(timeout=GLANCE)
            return ""
        except subprocess.TimeoutExpired:
            found = look(scheduler)
        there = [] if found is None else list(found.workers.values())
        paused = paused_for_good(there)
        if not paused or len(paused) < len(there):
            paused_since = time.monotonic()
        elif time.monotonic() - paused_since > PAUSED:
            process.kill()  # it waits for workers that do nothing; there is no state to be saved
            return _too_little(paused[0])


def paused_for_good(workers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the workers that Dask has paused although they hold nothing that they could let go of."""
    return [each for each in workers if each["status"] == "paused" and not each["metrics"]["managed_bytes"]]


def _too_little(worker: dict[str, Any]) -> str:
    limit = worker["memory_limit"] / 2**20
    return (
        f"worker {worker['name']} uses more memory than its limit of {limit:.0f} MiB allows, before it holds any rows: "
        "give it more"
    )


def look(scheduler: str) -> Cluster | None:
    """Return what a scheduler says of itself and its workers, None where none answers."""
    place = urlsplit(scheduler)
    try:
        with socket.create_connection((place.hostname, place.port), timeout=ANSWER):
            pass  # quicker than Dask's client to say that nobody is there
        from distributed import Client

        with Client(scheduler, timeout=ANSWER, set_as_default=False) as client:
            info = client.scheduler_info(n_workers=-1)
            return Cluster(info["id"], dict(info["workers"]))
    except (OSError, ValueError, KeyError):  # the latter where it goes while it is asked
        return None


def copy(folder: str, url: str) -> None:
    """Copy the files of a folder to an fsspec URL."""
    import fsspec

    store, path = fsspec.url_to_fs(url)
    store.makedirs(path, exist_ok=True)
    for file in sorted(Path(folder).iterdir()):
        if file.is_file():
            store.put_file(str(file), f"{path}/{file.name}")


def conclude(name: str, namespace: str, outcome: Outcome) -> None:
    """Delete the cluster when the run is over, and keep the Job from trying again what cannot end otherwise."""
    import kr8s
    from kr8s.objects import Job, new_class

    try:
        job: Any = Job(name, namespace=namespace)
        job.refresh()
        if outcome.retry and job.raw.get("status", {}).get("failed", 0) < job.spec.backoffLimit:
            return
        if outcome.status not in DONE:
            job.patch({"spec": {"backoffLimit": 0}})  # podFailurePolicy would say it too, from Kubernetes 1.26
        cluster: Any = new_class("DaskCluster", "kubernetes.dask.org/v1", asyncio=False)
        cluster(name, namespace=namespace).delete()
    except (kr8s.NotFoundError, kr8s.ServerError, kr8s.APITimeoutError, OSError) as error:
        # Not the run's affair: the Job, with all that it owns, is deleted a day after its end at the latest.
        print(f"warning: DaskCluster {name} is not deleted: {error}", file=sys.stderr)


def _tee(source: IO[str], copy: IO[str], keep: Callable[[str], None]) -> None:
    for line in source:
        copy.write(line)
        copy.flush()
        if line.strip():
            keep(line.strip().removeprefix("error: "))


if __name__ == "__main__":
    main()
