"""What a cluster and a run are on Kubernetes: pure functions from options to dicts.

A run NAME is these objects, all of that name and labelled with it::

    Job                 the runner: `dist-dot train` beside the cluster; owns all the others
    ├── ConfigMap       the job file
    ├── DaskCluster     the scheduler and the workers, which the operator makes of it
    ├── NetworkPolicy   only these pods reach these pods
    └── ServiceAccount, Role, RoleBinding    the runner may end its own run, and nothing else

Whoever deletes the Job deletes everything. A cluster without a run is a DaskCluster that owns its NetworkPolicy.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any
from uuid import uuid4

from dist_dot_cluster.errors import KubernetesError

Manifest = dict[str, Any]

DASK = "kubernetes.dask.org/v1"
SCHEDULER_PORT, DASHBOARD_PORT, WORKER_DASHBOARD = 8786, 8787, 8788
JOB_FILE = "/job/job.toml"
NAME_LENGTH = 53  # of a DaskCluster: the operator adds "-scheduler", and a Service has at most 63
USER = 1000
DAY = 86_400
RUN, COMPONENT, DASK_COMPONENT = "app.kubernetes.io/instance", "app.kubernetes.io/component", "dask.org/component"
STORE, PODS = "dist-dot/store", "dist-dot/pods"  # what `dist-dot attach` reads of a Job
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?")
BLAS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Volume:
    """A PersistentVolumeClaim, and where the pods see it."""

    claim: str
    path: str

    @classmethod
    def parse(cls, text: str) -> "Volume":
        """Return the volume of CLAIM:/PATH. Raises KubernetesError."""
        claim, _, path = text.partition(":")
        if not claim or not path.startswith("/") or path == "/":
            raise KubernetesError(f"volume {text!r}: write CLAIM:/PATH, such as flights:/data")
        return cls(claim, path.rstrip("/"))


@dataclass(frozen=True)
class Pods:
    """What the pods of a cluster are. Raises KubernetesError for what Kubernetes or the operator would refuse."""

    image: str
    """It has `dask` and `dist-dot` on its path: see cluster/Dockerfile."""
    workers: int = 2
    cpus: float = 1.0
    """Of each worker: requested, and its limit. It has as many threads, at least one."""
    memory: str = "4Gi"
    """Of each worker: requested, and its limit."""
    gpus_per_worker: int = 0
    """0 or 1: a worker of Dask uses one GPU, so more GPUs are more workers."""
    beside: str = "2Gi"
    """The memory limit of the scheduler, which hosts the loop, and of the runner."""
    volumes: tuple[Volume, ...] = ()
    """Every pod sees them: the data, the checkpoints and the runs are there."""
    env_from: tuple[str, ...] = ()
    """Names of Secrets whose keys are environment variables of every pod."""
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets that the image is pulled with."""
    operator_namespace: str = "dask-operator"
    """Where the Dask operator runs: it may reach the cluster's pods, which only reach each other otherwise."""

    def __post_init__(self) -> None:
        if not self.image:
            raise KubernetesError("no image: give --image, or [cluster] image in the job file")
        if self.workers < 1:
            raise KubernetesError(f"{self.workers} workers: give a number >= 1")
        if not 0 < self.cpus < inf:
            raise KubernetesError(f"{self.cpus} cpus: give a number > 0")
        if self.gpus_per_worker not in (0, 1):
            raise KubernetesError(
                f"{self.gpus_per_worker} GPUs per worker: give 0 or 1, and more workers for more GPUs"
            )
        for name in ("memory", "beside"):
            if not QUANTITY.fullmatch(getattr(self, name)):
                raise KubernetesError(f"{name} {getattr(self, name)!r}: write a number of bytes such as 8Gi or 500M")


