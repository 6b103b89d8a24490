"""In the pod of a run: the command, once all workers are there, and what its end means for the Job.

`python -m cluster.runner --name NAME --namespace NAME --scheduler ADDRESS --workers N [--copy FOLDER URL] -- COMMAND`.
Statuses of the command:

- 0 and 3, done, and 2, a mistake that no retry mends, are final: the cluster is deleted, and a mistake ends the Job.
- Anything else is retried by the Job, in a new pod, as often as its backoffLimit says; the last one is final.

The status and the last error are the termination message of the container, whoever reads it.
"""

import argparse
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
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


def main() -> None:
    """Run the command and exit with what the Job is to make of it: 0 for what is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--name", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--scheduler", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--copy", nargs=2, metavar=("FOLDER", "URL"))
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    status, error = run(options.command, options.scheduler, options.workers)
    if status in DONE and options.copy:
        try:
            copy(*options.copy)
        except Exception as problem:  # whatever a store raises; the next runner tries again
            status, error = FAILURE, f"the run is done, but cannot be copied to {options.copy[1]}: {problem}"
    MESSAGE.write_text(json.dumps({"status": status, "error": error}))
    conclude(options.name, options.namespace, status)
    sys.exit(0 if status in DONE else status)


def run(command: list[str], scheduler: str, workers: int) -> tuple[int, str]:
    """Run the command once all workers are there; return its status and the last line that it wrote as an error.

    SIGTERM is handed on: the command has until the pod's grace period is over.
    """
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: terminated.append(number))
    if problem := wait_for_workers(scheduler, workers, terminated):
        return problem
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        if terminated:
            process.terminate()
        assert process.stderr is not None
        lines: list[str] = []
        reader = Thread(target=_tee, args=(process.stderr, sys.stderr, lines.append))
        reader.start()
        status = process.wait()
        reader.join()
    if status == MISTAKE and not answers(scheduler):
        status = FAILURE  # it was no mistake: the scheduler went while the command was looking for it
    status = status if status >= 0 else FAILURE  # by a signal
    return status, lines[-1] if lines and status not in DONE else ""


def wait_for_workers(scheduler: str, workers: int, terminated: Sequence[int]) -> tuple[int, str] | None:
    """Wait until so many workers are there; return the status and the error of a wait in vain.

    A worker that Dask has paused before it holds anything is one whose memory limit is too small: it stays so.
    """
    deadline, paused_since = time.monotonic() + PATIENCE, time.monotonic()
    while True:
        found = workers_at(scheduler)
        paused = [each for each in found if each["status"] == "paused" and not each["metrics"]["managed_bytes"]]
        if len(found) - len(paused) >= workers:
            return None
        paused_since = paused_since if paused else time.monotonic()
        if time.monotonic() - paused_since > PAUSED:
            limit = paused[0]["memory_limit"] / 2**20
            words = f"worker {paused[0]['name']} uses more memory than its limit of {limit:.0f} MiB allows"
            return MISTAKE, f"{words}, before it holds any rows: give it more"
        if terminated or time.monotonic() > deadline:
            return FAILURE, f"waited for the scheduler at {scheduler} and {workers} workers: {len(found)} have come"
        time.sleep(LOOK)


def workers_at(scheduler: str) -> list[dict[str, Any]]:
    """Return what a scheduler knows of its workers: none where there is no scheduler."""
    if not answers(scheduler):
        return []
    from distributed import Client

    try:
        with Client(scheduler, timeout=ANSWER, set_as_default=False) as client:
            return list(client.scheduler_info(n_workers=-1)["workers"].values())
    except (OSError, ValueError):
        return []


def answers(scheduler: str) -> bool:
    """Return whether somebody listens there."""
    place = urlsplit(scheduler)
    try:
        with socket.create_connection((place.hostname, place.port), timeout=5.0):
            return True
    except OSError:
        return False


def copy(folder: str, url: str) -> None:
    """Copy the files of a folder to an fsspec URL."""
    import fsspec

    store, path = fsspec.url_to_fs(url)
    store.makedirs(path, exist_ok=True)
    for file in sorted(Path(folder).iterdir()):
        if file.is_file():
            store.put_file(str(file), f"{path}/{file.name}")


def conclude(name: str, namespace: str, status: int) -> None:
    """Delete the cluster when the run is over, and keep a mistake from being made again."""
    import kr8s
    from kr8s.objects import Job, new_class

    try:
        job: Any = Job(name, namespace=namespace)
        job.refresh()
        if status == MISTAKE:
            job.patch({"spec": {"backoffLimit": 0}})  # podFailurePolicy would say it too, from Kubernetes 1.26
        elif status not in DONE and job.raw.get("status", {}).get("failed", 0) < job.spec.backoffLimit:
            return
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
