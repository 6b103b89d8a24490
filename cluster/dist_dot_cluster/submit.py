"""A job file -> a run on Kubernetes: make it, follow it, fetch what it leaves, delete it."""

import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Thread
from time import monotonic, sleep
from typing import Any

from dist_dot_cluster.errors import KubernetesError, PodsError
from dist_dot_cluster.manifests import (
    COMPONENT,
    RUN,
    STORE,
    Manifest,
    Pods,
    config_map,
    dask_cluster,
    network_policy,
    owned_by,
    ownership,
    pods_of,
    reader_pod,
    runner_account,
    runner_job,
    runner_rights,
)
from dist_dot_cluster.namespace import Namespace
from dist_dot_cluster.pod_diagnosis import Watch

LOOK = 1.0  # seconds between two looks at a run
OUTAGE = 120.0  # seconds that the API server may be out of reach
READER = 120.0  # seconds for a pod to start that reads the volume
CREDENTIALS = re.compile(r"\w+://[^/\s:@\"']+:[^/\s@\"']+@")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Submission:
    """A run to be made. Raises KubernetesError for credentials in the job file: its text is no secret."""

    name: str
    namespace: str
    pods: Pods
    job_file: str
    store: str
    """Where the run folder goes: a path on a volume, or an fsspec URL."""
    settings: tuple[str, ...] = ()
    """section.key=value, in place of what the job file says."""
    retries: int = 5

    def __post_init__(self) -> None:
        for text in (self.job_file, self.store, *self.settings):
            if CREDENTIALS.search(text):
                raise KubernetesError("a URL with a password, which everyone would read: use a Secret and --env-from")
        paths = [PurePosixPath(volume.path) for volume in self.pods.volumes]
        if "://" not in self.store and not any(PurePosixPath(self.store).is_relative_to(path) for path in paths):
            raise KubernetesError(
                f"the run would be kept in {self.store or 'the pods'}, which goes with them: give "
                "--volume CLAIM:/PATH, or --store URL"
            )

    def manifests(self) -> list[Manifest]:
        """Return all objects in the order in which they are made.

        What the runner's pod cannot start without, the Job, which is to own all, and what the runner waits for.
        """
        job = runner_job(self.name, self.namespace, self.pods, self.store, self.settings, self.retries)
        others = [
            *runner_rights(self.name, self.namespace),
            network_policy(self.name, self.pods),
            dask_cluster(self.name, self.pods),
        ]
        return [runner_account(self.name), config_map(self.name, self.job_file), job, *others]


def submit(namespace: Namespace, submission: Submission) -> None:
    """Create all objects of a run, or none."""
    for volume in submission.pods.volumes:
        if namespace.get("PersistentVolumeClaim", volume.claim) is None:
            raise KubernetesError(f"there is no PersistentVolumeClaim {volume.claim} in namespace {namespace.name}")
    account, job_file, job, *others = submission.manifests()
    try:
        for manifest in (account, job_file):
            namespace.create(manifest)
        owner = namespace.create(job)
        for manifest in (account, job_file):
            namespace.change(manifest["kind"], submission.name, {"metadata": ownership(owner)})
        for manifest in others:
            namespace.create(owned_by(owner, manifest))
    except BaseException:
        delete(namespace, submission.name)
        raise


def submitted(namespace: Namespace) -> list[Manifest]:
    """Return the Jobs of the runs in a namespace, the oldest first."""
    return namespace.find("Job", {"app.kubernetes.io/managed-by": "dist-dot"})


def find(namespace: Namespace, name: str) -> Manifest:
    """Return the Job of the run whose name begins so. Raises KubernetesError unless there is one."""
    names = {job["metadata"]["name"]: job for job in submitted(namespace)}
    found = [each for each in names if each.startswith(name)]
    if len(found) != 1:
        there = ", ".join(found or names) or "none"
        raise KubernetesError(
            f"{len(found) or 'no'} runs in namespace {namespace.name} begin with {name!r}; there are: {there}"
        )
    return names[found[0]]


def state(job: Manifest) -> str:
    """Return how a run stands: running, done or failed."""
    conditions = job.get("status", {}).get("conditions", ())
    ended = {condition["type"] for condition in conditions if condition["status"] == "True"}
    return "done" if "Complete" in ended else "failed" if "Failed" in ended else "running"


