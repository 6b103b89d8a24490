"""What the tests do to a namespace: bring the data, submit runs, delete pods under them."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from dist_dot_cluster.manifests import reader_pod
from dist_dot_cluster.namespace import MADE
from kr8s.objects import PersistentVolume, PersistentVolumeClaim, Pod

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAM = Path(sys.executable).with_name("dist-dot")
CLAIM = "data"
STEPS = 300
# Of a worker. It takes 0.5 GiB before it holds rows: imports, and the compiled kernels. In 1 GiB the one that is left
# after a death spilled all 64 blocks, and a round took ten times as long.
MEMORY = "2Gi"
LONG = ("solver.tol=0", f"solver.max_iter={STEPS}", "output.checkpoint_every=10")
DEADLINE = 280.0


def make_claim(namespace):
    """Make the claim; return the volume where the cluster does not make one itself."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    volume = None
    if path := os.environ.get("HOST_PATH"):
        amount = {"capacity": {"storage": "1Gi"}, "accessModes": spec["accessModes"], "storageClassName": ""}
        volume = PersistentVolume({"metadata": {"name": namespace}, "spec": amount | {"hostPath": {"path": path}}})
        volume.create()
        spec |= {"storageClassName": "", "volumeName": namespace}
    PersistentVolumeClaim({"metadata": {"name": CLAIM}, "spec": spec}, namespace=namespace).create()
    return volume


RECEIVE = """
import os, socket, sys
os.umask(0)
with socket.create_server(("", 9000)) as server:
    print("listening", flush=True)
    with server.accept()[0] as sender, open(sys.argv[1], "wb") as file:
        while part := sender.recv(1 << 20):
            file.write(part)
print("received", flush=True)
"""


KILL = """
import os, pathlib, signal
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    words = (entry / "cmdline").read_text().split("\\0")
    if "train" in words and "dist_dot_cluster.runner" not in words:
        os.kill(int(entry.name), signal.SIGKILL)
"""


def bring(where, pods, file):
    """Copy a file to the volume, through a pod that listens: port forwarding needs no more than the runs need."""
    manifest = reader_pod("bring", pods)
    manifest["spec"]["containers"][0]["args"] = ["python", "-c", RECEIVE, str(file)]
    where.create(manifest)
    name = manifest["metadata"]["name"]
    where.wait_for("a pod that takes the data", "bring", lambda found: running(found, 1), 120)
    log = where.log(name)
    assert next(log) == "listening"
    with Pod(name, namespace=where.name).portforward(9000) as port, socket.create_connection(("127.0.0.1", port)) as to:
        to.sendall(file.read_bytes())
        to.shutdown(socket.SHUT_WR)
        assert next(log) == "received"
    where.delete("Pod", name)
    where.wait_until_gone("bring")


def running(pods, count):
    return sum(pod["status"]["phase"] == "Running" for pod in pods) >= count


def settings(place, *others):
    changes = (f"data.source={place / 'flights.parquet'}", *LONG, *others)
    return [word for change in changes for word in ("--set", change)]


def bits(folder):
    return (folder / "model.safetensors").read_bytes()


def dist_dot(command, *arguments):
    """Start the program on the flights job."""
    job = [EXAMPLES / "flights.toml"] if command in ("train", "submit") else []
    return subprocess.Popen(
        [PROGRAM, command, *map(str, [*job, *arguments])],
        env=os.environ | {"PYTHONWARNINGS": "ignore:Kubernetes version:UserWarning"},  # kr8s, of an old one
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Submitted:
    """A run that was submitted with --wait, while it goes on."""

    def __init__(self, space, image, place, out, *options):
        self.space, self.out = space, out
        small = ("--cpus", "0.4", "--memory", MEMORY, "--namespace", space.name, "--volume", f"{CLAIM}:{place}")
        self.begin = time.monotonic()
        self.process = dist_dot("submit", "--wait", "--out", out, "--image", image, *small, *settings(place), *options)
        self.said = []
        self.name = self.hears("dist-dot attach").split()[1].rstrip(":")

    def hears(self, words):
        """Read what it prints until it has said these words; return the line."""
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            print(f"{time.monotonic() - self.begin:6.1f} s  {line.rstrip()}", flush=True)
            if words in line:
                return line
        raise AssertionError(f"never said {words!r}: {self.process.stderr.read()}")

    def pods(self, component):
        """The pods of a scheduler, a worker or a runner that are there now, not those that are about to go."""
        found = self.space.find("Pod", {"app.kubernetes.io/instance": self.name})
        return [
            pod["metadata"]["name"]
            for pod in found
            if component in (pod["metadata"]["labels"].get("app.kubernetes.io/component"),
                             pod["metadata"]["labels"].get("dask.org/component"))
            and "deletionTimestamp" not in pod["metadata"]
        ]  # fmt: skip

    def kill(self, component, grace=0):
        """Delete a pod as the loss of its node would: without time to say goodbye, unless there is grace."""
        name = self.pods(component)[0]
        pod = Pod(name, namespace=self.space.name)
        pod.delete(**({"grace_period": grace} if grace else {"force": True}))
        print(f"{time.monotonic() - self.begin:6.1f} s  -- pod {name} is deleted", flush=True)

    def kill_program(self):
        """Kill what the runner runs, with no time to say goodbye: the loop beside the scheduler knows nothing of it."""
        (name,) = self.pods("runner")
        self.space.output_of(name, ["python", "-c", KILL])
        print(f"{time.monotonic() - self.begin:6.1f} s  -- the program of {name} is killed", flush=True)

    def ends(self):
        """Wait for its end; return its exit status and what it wrote as an error."""
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            print(f"{time.monotonic() - self.begin:6.1f} s  {line.rstrip()}", flush=True)
        status, errors = self.process.wait(), self.process.stderr.read()
        self.seconds = time.monotonic() - self.begin
        print(f"{self.seconds:6.1f} s  -- exit status {status} {errors.strip()}", flush=True)
        return status, errors


def left(space):
    """Everything in the namespace but what was there before."""
    always = ("ConfigMap kube-root-ca.crt", "ServiceAccount default")
    found = [f"{kind} {each['metadata']['name']}" for kind in MADE for each in space.find(kind, {})]
    return [each for each in found if each not in always]