def to_yaml(manifests: Iterable[Manifest]) -> str:
    """Return manifests as a stream of YAML documents, to be read by people too."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # what manifests share is written out
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump_all(manifests, Dumper=Dumper, sort_keys=False, width=120)


def pods_of(job: Mapping[str, Any]) -> Pods:
    """Return the options that a Job was submitted with. Raises KubernetesError for a Job that says something else."""
    try:
        options = json.loads(job["metadata"]["annotations"][PODS])
        volumes = tuple(Volume(**volume) for volume in options["volumes"])
        lists = {name: tuple(options[name]) for name in ("env_from", "pull_secrets")}
        return Pods(**options | lists | {"volumes": volumes})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        name = job["metadata"]["name"]
        raise KubernetesError(
            f"Job {name} was made by another version of dist-dot, or by something else ({PODS}: {error!r}): read its "
            "volume by hand, and delete it"
        ) from error


def run_name(stem: str) -> str:
    """Return a new name that begins like `stem`: a word of DNS, unique, of no more than 53 characters."""
    word = re.sub("[^a-z0-9]+", "-", stem.lower()).strip("-")
    tail = uuid4().hex[:8]
    if not word or not word[0].isalpha():
        word = f"run-{word}".rstrip("-")
    return f"{word[: NAME_LENGTH - len(tail) - 1].rstrip('-')}-{tail}"


def scheduler_address(name: str, namespace: str) -> str:
    """Return where pods find the scheduler of a cluster."""
    return f"tcp://{name}-scheduler.{namespace}.svc:{SCHEDULER_PORT}"


def labels(name: str) -> dict[str, str]:
    """Return what all objects of a run have in common."""
    return {"app.kubernetes.io/name": "dist-dot", RUN: name, "app.kubernetes.io/managed-by": "dist-dot"}


def ownership(owner: Mapping[str, Any]) -> Manifest:
    """Return the metadata of what is deleted with its owner, which has been created: it has a uid."""
    reference = {key: owner[key] for key in ("apiVersion", "kind")}
    reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
    return {"ownerReferences": [reference]}


def owned_by(owner: Mapping[str, Any], manifest: Manifest) -> Manifest:
    """Return the manifest of an object that is deleted with its owner."""
    return manifest | {"metadata": manifest["metadata"] | ownership(owner)}


def dask_cluster(name: str, pods: Pods) -> Manifest:
    """Return a cluster. It is what dask-kubernetes' make_cluster_spec makes, with programs that distributed still has.

    A worker has no nanny: the kubelet restarts it, and says why it had died. What a nanny sets is set here.
    """
    scheduler = _container("scheduler", pods) | {
        "args": ["dask", "scheduler", "--port", str(SCHEDULER_PORT), "--dashboard-address", f":{DASHBOARD_PORT}"],
        "ports": [_port("tcp-comm", SCHEDULER_PORT), _port("http-dashboard", DASHBOARD_PORT)],
        "readinessProbe": _health(period=1, failures=3),
        "livenessProbe": _health(period=20, failures=6) | {"initialDelaySeconds": 15},
        "resources": _beside(pods),
    }
    threads = max(1, int(pods.cpus))
    options = ["--no-nanny", "--nthreads", str(threads), "--memory-limit", pods.memory, "--local-directory", "/tmp"]
    worker = _container("worker", pods) | {
        "args": ["dask", "worker", "--name", "$(DASK_WORKER_NAME)", *options,
                 "--dashboard-address", f":{WORKER_DASHBOARD}"],
        "ports": [_port("http-dashboard", WORKER_DASHBOARD)],
        "resources": _of_worker(pods),
    }  # fmt: skip
    worker["env"] += [{"name": variable, "value": "1"} for variable in BLAS]
    service = {
        "type": "ClusterIP",
        "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
        "ports": [_open("tcp-comm", SCHEDULER_PORT), _open("http-dashboard", DASHBOARD_PORT)],
    }
    return {
        "apiVersion": DASK,
        "kind": "DaskCluster",
        "metadata": {"name": name, "labels": labels(name)},
        "spec": {
            "scheduler": {"spec": _pod(scheduler, pods), "service": service},
            "worker": {"replicas": pods.workers, "spec": _pod(worker, pods)},
        },
    }


def network_policy(name: str, pods: Pods) -> Manifest:
    """Return what lets only the pods of this cluster, and the operator, reach its pods.

    A scheduler or a worker of Dask runs code for whoever reaches its port. The operator asks the scheduler which
    workers to retire. What a node asks of its own pods (probes, port forwarding) is never refused.
    """
    operator = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": pods.operator_namespace}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "labels": labels(name)},
        "spec": {
            "podSelector": {"matchLabels": {RUN: name}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {RUN: name}}}, operator]}],
        },
    }


def config_map(name: str, job_file: str) -> Manifest:
    """Return the job file as the runner finds it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels(name)},
        "data": {"job.toml": job_file},
    }


