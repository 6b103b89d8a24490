"""What Kubernetes says of pods, in words; the runner in its pod. No cluster."""

import json
import signal
import socket
import sys

import pytest
from dist_dot_cluster import runner
from dist_dot_cluster.pod_diagnosis import KILLS, MADE, PLACED, RETRIED, Watch, troubles, without_scheduler
from dist_dot_cluster.runner import Cluster, Outcome


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
        (waiting("CrashLoopBackOff", restarts=KILLS, last=KILLED), "killed again and again for using more memory", 0.0),
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


def test_a_cluster_that_the_operator_does_not_make_is_named():
    assert without_scheduler("x", [pod(component="scheduler")]) == []
    found, watch = without_scheduler("x", [pod()]), Watch()
    assert watch.look(found, 0.0) == ([], None)  # it may be about to
    (words,), over = watch.look(found, MADE)
    assert "does the Dask operator run" in words and over is None
    assert watch.look(found, 4 * RETRIED)[1] == words


def cluster(status="running", held=0, scheduler="s", name="w"):
    metrics = {"managed_bytes": held}
    return Cluster(scheduler, {name: {"name": name, "status": status, "memory_limit": 2**20, "metrics": metrics}})


@pytest.fixture
def seen(monkeypatch):
    """What the runner sees when it looks, one after the other, and the last one for ever."""
    looks = [cluster()]
    monkeypatch.setattr(runner, "look", lambda scheduler: looks.pop(0) if len(looks) > 1 else looks[0])
    monkeypatch.setattr(runner, "LOOK", 0.0)
    yield looks
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run(code):
    return runner.run([sys.executable, "-c", f"import sys; {code}"], "tcp://127.0.0.1:1", 1)


def test_the_runner_hands_on_the_status_and_the_last_error(seen):
    assert run("sys.exit(3)") == Outcome(3)
    assert run("print('warning: x', file=sys.stderr); sys.exit(2)") == Outcome(2, "warning: x")
    assert run("print('x'); print('error: no such column', file=sys.stderr); sys.exit(2)") == Outcome(
        2, "no such column"
    )


@pytest.mark.parametrize(
    ("after", "retry"),
    [
        (cluster(), False),  # nothing was lost: the same would happen again
        (cluster(scheduler="t"), True),
        (cluster(name="v"), True),
        (None, True),
    ],
    ids=["same", "scheduler", "worker", "nobody"],
)
def test_a_failure_is_retried_where_something_was_lost(seen, after, retry):
    seen[:] = [cluster(), after]
    assert run("sys.exit('error: oh')") == Outcome(1, "oh", retry)
    seen[:] = [cluster(), after]
    assert run("sys.exit(2)") == Outcome(1 if retry else 2, "ended with status 2", retry)


def test_a_command_that_is_killed_is_retried(seen):
    assert run("import os; os.kill(os.getpid(), 9)") == Outcome(1, "ended with status -9", retry=True)


def test_workers_that_are_paused_before_they_hold_anything_are_a_mistake(seen, monkeypatch):
    monkeypatch.setattr(runner, "PAUSED", 0.0)
    seen[:] = [None, cluster("paused")]
    outcome = runner.wait_for_workers("", 1, [])
    assert outcome.status == 2 and "its limit of 1 MiB" in outcome.error and not outcome.retry
    seen[:] = [cluster("paused", held=1)]
    assert runner.wait_for_workers("", 1, []) == cluster("paused", held=1)  # of a run that goes on, which it serves


def test_a_command_whose_workers_are_all_paused_is_ended(seen, monkeypatch):
    monkeypatch.setattr(runner, "PAUSED", 0.0)
    monkeypatch.setattr(runner, "GLANCE", 0.05)
    seen[:] = [cluster(), cluster(), cluster("paused")]
    outcome = run("import time; time.sleep(60)")
    assert outcome.status == 2 and "its limit of 1 MiB allows" in outcome.error and not outcome.retry
    seen[:] = [cluster(), cluster("paused", held=1)]
    assert run("import time; time.sleep(0.5); sys.exit(3)") == Outcome(3)


def test_the_wait_for_workers_ends(seen, monkeypatch):
    monkeypatch.setattr(runner, "PATIENCE", 0.0)
    seen[:] = [None]
    words = "waited for the scheduler at tcp://s:8786 and 2 workers: 0 have come"
    assert runner.wait_for_workers("tcp://s:8786", 2, []) == Outcome(1, words, retry=True)


def test_nobody_answers_where_nobody_is():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert runner.look(f"tcp://127.0.0.1:{port}") is None


def test_the_folder_is_copied_to_a_store(tmp_path):
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "run" / "model.json").write_text(json.dumps({}))
    runner.copy(str(tmp_path / "run"), f"file://{tmp_path}/store/run")
    assert [file.name for file in (tmp_path / "store" / "run").iterdir()] == ["model.json"]
