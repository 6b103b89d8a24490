"""Why pods do not run: what Kubernetes says of them, in words, and how long it may go on saying so."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from dist_dot_cluster.manifests import COMPONENT, DASK_COMPONENT

# Seconds that a trouble may last before it is taken for good.
AT_ONCE, RETRIED, PLACED = 0.0, 30.0, 900.0  # no retry mends it; a registry may come back; a node may be on its way
MADE = 10.0  # seconds, ample, for the operator to act
KILLS = 3  # of one container for its memory: the first may be bad luck
PULL = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError")
START = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun")
EVENTS = ("FailedCreate", "FailedMount", "FailedAttachVolume")


@dataclass(frozen=True)
class Trouble:
    """What keeps a pod: `key` names the pod and the kind of trouble, whose words may change.

    It ends the wait after `patience` seconds, and is not worth a word before `quiet` ones.
    """

    key: tuple[str, str]
    words: str
    patience: float
    quiet: float = 0.0


def troubles(pods: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]) -> list[Trouble]:
    """Return what is wrong with these pods, and what these recent events say of pods that are not even there."""
    found = [trouble for pod in pods for trouble in _of_pod(pod)]
    return found + [trouble for event in events for trouble in _of_event(event)]


def without_scheduler(name: str, pods: Iterable[Mapping[str, Any]]) -> list[Trouble]:
    """Return the trouble of a DaskCluster that has no scheduler pod: nobody has made it."""
    if any(pod["metadata"].get("labels", {}).get(DASK_COMPONENT) == "scheduler" for pod in pods):
        return []
    words = f"DaskCluster {name} has no scheduler pod: does the Dask operator run, and look after this namespace?"
    return [Trouble((name, "operator"), words, 4 * RETRIED, quiet=MADE)]


def _of_pod(pod: Mapping[str, Any]) -> Iterator[Trouble]:
    name = pod["metadata"]["name"]
    who = f"{_component(pod)} pod {name}"
    status = pod.get("status", {})
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            words = f"{who} is pending: {condition.get('message') or condition.get('reason', 'no reason given')}"
            yield Trouble((name, "pending"), words, PLACED)
    limits = {each["name"]: each.get("resources", {}).get("limits", {}) for each in pod["spec"]["containers"]}
    for container in status.get("containerStatuses", ()):
        waiting = container.get("state", {}).get("waiting", {})
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        restarts = container.get("restartCount", 0)
        if reason in PULL:
            said = f"image {container['image']} cannot be pulled: {message or reason}"
            yield Trouble((name, "image"), f"{who}: {said}", RETRIED)
        elif reason == "InvalidImageName":
            yield Trouble((name, "image"), f"{who}: {container['image']!r} is no image name: {message}", AT_ONCE)
        elif reason in START or ended.get("reason") in START:
            said = message or ended.get("message") or reason
            yield Trouble((name, "start"), f"{who} cannot be started: {said}", RETRIED)
        if ended.get("reason") == "OOMKilled":
            limit = limits.get(container["name"], {}).get("memory", "none")
            often = "again and again" if restarts >= KILLS else "by the kernel"
            words = f"{who} was killed {often} for using more memory than its limit of {limit}: give it more"
            yield Trouble((name, "memory"), words, AT_ONCE if restarts >= KILLS else inf)
        elif reason == "CrashLoopBackOff" and restarts >= KILLS:
            words = f"{who} ends again and again, with status {ended.get('exitCode')}: its log says why"
            yield Trouble((name, "crash"), words, RETRIED)


def _of_event(event: Mapping[str, Any]) -> Iterator[Trouble]:
    if event.get("type") == "Warning" and event.get("reason") in EVENTS:
        about = event["involvedObject"]
        words = f"{about['kind']} {about['name']}: {event['reason']}: {event.get('message', '')}"
        yield Trouble((about["name"], event["reason"]), words, 4 * RETRIED)


def _component(pod: Mapping[str, Any]) -> str:
    labels = pod["metadata"].get("labels", {})
    return str(labels.get(COMPONENT) or labels.get(DASK_COMPONENT) or "a")


class Watch:
    """Troubles over time: says each once, and says which one has lasted too long."""

    def __init__(self) -> None:
        self.since: dict[tuple[str, str], float] = {}
        self.words: dict[tuple[str, str], str] = {}  # of what has been said

    def look(self, found: Iterable[Trouble], now: float) -> tuple[list[str], str | None]:
        """Return what is new, in words, and the trouble that has gone on for too long, None where none has."""
        here = {trouble.key: trouble for trouble in found}
        for key in self.since.keys() - here.keys():
            del self.since[key]
            self.words.pop(key, None)
        news = []
        for key, trouble in here.items():
            lasted = now - self.since.setdefault(key, now)
            said = self.words.get(key)
            # The kubelet alternates between the error and that it waits before it tries again.
            better = said is not None and "Back-off" in said and "Back-off" not in trouble.words
            if better or (said is None and lasted >= trouble.quiet):
                self.words[key] = trouble.words
                news.append(trouble.words)
        over = [
            self.words.get(key, trouble.words)
            for key, trouble in here.items()
            if now - self.since[key] >= trouble.patience
        ]
        return news, over[0] if over else None
