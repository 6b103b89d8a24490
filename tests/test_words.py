"""From a word to a cluster: what each word starts, and what is said where it cannot."""

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import dask
import dask.array as da
import dist_dot_cluster
import pytest
import trustme
from dist_dot_cluster import ClusterWordError
from dist_dot_cluster.local import GIB, SMALLEST, sizes
from distributed import LocalCluster, Security
from remote import remote
from test_jobs import JOB, make_table

from dist_dot import Ridge
from dist_dot.jobs.cli import _place
from dist_dot.jobs.job import Cluster


def refused(word, **options):
    """Return why a word yields no cluster."""
    with pytest.raises(ClusterWordError) as error, dist_dot_cluster.open(word, **options):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def test_unknown_words_are_named():
    for word in ("lokal", "local:", "local:none", "local:0", "cuda:2", "none:1", "tcp:host", "gopher://host:70"):
        assert f"unknown cluster {word!r}: give 'none'" in refused(word)
    assert "tcp://host is no address" in refused("tcp://host")
    assert "the cluster 'local' uses none" in refused("local", security=Security())


def test_none_is_this_process():
    with dist_dot_cluster.open("none") as client:
        assert client is None


@pytest.mark.parametrize(
    ("workers", "threads", "processors", "memory", "expected"),
    [
        (None, 1, 8, 64 * GIB, (8, 57.6 / 8)),  # a tenth is left
        (None, 3, 8, 64 * GIB, (2, 57.6 / 2)),  # two times three threads fit eight processors
        (None, 16, 8, 64 * GIB, (1, 57.6)),
        (None, 1, 64, 8 * GIB, (7, 1.0)),  # a gibibyte is left, and one each
        (None, 1, 4, 1 * GIB, (1, 0.5)),  # never more than half
        (3, 4, 2, 8 * GIB, (3, 7 / 3)),  # a number that is given counts
    ],
)
def test_sizes_of_local_workers(workers, threads, processors, memory, expected):
    count, each = sizes(workers, threads, processors, memory)
    assert count == expected[0] and each == pytest.approx(expected[1] * GIB, abs=1)


def test_more_workers_than_the_memory_holds_are_refused():
    assert sizes(17, 1, 2, 8 * GIB)[1] > SMALLEST
    with pytest.raises(
        ClusterWordError, match="18 local workers would have .* each, and need .*: this machine holds 17"
    ):
        sizes(18, 1, 2, 8 * GIB)


LOCAL = """
import os
import dist_dot_cluster

def look():
    import scipy.linalg
    from threadpoolctl import threadpool_info
    threads = {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}
    return threads, os.environ.get("MALLOC_TRIM_THRESHOLD_"), os.environ["MKL_NUM_THREADS"]

if __name__ == "__main__":
    with dist_dot_cluster.open("local:1") as client:
        print(*client.run(look).values())
"""


def test_local_workers_have_one_blas_thread_and_keep_their_memory(tmp_path):
    # A process of its own: a nanny leaves its variables in the environment of the process that starts workers.
    (tmp_path / "script.py").write_text(LOCAL)
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("_NUM_THREADS", "_"))}
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "({1}, None, '1')", done.stderr


def test_cuda_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    assert "'cuda' needs dask-cuda" in refused("cuda") and "pip install 'dask-cuda[cu12]'" in refused("cuda")

    def no_driver(**options):
        raise RuntimeError("NVML Shared Library Not Found")

    monkeypatch.setitem(sys.modules, "dask_cuda", type(sys)("dask_cuda"))
    monkeypatch.setattr(sys.modules["dask_cuda"], "LocalCUDACluster", no_driver, raising=False)
    assert "finds no GPU to work on (RuntimeError: NVML Shared Library Not Found)" in refused("cuda")


