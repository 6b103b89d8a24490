"""What Kubernetes says of pods, in words; the runner in its pod. No cluster."""

import json
import sys

import pytest

from cluster import runner
from cluster.trouble import KILLS, PLACED, RETRIED, Watch, troubles


def pod(name="x-1", component="worker", phase="Pending", limit="1Gi", conditions=(), **container):
    state = {"name": component, "image": "a/b:1", "state": {}, "restartCount": 0} | container
    return {
        "metadata": {"name": name, "labels": {"dask.org/component": component}},
        "spec": {"containers": [{"name": component, "resources": {"limits": {"memory": limit}}}]},
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": [state]},
    }


def waiting(reason, message="", restarts=0, last=None):
    ended = {"lastState": {"terminated": last}} if last else {}
    return pod(state={"waiting": {"reason": reason, "message": message}}, restartCount=restarts, **ended)


KILLED = {"reason": "OOMKilled", "exitCode": 137}
UNPLACED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
QUOTA = {
    "type": "Warning",
    "reason": "FailedCreate",
    "message": "exceeded quota: small",
    "involvedObject": {"kind": "ReplicaSet", "name": "x-2"},
}


@pytest.mark.parametrize(
    ("found", "words", "patience"),
    [
        (pod(conditions=[UNPLACED]), "worker pod x-1 is pending: Insufficient cpu", PLACED),
        (waiting("ErrImagePull", "not found"), "image a/b:1 cannot be pulled: not found", RETRIED),
        (waiting("InvalidImageName", "couldn't parse"), "'a/b:1' is no image name: couldn't parse", 0.0),
        (waiting("CreateContainerConfigError", 'secret "s" not found'), 'secret "s" not found', RETRIED),
        (waiting("CrashLoopBackOff", restarts=KILLS, last=KILLED), f"killed {KILLS} times for using more memory", 0.0),
        (waiting("CrashLoopBackOff", restarts=1, last=KILLED), "its limit of 1Gi", float("inf")),
        (waiting("CrashLoopBackOff", restarts=KILLS, last={"exitCode": 127}), "with status 127", RETRIED),
    ],
)
def test_the_reason_of_a_pod_that_does_not_run(found, words, patience):
    (trouble,) = troubles([found], [])
    assert words in trouble.words and trouble.patience == patience


def test_pods_that_run_are_no_trouble_and_pods_that_are_not_even_made_are():
    assert troubles([pod(phase="Running", state={"running": {}})], []) == []
    (trouble,) = troubles([], [QUOTA])
    assert trouble.words == "ReplicaSet x-2: FailedCreate: exceeded quota: small"
    assert troubles([], [QUOTA | {"reason": "Unhealthy"}]) == []


def test_a_trouble_is_said_once_and_ends_the_wait_when_it_lasts():
    watch = Watch()
    error, backing_off = waiting("ErrImagePull", "not found"), waiting("ImagePullBackOff", "Back-off pulling image")
    assert watch.look(troubles([backing_off], []), 0.0) == (["worker pod x-1: image a/b:1 cannot be pulled: Back-off "
                                                             "pulling image"], None)  # fmt: skip
    news, over = watch.look(troubles([error], []), 1.0)
    assert "not found" in news[0] and over is None  # the reason, once the kubelet gives it
    assert watch.look(troubles([backing_off], []), RETRIED - 1) == ([], None)
    assert "not found" in watch.look(troubles([backing_off], []), RETRIED)[1]
    assert watch.look([], RETRIED + 1) == ([], None)
    assert watch.look(troubles([error], []), RETRIED + 2)[1] is None  # it had got better: the clock starts again


@pytest.fixture
def listening(monkeypatch):
    monkeypatch.setattr(runner, "answers", lambda scheduler: True)
    monkeypatch.setattr(runner, "workers_at", lambda scheduler: [worker()])


def worker(status="running", held=0):
    return {"name": "w", "status": status, "memory_limit": 2**20, "metrics": {"managed_bytes": held}}


def run(code):
    return runner.run([sys.executable, "-c", f"import sys; {code}"], "tcp://127.0.0.1:1", 1)


def test_the_runner_hands_on_the_status_and_the_last_error(listening):
    assert run("sys.exit(3)") == (3, "")
    assert run("print('warning: x', file=sys.stderr); sys.exit('error: no such column')") == (1, "no such column")
    assert run("import os; os.kill(os.getpid(), 9)") == (1, "")


def test_a_mistake_is_none_when_the_scheduler_has_gone_meanwhile(listening, monkeypatch):
    assert run("sys.exit(2)")[0] == 2
    monkeypatch.setattr(runner, "answers", lambda scheduler: False)
    assert run("sys.exit(2)")[0] == 1


def test_workers_that_are_paused_before_they_hold_anything_are_a_mistake(monkeypatch):
    monkeypatch.setattr(runner, "PAUSED", 0.0)
    monkeypatch.setattr(runner, "workers_at", lambda scheduler: [worker("paused")])
    status, error = runner.wait_for_workers("", 1, [])
    assert status == 2 and "its limit of 1 MiB" in error
    monkeypatch.setattr(runner, "workers_at", lambda scheduler: [worker("paused", held=1)])
    assert runner.wait_for_workers("", 1, []) is None  # it holds rows of a run that goes on, and serves it


def test_the_wait_for_workers_ends(monkeypatch):
    monkeypatch.setattr(runner, "PATIENCE", 0.0)
    monkeypatch.setattr(runner, "workers_at", lambda scheduler: [])
    status, error = runner.wait_for_workers("tcp://s:8786", 2, [])
    assert status == 1 and error == "waited for the scheduler at tcp://s:8786 and 2 workers: 0 have come"


def test_the_folder_is_copied_to_a_store(tmp_path):
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "run" / "model.json").write_text(json.dumps({}))
    runner.copy(str(tmp_path / "run"), f"file://{tmp_path}/store/run")
    assert [file.name for file in (tmp_path / "store" / "run").iterdir()] == ["model.json"]
