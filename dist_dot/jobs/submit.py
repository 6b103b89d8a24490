"""The command line on Kubernetes: dist-dot submit, and attach to what was submitted."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import click
from dist_dot_cluster.errors import PodsError
from dist_dot_cluster.manifests import STORE, Pods, Volume, run_name, to_yaml
from dist_dot_cluster.namespace import Namespace
from dist_dot_cluster.submit import Submission, delete, fetch, find, follow, state, submit, submitted
from rich.console import Console

from dist_dot.errors import JobError
from dist_dot.jobs.console import plain
from dist_dot.jobs.job import Cluster, Job
from dist_dot.jobs.words import shown, without_queries

WORD = "kubernetes"
DONE = (0, 3)  # exit statuses of `dist-dot train` that leave a model


def pods_of_job(cluster: Cluster, workers: int = 2) -> Pods:
    """Return what [cluster] says of pods. Raises KubernetesError for what makes none."""
    return Pods(
        image=cluster.image or "",
        workers=workers if cluster.workers is None else cluster.workers,
        cpus=cluster.cpus,
        memory=cluster.memory,
        gpus_per_worker=cluster.gpus_per_worker,
        volumes=tuple(Volume.parse(text) for text in cluster.volumes),
        env_from=cluster.env_from,
        pull_secrets=cluster.pull_secrets,
        operator_namespace=cluster.operator_namespace,
    )


def plan_submission(
    path: Path, job: Job, settings: Sequence[str], namespace: str, store: str | None, retries: int
) -> Submission:
    """Return what submitting the job of this file and these settings makes.

    Raises JobError for paths that pods do not see, and KubernetesError for pods that cannot be.
    """
    pods = pods_of_job(job.cluster)
    name = run_name(path.stem)
    if store is None:
        store = f"{pods.volumes[0].path}/{name}" if pods.volumes else ""
    _check_seen(job, pods)
    # As many as there will be: the program in the pod waits for the workers that the job names.
    changes = (*settings, f"cluster.workers={pods.workers}")
    if pods.gpus_per_worker and job.data.device == "auto":
        changes += ("data.device=cuda",)  # to the program there, the cluster is an address
    return Submission(name, namespace, pods, path.read_text(encoding="utf-8"), store, changes, retries)


def _check_seen(job: Job, pods: Pods) -> None:
    """Raise JobError for what is neither on a volume of the pods nor a URL."""
    for key, place in (("data.source", job.data.source), ("output.checkpoints", job.output.checkpoints)):
        if place is None or "://" in place:
            continue
        if not any(PurePosixPath(place).is_relative_to(volume.path) for volume in pods.volumes):
            there = ", ".join(volume.path for volume in pods.volumes) or "none"
            raise JobError(f"{key} is {place}, which pods do not see (their volumes: {there}): --set {key}=... to a "
                           "path on a volume, or to a URL")  # fmt: skip


def print_plan(submission: Submission) -> None:
    """Print the objects that would be made, without the queries of URLs. All but the Job are then owned by the Job."""
    public = replace(
        submission,
        job_file=without_queries(submission.job_file),
        store=without_queries(submission.store),
        settings=tuple(map(without_queries, submission.settings)),
    )
    click.echo(to_yaml(public.manifests()), nl=False)


def start(namespace: Namespace, submission: Submission) -> None:
    """Make the run, and say how to find it again."""
    submit(namespace, submission)
    click.echo(f"run {submission.name}: dist-dot attach {submission.name} --cluster kubernetes "
               f"--namespace {submission.namespace}")  # fmt: skip


def wait(namespace: Namespace, name: str, folder: Path) -> tuple[int, str]:
    """Follow a run to its end, fetch its folder, delete what was made; return its exit status and its error."""
    job = find(namespace, name)
    name = job["metadata"]["name"]
    try:
        status, error = follow(namespace, name, say=lambda words: click.echo(f"[{name}] {words}"), log=click.echo)
    except PodsError:
        delete(namespace, name)
        raise
    if status in DONE:
        fetch(namespace, job, folder)
        click.echo(f"model: {shown(folder)}")
    delete(namespace, name)
    return status, error


def attach(namespace: Namespace, name: str | None, folder: str | None, cancel: bool) -> tuple[int, str]:
    """List the runs of a namespace, follow one, or delete it with all that was made for it."""
    if name is None:
        show_submitted(Console(), namespace)
        return 0, ""
    run = str(find(namespace, name)["metadata"]["name"])
    if cancel:
        delete(namespace, run)
        click.echo(f"run {run} is deleted")
        return 0, ""
    return wait(namespace, run, Path(folder or f"runs/{run}"))


def show_submitted(console: Console, namespace: Namespace) -> None:
    """Print the runs of a namespace: of each a line, and one of where it is kept, for that may be long."""
    jobs = submitted(namespace)
    if not jobs:
        console.print(plain(f"no runs in namespace {namespace.name}"))
        return
    names = [job["metadata"]["name"] for job in jobs]
    width = max(map(len, names))
    console.print(plain(f"{'run':{width}}  {'state':7}  submitted (UTC)", "bold"), soft_wrap=True)
    for name, job in zip(names, jobs, strict=True):
        meta = job["metadata"]
        store = meta.get("annotations", {}).get(STORE, "")
        line = f"{name:{width}}  {state(job):7}  {meta['creationTimestamp'][5:16]}"
        console.print(plain(line), soft_wrap=True)
        console.print(plain(f"  kept in {store}"), soft_wrap=True)