def runner_job(name: str, namespace: str, pods: Pods, store: str, settings: tuple[str, ...], retries: int) -> Manifest:
    """Return the Job of a run: `retries` times more than once, it starts a runner that goes on where the last one was.

    store is where the run folder goes, a path on a volume or an fsspec URL; settings are those of
    `dist-dot train --set`.
    """
    address = scheduler_address(name, namespace)
    folder, options = (
        store,
        ["--name", name, "--namespace", namespace, "--scheduler", address, "--workers", str(pods.workers)],
    )
    if "://" in store:  # the folder is made here and copied there; checkpoints go there at once
        folder = "/tmp/run"
        options += ["--copy", folder, store]
        settings = (*settings, f"output.checkpoints={store}/checkpoint")
    train = ["dist-dot", "train", JOB_FILE, "--cluster", address, "--resume", "auto", "--out", folder]
    for setting in settings:
        train += ["--set", setting]
    runner = _container("runner", pods) | {
        "args": ["python", "-m", "dist_dot_cluster.runner", *options, "--", *train],
        "resources": _beside(pods),
    }
    runner["env"] += [{"name": "COLUMNS", "value": "120"}]
    runner["volumeMounts"] += [{"name": "job", "mountPath": JOB_FILE.rpartition("/")[0], "readOnly": True}]
    pod = _pod(runner, pods) | {
        "restartPolicy": "Never",
        "serviceAccountName": name,
        "automountServiceAccountToken": True,
        "terminationGracePeriodSeconds": 30,  # a round ends, and a checkpoint is written
    }
    pod["volumes"] += [{"name": "job", "configMap": {"name": name}}]
    notes = {STORE: store, PODS: json.dumps(asdict(pods))}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels(name) | {COMPONENT: "run"}, "annotations": notes},
        "spec": {
            "backoffLimit": retries,
            "ttlSecondsAfterFinished": DAY,
            "template": {"metadata": {"labels": labels(name) | {COMPONENT: "runner"}}, "spec": pod},
        },
    }


def runner_account(name: str) -> Manifest:
    """Return the account of the runner. The Job's pod would be refused without it."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "labels": labels(name)}}


def runner_rights(name: str, namespace: str) -> list[Manifest]:
    """Return what the runner may do: read and patch its own Job, and delete its own DaskCluster."""
    metadata = {"name": name, "labels": labels(name)}
    group = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": ["batch"], "resources": ["jobs"], "resourceNames": [name], "verbs": ["get", "patch"]},
        {"apiGroups": [DASK.partition("/")[0]], "resources": ["daskclusters"], "resourceNames": [name],
         "verbs": ["delete"]},
    ]  # fmt: skip
    return [
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    ]


def reader_pod(name: str, pods: Pods) -> Manifest:
    """Return a pod that sees the volumes for ten minutes: what a run has left there is read through it."""
    reader = _container("reader", pods) | {"args": ["sleep", "600"], "resources": _beside(pods)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-reader", "labels": labels(name) | {COMPONENT: "reader"}},
        "spec": _pod(reader, pods) | {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0},
    }


def _pod(container: Manifest, pods: Pods) -> Manifest:
    """Return the spec of a pod without rights: not root, no token of the API server, only volumes are writable."""
    claims = [
        {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": volume.claim}}
        for number, volume in enumerate(pods.volumes)
    ]
    spec: Manifest = {
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *claims],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 10,  # nothing is to be saved: blocks are made again, checkpoints are whole
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if pods.pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in pods.pull_secrets]
    return spec


def _container(name: str, pods: Pods) -> Manifest:
    """Return what the containers of all pods have in common; the caller owns its lists."""
    mounts = [{"name": f"volume-{number}", "mountPath": volume.path} for number, volume in enumerate(pods.volumes)]
    container: Manifest = {
        "name": name,
        "image": pods.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "HOME", "value": "/tmp"}],  # numba keeps compiled kernels there
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *mounts],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if pods.env_from:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in pods.env_from]
    return container


def _of_worker(pods: Pods) -> Manifest:
    amounts: Manifest = {"cpu": f"{pods.cpus:g}", "memory": pods.memory}
    if pods.gpus_per_worker:
        amounts["nvidia.com/gpu"] = str(pods.gpus_per_worker)  # the operator takes texts only
    return {"requests": amounts, "limits": dict(amounts)}


def _beside(pods: Pods) -> Manifest:
    """Of the scheduler and the runner: little work, and memory for some copies of the parameters."""
    return {"requests": {"cpu": "200m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": pods.beside}}


def _port(name: str, port: int) -> Manifest:
    return {"name": name, "containerPort": port, "protocol": "TCP"}


def _open(name: str, port: int) -> Manifest:
    return {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}


def _health(period: int, failures: int) -> Manifest:
    probe = {"httpGet": {"port": "http-dashboard", "path": "/health"}}
    return probe | {"periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}
