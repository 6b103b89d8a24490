"""One namespace of the Kubernetes that KUBECONFIG names: dicts in, dicts out, over kr8s."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Any

from dist_dot_cluster.errors import KubernetesError, PodsError
from dist_dot_cluster.manifests import DASK, RUN, Manifest
from dist_dot_cluster.pod_diagnosis import Trouble, Watch, troubles, without_scheduler

INSTALL = 'this needs kr8s and dask-kubernetes: pip install "dist-dot[kubernetes]"'
MADE = ("Job", "DaskCluster", "DaskWorkerGroup", "Deployment", "Service", "Pod", "NetworkPolicy", "ConfigMap",
        "RoleBinding", "Role", "ServiceAccount")  # fmt: skip
RECENT = 60.0  # seconds, of an event that still says how things are
GONE = 120.0  # seconds that things may take to be deleted: a runner has a grace period of one minute
LOOK = 0.5  # seconds between two looks


class Namespace:
    """Creates, finds and deletes objects. Each call is a request to the API server; all raise KubernetesError."""

    def __init__(self, name: str | None = None) -> None:
        try:
            import kr8s
            from kr8s.objects import new_class
        except ImportError:
            raise KubernetesError(INSTALL) from None
        dask = {kind: new_class(kind, DASK, asyncio=False) for kind in ("DaskCluster", "DaskWorkerGroup")}
        known = {*MADE, "PersistentVolumeClaim"} - dask.keys()
        self.kinds: Mapping[str, Any] = {kind: getattr(kr8s.objects, kind) for kind in known} | dask
        with _named("no Kubernetes answers"):
            self.name = name or str(kr8s.api().namespace)

    def create(self, manifest: Manifest) -> Manifest:
        """Create an object; return what it has become."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        with _named(f"{kind} {name} cannot be created in namespace {self.name}"):
            made = self.kinds[kind](manifest, namespace=self.name)
            made.create()
            return dict(made.raw.to_dict())

    def change(self, kind: str, name: str, patch: Manifest) -> None:
        """Merge a patch into an object."""
        with _named(f"{kind} {name} cannot be changed in namespace {self.name}"):
            self.kinds[kind](name, namespace=self.name).patch(patch)

    def get(self, kind: str, name: str) -> Manifest | None:
        """Return an object, None where there is none of that name."""
        import kr8s

        with _named(f"{kind} {name} cannot be read in namespace {self.name}"):
            found = self.kinds[kind](name, namespace=self.name)
            try:
                found.refresh()
            except kr8s.NotFoundError:
                return None
            return dict(found.raw.to_dict())

    def find(self, kind: str, selector: Mapping[str, str]) -> list[Manifest]:
        """Return the objects with these labels, the oldest first; none of a kind that the API server does not know."""
        import kr8s

        with _named(f"{kind}s cannot be listed in namespace {self.name}"):
            try:
                found = list(
                    kr8s.get(self.kinds[kind], namespace=self.name, label_selector=dict(selector), raw=True)
                )  # fmt: skip
            except kr8s.ServerError as error:
                if getattr(error.response, "status_code", None) == 404:
                    return []
                raise
        named = {"apiVersion": self.kinds[kind].version, "kind": kind}  # which the items of a list do not say
        return sorted(
            (named | dict(each) for each in found), key=lambda each: str(each["metadata"]["creationTimestamp"])
        )

    def delete(self, kind: str, name: str) -> None:
        """Delete an object, and what it owns with it; one that is not there is as good as deleted."""
        import kr8s

        with _named(f"{kind} {name} cannot be deleted in namespace {self.name}"):
            try:
                self.kinds[kind](name, namespace=self.name).delete(propagation_policy="Background")
            except kr8s.NotFoundError:
                pass

    def left(self, name: str) -> list[str]:
        """Return what there is of a run or a cluster, as KIND NAME."""
        return [f"{kind} {each['metadata']['name']}" for kind in MADE for each in self.find(kind, {RUN: name})]

    def wait_until_gone(self, name: str) -> None:
        """Wait until nothing is left of a run or a cluster that was deleted."""
        deadline = monotonic() + GONE
        while left := self.left(name):
            if monotonic() > deadline:
                raise KubernetesError(f"{', '.join(left)}: deleted, and still there after {GONE:.0f} s")
            sleep(LOOK)

    def troubles(self, name: str, pods: Iterable[Manifest]) -> list[Trouble]:
        """Return what keeps the pods of a run or a cluster, those that there are and those that are not made."""
        import kr8s

        with _named(f"events cannot be listed in namespace {self.name}"):
            kind: Any = kr8s.objects.Event
            events = kr8s.get(kind, namespace=self.name, field_selector="type=Warning", raw=True)
            about = [event for event in map(dict, events) if event["involvedObject"].get("name", "").startswith(name)]
        here = list(pods)
        running = {pod["metadata"]["name"] for pod in here if pod.get("status", {}).get("phase") != "Pending"}
        found = troubles(here, [e for e in about if _is_recent(e) and e["involvedObject"]["name"] not in running])
        unmade = without_scheduler(name, here)
        return found + unmade if unmade and self.get("DaskCluster", name) else found

    def log(self, pod: str) -> Iterator[str]:
        """Yield the lines of a pod's log as they come, until its container ends."""
        with _named(f"the log of pod {pod} cannot be read"):
            yield from self.kinds["Pod"](pod, namespace=self.name).logs(follow=True, timeout=None)

    def output_of(self, pod: str, command: list[str]) -> bytes:
        """Return what a command in a running pod writes."""
        with _named(f"{' '.join(command)} in pod {pod}"):
            running = self.kinds["Pod"](pod, namespace=self.name)
            running.refresh()
            return bytes(running.exec(command, timeout=60).stdout)

    def wait_for(self, what: str, name: str, ready: Callable[[list[Manifest]], bool], seconds: float) -> None:
        """Wait until the pods of a run or a cluster are as `ready` says; what keeps them is in the error otherwise."""
        watch, deadline = Watch(), monotonic() + seconds
        while not ready(pods := self.find("Pod", {RUN: name})):
            _, over = watch.look(self.troubles(name, pods), monotonic())
            if over or monotonic() > deadline:
                reasons = over or "; ".join(watch.words.values()) or _phases(pods)
                raise PodsError(f"waited for {what}: {reasons}")
            sleep(LOOK)


def _phases(pods: list[Manifest]) -> str:
    there = ", ".join(f"{pod['metadata']['name']} is {pod['status']['phase']}" for pod in pods)
    return there or "there are no pods at all: is the Dask operator running?"


def _is_recent(event: Mapping[str, Any]) -> bool:
    text = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
    return (datetime.now(UTC) - datetime.fromisoformat(str(text))).total_seconds() < RECENT


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Raise whatever kr8s raises as a KubernetesError that begins with `what`."""
    import httpx
    import kr8s

    try:
        yield
    except kr8s.ServerError as error:
        hint = ""
        if getattr(error.response, "status_code", None) == 404 and "DaskCluster" in what:
            hint = " (is the Dask operator installed?)"
        raise KubernetesError(f"{what}: {error}{hint}") from error
    except (kr8s.NotFoundError, kr8s.APITimeoutError, kr8s.ExecError, httpx.HTTPError, OSError, ValueError) as error:
        if isinstance(error, KubernetesError):
            raise
        raise KubernetesError(f"{what}: {error or type(error).__name__}; KUBECONFIG says where it is") from error
