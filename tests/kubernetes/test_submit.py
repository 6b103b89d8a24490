"""Runs on Kubernetes, with real pods: undisturbed, disturbed, and made wrong."""

import json

import pytest
from kr8s.objects import new_class
from lab import bits, dist_dot, left

ROUND = "round "


def test_the_model_has_the_bits_of_a_local_run(submit, space, straight):
    run = submit()
    assert run.ends() == (3, "")
    assert bits(run.out) == straight
    assert json.loads((run.out / "report.json").read_text())["where"].endswith("2 workers")
    assert left(space) == []


def test_a_worker_pod_may_go(submit, space, straight):
    run = submit()
    run.hears(ROUND)
    run.kill("worker")
    assert run.ends() == (3, "")
    assert bits(run.out) == straight
    assert left(space) == []


def test_the_runner_pod_may_go(submit, space, straight):
    run = submit()
    run.hears(ROUND)
    run.kill("runner", grace=30)
    run.hears("runner 2")
    assert run.ends() == (3, "")
    assert bits(run.out) == straight
    assert left(space) == []


def test_the_runner_may_be_lost_without_a_word(submit, space, straight):
    run = submit()
    run.hears(ROUND)
    run.kill_program()
    run.hears("runner 2")
    assert run.ends() == (3, "")
    first, second = (line.split()[1] for line in run.said if "--cluster tcp" in line)
    assert first == second  # the run went on, and the new runner has found it
    assert bits(run.out) == straight
    assert left(space) == []


def test_the_scheduler_pod_may_go(submit, space, straight):
    run = submit()
    run.hears(ROUND)
    run.hears(ROUND)  # a checkpoint or more have been written
    run.kill("scheduler")
    run.hears("runner 2")
    assert run.ends() == (3, "")
    assert bits(run.out) == straight
    assert left(space) == []


def test_workers_may_come(submit, space, straight):
    run = submit("--workers", "1")
    run.hears(ROUND)
    cluster = new_class("DaskCluster", "kubernetes.dask.org/v1", asyncio=False)(run.name, namespace=space.name)
    cluster.patch({"spec": {"worker": {"replicas": 3}}})
    assert run.ends() == (3, "")
    assert bits(run.out) == straight
    assert json.loads((run.out / "report.json").read_text())["where"].endswith("3 workers")
    assert left(space) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("localhost/no-such-image:1", "image localhost/no-such-image:1 cannot be pulled"),
        ("No Image", "'No Image' is no image name"),
    ],
)
def test_a_wrong_image_is_named_and_leaves_nothing(submit, space, name, words):
    run = submit(image=name)
    status, errors = run.ends()
    assert status == 2 and words in errors and errors.count("\n") == 1
    assert run.seconds < 120
    assert left(space) == []


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--set", "data.numeric=['dep_delai']"), 2, "unknown column 'dep_delai' in [data] numeric: did you mean"),
        (("--memory", "30Mi"), 2, "more memory than its limit of 30Mi: give it more"),  # the kernel kills it
        (("--memory", "120Mi"), 2, "more memory than its limit of 120 MiB allows"),  # Dask pauses it
        (("--memory", "300Mi"), 1, "use more workers, workers with more memory"),  # it runs, but the rows do not fit
    ],
    ids=["column", "memory-kill", "memory-pause", "memory-rows"],
)
def test_a_mistake_that_the_pods_find_is_named_and_leaves_nothing(submit, space, options, status, words):
    run = submit(*options)
    found, errors = run.ends()
    assert found == status and words in errors and errors.count("\n") == 1
    assert run.seconds < 120
    assert left(space) == []


def test_a_mistake_in_the_job_file_makes_nothing(space):
    process = dist_dot("submit", "--namespace", space.name, "--image", "any", "--set", "model.los=squared")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "unknown key 'los' in [model]: did you mean 'loss'?" in errors
    assert left(space) == []


def test_pending_pods_are_named_and_a_run_can_be_found_and_cancelled(submit, space):
    run = submit("--cpus", "1000")
    assert "worker pod" in run.hears("Insufficient cpu")
    listed = dist_dot("attach", "--cluster", "kubernetes", "--namespace", space.name)
    assert run.name in listed.communicate(timeout=60)[0]
    cancelled = dist_dot("attach", run.name[:-2], "--cancel", "--cluster", "kubernetes", "--namespace", space.name)
    assert "is deleted" in cancelled.communicate(timeout=120)[0]
    assert left(space) == []
    status, errors = run.ends()
    assert status == 2 and "somebody has deleted it" in errors
