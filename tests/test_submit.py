"""dist-dot submit without a cluster: what it prints, refuses and cleans up."""

import json
import sys

import dist_dot_cluster
import pytest
import yaml
from click.testing import CliRunner
from dist_dot_cluster import KubernetesError
from dist_dot_cluster.manifests import COMPONENT, RUN, owned_by
from dist_dot_cluster.namespace import Namespace
from dist_dot_cluster.submit import delete, find, follow, submit
from test_manifests import submission

from dist_dot.jobs.cli import main

JOB = """
[data]
source = "flights.parquet"
target = "arr_delay"
numeric = ["dep_delay"]

[cluster]
image = "registry.example/dist-dot:0.1.0"
volumes = ["data:/data"]
memory = "2Gi"
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "flights.toml").write_text(JOB)
    return tmp_path / "flights.toml"


def dry_run(job, *options):
    return CliRunner().invoke(main, ["submit", str(job), "--dry-run", *options])


def test_a_dry_run_prints_the_objects(job):
    done = dry_run(job, "--set", "data.source=/data/flights.parquet", "--workers", "5", "--env-from", "store")
    assert done.exit_code == 0, done.output
    objects = {each["kind"]: each for each in yaml.safe_load_all(done.output)}
    kinds = "ServiceAccount ConfigMap Job Role RoleBinding NetworkPolicy DaskCluster"
    assert list(objects) == kinds.split()
    assert len({each["metadata"]["name"] for each in objects.values()}) == 1
    assert objects["ConfigMap"]["data"]["job.toml"] == JOB
    worker = objects["DaskCluster"]["spec"]["worker"]
    assert worker["replicas"] == 5  # an option of the command line
    (runner,) = objects["Job"]["spec"]["template"]["spec"]["containers"]
    command = runner.get("command", []) + runner["args"]
    assert command[command.index("cluster.workers=5") - 1] == "--set"  # and as many are waited for
    (container,) = worker["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "2Gi"  # a key of the job file
    assert container["envFrom"] == [{"secretRef": {"name": "store"}}]  # by its name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "which pods do not see (their volumes: /data): --set data.source=..."),
        (("--set", "data.source=/data/x", "--set", "output.checkpoints=/tmp/x"), "output.checkpoints is /tmp/x"),
        (("--set", "data.source=/data/x", "--store", "/tmp/x"), "the run would be kept in /tmp/x, which goes"),
        (("--set", "data.source=/data/x", "--gpus-per-worker", "2"), "more workers for more GPUs"),
        (("--set", "data.source=/data/x", "--memory", "lots"), "memory 'lots'"),
        (
            (
                "--set",
                "data.source=s3://k:s@host/x",
            ),
            "a URL with a password",
        ),
        (("--set", "cluster.image="), "no image: give --image"),
        (("--set", "cluster.imgae=x"), "did you mean 'image'?"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(job, options, words):
    if "cluster.image=" in options:
        options = ("--set", "data.source=/data/x", *options)
    done = dry_run(job, *options)
    assert done.exit_code == 2 and words in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_without_the_packages_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kr8s", None)
    with pytest.raises(KubernetesError, match=r'pip install "dist-dot\[kubernetes\]"'):
        Namespace("lab")


def test_the_word_needs_pods():
    with (
        pytest.raises(dist_dot_cluster.ClusterWordError, match="kubernetes needs pods"),
        dist_dot_cluster.open("kubernetes"),
    ):
        pass


class Fake:
    """A namespace in memory, which refuses to make objects of one kind; the Job's dependents go with it."""

    name = "lab"

    def __init__(self, refused=None):
        self.objects, self.refused = {}, refused

    def create(self, manifest):
        if manifest["kind"] == self.refused:
            raise KubernetesError(f"no {self.refused} here")
        self.objects[manifest["kind"], manifest["metadata"]["name"]] = manifest
        return manifest | {"metadata": manifest["metadata"] | {"uid": "1"}}

    def change(self, kind, name, patch):
        self.objects[kind, name]["metadata"] |= patch["metadata"]

    def get(self, kind, name):
        return self.objects.get((kind, name), {} if kind == "PersistentVolumeClaim" else None)

    def find(self, kind, selector):
        return [each for (found, _), each in self.objects.items() if found == kind]

    def delete(self, kind, name):
        gone = {(kind, name)}
        for key, each in self.objects.items():
            owners = [(owner["kind"], owner["name"]) for owner in each["metadata"].get("ownerReferences", ())]
            gone |= {key} if set(owners) & gone else set()
        self.objects = {key: each for key, each in self.objects.items() if key not in gone}

    def wait_until_gone(self, name):
        assert not self.objects

    def troubles(self, name, pods):
        return []


