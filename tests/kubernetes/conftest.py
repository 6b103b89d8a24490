"""A namespace with the flights on a volume, in whatever Kubernetes KUBECONFIG names: kind does as well as a real one.

`make test-kubernetes KUBECONFIG=... IMAGE=...`. The Dask operator is installed there. Where there is no default
StorageClass, HOST_PATH names a folder of the (only) node that everyone may write.
"""

import os
import time
from uuid import uuid4

import pytest
from dist_dot_cluster import Pods, Volume
from dist_dot_cluster.namespace import Namespace
from kr8s.objects import Namespace as KubernetesNamespace
from lab import CLAIM, DEADLINE, EXAMPLES, Submitted, bits, bring, dist_dot, make_claim, settings


@pytest.fixture(scope="session", autouse=True)
def asked_for():
    missing = [name for name in ("KUBECONFIG", "IMAGE") if not os.environ.get(name)]
    if missing:
        pytest.exit(
            f"{' and '.join(missing)} missing: make test-kubernetes KUBECONFIG=/path/to/kubeconfig "
            "IMAGE=registry.example/dist-dot:0.1.0 [HOST_PATH=/folder/of/the/node]",
            returncode=2,
        )


@pytest.fixture(scope="session")
def image():
    return os.environ["IMAGE"]


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """The folder of the volume in the pods, which is a folder of this machine too: each has the flights in its own."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "flights.parquet").write_bytes((EXAMPLES / "flights.parquet").read_bytes())
    return folder


@pytest.fixture(scope="session")
def space(image, place):
    """The namespace, with the flights on its volume; gone afterwards, with all that is in it."""
    name = f"dist-dot-test-{uuid4().hex[:6]}"
    namespace = KubernetesNamespace({"metadata": {"name": name}})
    namespace.create()
    volume = None
    try:
        volume = make_claim(name)
        where = Namespace(name)
        pods = Pods(image, volumes=(Volume(CLAIM, str(place)),))
        bring(where, pods, place / "flights.parquet")
        yield where
    finally:
        namespace.delete()
        if volume is not None:
            volume.delete()
        deadline = time.monotonic() + 120
        while namespace.exists():
            assert time.monotonic() < deadline, f"namespace {name} is still there"
            time.sleep(0.5)


@pytest.fixture(scope="session")
def straight(place, tmp_path_factory):
    """The bits of the model when the job runs in this process and nothing disturbs it."""
    folder = tmp_path_factory.mktemp("straight")
    done = dist_dot("train", "--cluster", "none", "--out", folder, *settings(place)).communicate(timeout=DEADLINE)
    assert (folder / "model.safetensors").exists(), done
    return bits(folder)


@pytest.fixture
def submit(space, image, place, tmp_path):
    """Submit the flights job and wait for it in the background; whatever happens, nothing is left."""
    started = []

    def start(*options, image=image):
        print()
        started.append(Submitted(space, image, place, tmp_path / "model", *options))
        return started[-1]

    yield start
    for run in started:
        run.process.kill()
        run.process.communicate()
        if space.left(run.name):
            space.delete("Job", run.name)
            space.wait_until_gone(run.name)