# A scheduler at an address.


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A scheduler without workers."""
    with remote(tmp_path_factory.mktemp("empty"), 0) as started:
        yield started


def test_an_address_waits_for_workers_and_says_so(empty, notices, monkeypatch):
    monkeypatch.setattr("dist_dot_cluster.address.SPEAK", 0.1)
    words = refused(empty.address, patience=0.5)
    assert f"waited 0 s: the scheduler at {empty.address} has no workers; start some, as by `dask worker" in words
    assert f"the scheduler at {empty.address} has no workers; waiting up to 0 s" in notices
    assert "has 0 of 2 workers" in refused(empty.address, workers=2, patience=0.1)
    with dist_dot_cluster.open(empty.address, workers=0) as client:
        assert not client.scheduler_info()["workers"]
        assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0  # the wish is taken back


def test_a_worker_that_comes_late_is_waited_for(empty):
    late = threading.Timer(0.5, empty.start_worker)
    late.start()
    begin = time.monotonic()
    with dist_dot_cluster.open(empty.address) as client:
        assert client.submit(sum, (1, 2)).result(30) == 3 and time.monotonic() - begin > 0.5
    late.join()


def test_a_cluster_that_adapts_starts_its_first_worker():
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address=":0") as adaptive:
        adaptive.adapt(minimum=0, maximum=1, interval="100 ms")
        with dist_dot_cluster.open(adaptive.scheduler_address, patience=30) as client:
            assert len(client.scheduler_info()["workers"]) == 1


# TLS.


class Files:
    """Certificates that one CA has signed."""

    def __init__(self, folder, name):
        self.ca, self.cert, self.key = (str(folder / f"{name}-{what}.pem") for what in ("ca", "cert", "key"))
        ca = trustme.CA()
        issued = ca.issue_cert("127.0.0.1")
        ca.cert_pem.write_to_path(self.ca)
        issued.private_key_pem.write_to_path(self.key)
        issued.cert_chain_pems[0].write_to_path(self.cert)

    @property
    def options(self):
        return ("--tls-ca-file", self.ca, "--tls-cert", self.cert, "--tls-key", self.key)

    @property
    def security(self):
        return dist_dot_cluster.certificates(self.ca, self.cert, self.key)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def other_files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("theirs"), "theirs")


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory, files):
    """A scheduler and two workers that speak TLS only."""
    with remote(tmp_path_factory.mktemp("encrypted"), 2, "--protocol", "tls", tls=files.options) as started:
        assert started.address.startswith("tls://127.0.0.1:")
        yield started


def test_a_fit_and_its_rounds_on_a_tls_cluster(encrypted, files, rows):
    X, y = rows
    fit = Ridge(solver="gradient_descent").fit

    def connections(dask_scheduler):
        """Return the class and the cipher of every connection of the scheduler's to a worker's listener."""
        pools = dask_scheduler.rpc.available, dask_scheduler.rpc.occupied
        comms = [comm for pool in pools for who in dask_scheduler.workers for comm in pool.get(who, ())]
        return [(type(comm).__name__, comm.extra_info.get("cipher", [None])[0]) for comm in comms]

    with dist_dot_cluster.open(encrypted.address, workers=2, security=files.security) as client:
        before = client.run_on_scheduler(connections)
        there = fit(da.from_array(X, chunks=(100, 7)), da.from_array(y, chunks=100))
        after = client.run_on_scheduler(connections)
        listeners = client.run(lambda dask_worker: [listener.contact_address for listener in dask_worker.listeners])
        addresses = list(client.scheduler_info()["workers"])
    assert there.fit_.where == "a Dask cluster of 2 workers" and there.fit_.rounds > 10
    assert there.coef_.tobytes() == fit(X, y).coef_.tobytes()
    # The scheduler asks for a round over its pool of connections to the workers' listeners: all of either are TLS.
    assert len(after) >= 2 and len(after) >= len(before)
    assert {kind for kind, _ in after} == {"TLS"} and all(cipher for _, cipher in after)
    assert all(address.startswith("tls://") for each in listeners.values() for address in each)
    # And a listener understands nothing else: no answer to what a worker without TLS would answer at once.
    for address in addresses:
        with socket.create_connection(place(address), 5) as plain:
            plain.settimeout(0.5)
            with pytest.raises(TimeoutError):
                plain.recv(1)
            plain.settimeout(5)
            plain.sendall(b"\x01" + bytes(63))
            assert alert_or_end(plain)


def place(address):
    host, _, port = address.partition("://")[2].rpartition(":")
    return host, int(port)


def alert_or_end(plain):
    """Return whether the other side has ended the connection, at most with a TLS alert."""
    try:
        return plain.recv(100)[:1] in (b"", b"\x15")
    except ConnectionResetError:
        return True


def test_a_client_without_a_certificate_is_refused(encrypted, files):
    context = ssl.create_default_context(cafile=files.ca)
    context.check_hostname = False
    with (
        socket.create_connection(place(encrypted.address), 5) as connection,
        context.wrap_socket(connection) as bare,
        pytest.raises(ssl.SSLError, match="certificate required"),
    ):
        bare.recv(1)
    assert "needs two certificates, the CA's and the client's; there are none" in refused(encrypted.address)
    assert "give --tls-ca-file, --tls-cert and --tls-key" in refused(encrypted.address)


def test_certificates_that_do_not_fit_are_named(encrypted, empty, files, other_files):
    address = encrypted.address
    begin = time.monotonic()
    words = refused(address, security=other_files.security)
    assert f"the certificate of the scheduler at {address} does not fit the CA of {other_files.ca}" in words
    words = refused(address, security=dist_dot_cluster.certificates(files.ca, other_files.cert, other_files.key))
    assert f"refuses the certificate {other_files.cert} (tlsv1 alert unknown ca)" in words
    texts = (Path(file).read_text() for file in (other_files.ca, other_files.cert, other_files.key))
    assert "does not fit the CA of the certificate given as text: " in refused(
        address, security=dist_dot_cluster.certificates(*texts)
    )
    plain = address.replace("tls", "tcp")
    assert f"what listens at {plain} speaks TLS: write {address}" in refused(plain)
    words = refused(empty.address.replace("tcp", "tls"), security=files.security)
    assert f"speaks no TLS: write {empty.address}" in words
    assert "is not encrypted: write tls://" in refused(empty.address, security=files.security)
    assert time.monotonic() - begin < 10  # Dask's own client would try each of them for 30 s


def test_certificates_that_cannot_be_used_are_named(tmp_path, files, other_files):
    (tmp_path / "text.pem").write_text("no certificate")
    (tmp_path / "both.pem").write_text("".join(Path(file).read_text() for file in (files.cert, files.key)))
    text = str(tmp_path / "text.pem")
    for arguments, words in (
        ((files.ca, None), "the client's is missing"),
        ((None, files.cert), "the CA's is missing"),
        ((files.ca, "nowhere.pem"), "there is no file nowhere.pem"),
        ((text, files.cert, files.key), f"{text} holds no certificate in PEM format"),
        ((files.ca, text, files.key), f"{text} and its key {files.key} cannot be read in PEM format"),
        ((files.ca, files.cert), f"{files.cert} and its key cannot be read"),
        ((files.ca, files.cert, other_files.key), f"{other_files.key} is not the key of {files.cert}"),
    ):
        with pytest.raises(ClusterWordError) as error:
            dist_dot_cluster.certificates(*arguments)
        assert words in str(error.value)
    assert dist_dot_cluster.certificates(files.ca, str(tmp_path / "both.pem")).tls_client_key is None


def test_certificates_of_dasks_configuration(encrypted, files):
    tls = {"ca-file": files.ca, "client.cert": files.cert, "client.key": files.key}
    with dask.config.set({f"distributed.comm.tls.{key}": file for key, file in tls.items()}):
        with dist_dot_cluster.open(encrypted.address) as client:
            assert client.submit(sum, (1, 2)).result(30) == 3


def test_a_job_on_a_tls_cluster(encrypted, files, tmp_path):
    make_table(tmp_path)
    keys = {"tls_ca_file": files.ca, "tls_cert": os.path.relpath(files.cert, tmp_path), "tls_key": files.key}
    section = "\n[cluster]\n" + "".join(f'{name} = "{file}"\n' for name, file in keys.items())
    (tmp_path / "job.toml").write_text(JOB + section)
    done = encrypted.train(tmp_path / "job.toml")
    output, errors = done.communicate(timeout=60)
    assert (done.returncode, errors) == (0, "")
    attach = output.partition("dist-dot ")[2].splitlines()[0].split()
    done = encrypted.command(*attach)  # the words that it offers are complete
    assert f"no runs begin with '{attach[1]}'" in done.communicate(timeout=60)[1] and done.returncode == 2


def test_certificates_of_a_job_are_for_the_cluster_that_it_names():
    job = Cluster("tls://a:1", tls_ca_file="ca", tls_cert="cert", tls_key="key")
    assert _place(job, None, None, None, None) == job
    assert _place(job, "tls://b:1", None, None, None) == replace(job, kind="tls://b:1")
    assert _place(job, "local", None, None, None) == Cluster("local")
    other = _place(job, None, "other ca", "other cert", None)
    assert other.tls_files == {"tls_ca_file": "other ca", "tls_cert": "other cert"}
    assert _place(Cluster(), "local", "ca", "cert", "key").tls_files  # which dist_dot_cluster.open refuses