def test_the_job_owns_all_and_takes_all_with_it():
    space = Fake()
    submit(space, submission())
    owners = {kind: each["metadata"].get("ownerReferences") for (kind, _), each in space.objects.items()}
    assert owners.pop("Job") is None
    assert all(owner == [{"apiVersion": "batch/v1", "kind": "Job", "name": "flights-1", "uid": "1"}]
               for owner in owners.values())  # fmt: skip
    assert find(space, "fli")["metadata"]["name"] == "flights-1"
    with pytest.raises(KubernetesError, match="no runs in namespace lab begin with 'ships'; there are: flights-1"):
        find(space, "ships")
    delete(space, "flights-1")


@pytest.mark.parametrize("kind", ["ServiceAccount", "Job", "ConfigMap", "DaskCluster"])
def test_a_run_that_cannot_be_made_whole_is_not_made(kind):
    space = Fake(refused=kind)
    with pytest.raises(KubernetesError, match=f"no {kind} here"):
        submit(space, submission())
    assert not space.objects


def ended(space, condition, message):
    """Let the run end with what its last runner has left."""
    space.objects["Job", "flights-1"]["status"] = {"conditions": [{"type": condition, "status": "True"}]}
    state = {"terminated": {"exitCode": 1, "reason": "Error", "message": message}}
    runner = {
        "kind": "Pod",
        "metadata": {"name": "flights-1-x", "labels": {RUN: "flights-1", COMPONENT: "runner"}},
        "status": {"phase": "Failed", "containerStatuses": [{"state": state}]},
    }
    space.create(owned_by(space.create(space.objects["Job", "flights-1"]), runner))


@pytest.mark.parametrize(
    ("condition", "message", "outcome"),
    [
        ("Complete", json.dumps({"status": 3, "error": ""}), (3, "")),
        ("Failed", json.dumps({"status": 2, "error": "no such column"}), (2, "no such column")),
        ("Failed", "", (1, "the last runner ended with status 1: Error")),
    ],
)
def test_the_outcome_is_what_the_last_runner_has_left(condition, message, outcome, monkeypatch):
    monkeypatch.setattr("dist_dot_cluster.submit._listen", lambda namespace, pod, log: _Done())
    space = Fake()
    submit(space, submission())
    ended(space, condition, message)
    assert follow(space, "flights-1", print, print) == outcome


class _Done:
    def join(self, timeout):
        pass


def test_an_api_server_that_is_away_for_a_while_does_not_end_the_wait(monkeypatch):
    monkeypatch.setattr("dist_dot_cluster.submit._listen", lambda namespace, pod, log: _Done())
    monkeypatch.setattr("dist_dot_cluster.submit.LOOK", 0.0)
    space, away = Fake(), [True, True]
    submit(space, submission())
    ended(space, "Complete", json.dumps({"status": 0, "error": ""}))

    def troubles(name, pods):
        if away:
            away.pop()
            raise KubernetesError("no answer")
        return []

    space.troubles = troubles
    assert follow(space, "flights-1", print, print) == (0, "")
    away[:] = [True]
    monkeypatch.setattr("dist_dot_cluster.submit.OUTAGE", -1.0)
    with pytest.raises(KubernetesError, match="no answer"):
        follow(space, "flights-1", print, print)


def test_a_run_that_somebody_deletes_ends_the_wait():
    with pytest.raises(KubernetesError, match="is gone: somebody has deleted it"):
        follow(Fake(), "flights-1", print, print)
