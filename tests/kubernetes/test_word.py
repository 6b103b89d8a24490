"""--cluster kubernetes and kubernetes:NAME: this process is the client, from outside."""

import pytest
from dist_dot_cluster import Pods, Volume
from dist_dot_cluster.manifests import dask_cluster
from lab import CLAIM, DEADLINE, MEMORY, bits, dist_dot, left, settings


def pod_settings(space, image, place):
    pods = (
        f"cluster.image={image}",
        "cluster.cpus=0.4",
        f"cluster.memory={MEMORY}",
        f"cluster.volumes=['{CLAIM}:{place}']",
        f"cluster.namespace={space.name}",
        "output.checkpoint_every=0",  # this machine and the pods have no folder in common
    )
    return settings(place, *pods)


def train(word, out, options):
    process = dist_dot("train", "--cluster", word, "--out", out, *options)
    output, errors = process.communicate(timeout=DEADLINE)
    print(output, errors)
    return process.returncode, errors


def test_a_cluster_is_made_for_the_run_and_deleted(space, image, place, straight, tmp_path):
    status, errors = train("kubernetes", tmp_path, pod_settings(space, image, place))
    assert status == 3 and "error:" not in errors  # Dask warns where this machine has another Python than the image
    assert bits(tmp_path) == straight
    assert left(space) == []


@pytest.fixture
def existing(space, image, place):
    pods = Pods(image, cpus=0.4, memory=MEMORY, volumes=(Volume(CLAIM, str(place)),))
    space.create(dask_cluster("existing", pods))
    yield "existing"
    space.delete("DaskCluster", "existing")
    space.wait_until_gone("existing")


def test_a_cluster_that_exists_is_used_and_stays(space, image, place, straight, tmp_path, existing):
    status, errors = train(f"kubernetes:{existing}", tmp_path, pod_settings(space, image, place))
    assert status == 3 and "error:" not in errors
    assert bits(tmp_path) == straight
    assert "DaskCluster existing" in left(space)


def test_a_cluster_that_is_not_there_is_named(space, image, place, tmp_path):
    status, errors = train("kubernetes:nobody", tmp_path, pod_settings(space, image, place))
    assert status == 2 and f"there is no DaskCluster nobody in namespace {space.name}" in errors


def test_an_image_that_is_not_there_is_named(space, place, tmp_path):
    status, errors = train("kubernetes", tmp_path, pod_settings(space, "localhost/no-such-image:1", place))
    assert status == 2 and "waited for 2 workers" in errors and "cannot be pulled" in errors
    assert left(space) == []