def follow(namespace: Namespace, name: str, say: Say, log: Say) -> tuple[int, str]:
    """Hand on the run's log until its end; return its status and its error. A request per second.

    `say` hears what happens to its pods. Raises PodsError for what will not get better by itself, KubernetesError where
    the API server does not answer for two minutes: the run goes on then.
    """
    watch = Watch()
    heard: dict[str, Thread] = {}
    last: Manifest | None = None
    reached = monotonic()
    while True:
        try:
            job, pods = namespace.get("Job", name), namespace.find("Pod", {RUN: name})
            found = namespace.troubles(name, pods)
        except KubernetesError:
            if monotonic() - reached > OUTAGE:
                raise
            sleep(LOOK)
            continue
        reached = monotonic()
        if job is None:
            raise KubernetesError(f"run {name} is gone: somebody has deleted it")
        for pod in _runners(pods):
            if pod["metadata"]["name"] not in heard and _has_started(pod):
                if heard:
                    say(f"runner {len(heard) + 1}: goes on from the newest checkpoint")
                heard[pod["metadata"]["name"]] = _listen(namespace, pod, log)
            last = pod
        if state(job) != "running":
            break
        news, over = watch.look(found, monotonic())
        for words in news:
            say(words)
        if over:
            raise PodsError(over)
        sleep(LOOK)
    for thread in heard.values():
        thread.join(timeout=10.0)
    return _outcome(last, job)


def fetch(namespace: Namespace, job: Manifest, folder: Path) -> None:
    """Copy the files of a run's folder to this machine: through a pod that sees the volume, or by fsspec."""
    store = job["metadata"]["annotations"][STORE]
    if "://" in store:
        import fsspec

        place, path = fsspec.url_to_fs(store)
        folder.mkdir(parents=True, exist_ok=True)
        for file in place.ls(path, detail=True):
            if file["type"] == "file":
                place.get_file(file["name"], str(folder / PurePosixPath(file["name"]).name))
        return
    name = job["metadata"]["name"]
    reader = reader_pod(name, pods_of(job))
    namespace.create(owned_by(job, reader))
    try:
        namespace.wait_for(f"a pod that reads {store}", name, _reader_runs, READER)
        archive = namespace.output_of(
            reader["metadata"]["name"], ["tar", "-C", store, "--exclude=./checkpoint", "-cf", "-", "."]
        )
    finally:
        namespace.delete("Pod", reader["metadata"]["name"])
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise KubernetesError(
            f"the folder of the run, {store}, did not arrive whole ({error}): fetch it again"
        ) from error


def delete(namespace: Namespace, name: str) -> None:
    """Delete a run with all that was made for it, and wait until it is gone. Volumes, and what is on them, stay."""
    namespace.delete("Job", name)
    for kind in ("ServiceAccount", "ConfigMap"):  # which do not know their owner if the submission was cut short
        namespace.delete(kind, name)
    namespace.wait_until_gone(name)


def _runners(pods: list[Manifest]) -> list[Manifest]:
    return [pod for pod in pods if pod["metadata"]["labels"].get(COMPONENT) == "runner"]


def _has_started(pod: Manifest) -> bool:
    return any("waiting" not in each.get("state", {}) for each in pod["status"].get("containerStatuses", ()))


def _listen(namespace: Namespace, pod: Manifest, log: Say) -> Thread:
    """Hand on the lines of a pod's log, in a thread."""

    def listen() -> None:
        try:
            for line in Namespace(namespace.name).log(pod["metadata"]["name"]):
                log(line)
        except KubernetesError:
            pass  # the pod was deleted: its successor has a log of its own

    thread = Thread(target=listen, daemon=True)
    thread.start()
    return thread


def _outcome(runner: Manifest | None, job: Manifest) -> tuple[int, str]:
    """Return the status and the error that the last runner has left, else what the Job says."""
    for container in (runner or {}).get("status", {}).get("containerStatuses", ()):
        ended = container.get("state", {}).get("terminated", {})
        try:
            left = json.loads(ended.get("message", ""))
            return int(left["status"]), str(left["error"])
        except (ValueError, KeyError, TypeError):
            if ended:
                return 1, f"the last runner ended with status {ended.get('exitCode')}: {ended.get('reason')}"
    conditions: list[dict[str, Any]] = job.get("status", {}).get("conditions", [])
    return 1, "; ".join(each.get("message", each["type"]) for each in conditions) or "no runner has left word"


def _reader_runs(pods: list[Manifest]) -> bool:
    return any(pod["metadata"]["labels"].get(COMPONENT) == "reader" and _is_running(pod) for pod in pods)


def _is_running(pod: Manifest) -> bool:
    return bool(pod["status"]["phase"] == "Running")
