"""A cluster that somebody has started, by the address of its scheduler."""

import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import dask
from distributed import Client, Security
from distributed.comm import get_address_host_port
from distributed.utils import silence_logging_cmgr

from dist_dot_cluster.errors import ClusterWordError
from dist_dot_cluster.tls import WAYS, context, named

log = logging.getLogger("dist_dot_cluster")

# Seconds.
TIMEOUT = 30.0  # for the scheduler's answer
GREETING = 2.0  # for the first byte of anything: a scheduler speaks first
SPEAK = 2.0  # a wait that is longer is worth a word
PAUSE = 0.2  # between two looks at who has come


@contextmanager
def scheduler_at(address: str, security: Any, workers: int, patience: float) -> Iterator[Client]:
    """Yield a client of the scheduler at tcp:// or tls://, once it has so many workers.

    security is Dask's Security for a tls:// address; None takes it from Dask's configuration. Raises ClusterWordError
    for an address where no scheduler answers within 30 s, for certificates that do not fit, and where the workers have
    not come within `patience` seconds.
    """
    security = _checked(address, security)
    with silence_logging_cmgr(logging.CRITICAL):  # what goes wrong is raised here; Dask logs stack traces too
        _listen(address, security)
        try:
            client = Client(address, timeout=TIMEOUT, security=security)
        except (OSError, ValueError) as error:
            raise ClusterWordError(f"no Dask scheduler answers at {address}: {error}") from error
        with client:
            if workers:
                _wait_for_workers(client, address, workers, patience)
            yield client


def _checked(address: str, security: Any) -> Any:
    """Return the security of a client for this address; None leaves it to the loader that Dask's configuration has."""
    if address.startswith("tcp://"):
        if security is not None:
            raise ClusterWordError(f"certificates are given, but {address} is not encrypted: write tls://")
        return None
    if security is None:
        if dask.config.get("distributed.client.security-loader"):
            return None
        security = Security()
    context(security)
    return security


def _listen(address: str, security: Any) -> None:
    """Raise ClusterWordError for what the first byte of a connection tells: Dask's client tries again for 30 s.

    Says nothing where there is no connection, or no byte: the scheduler may be about to start, or be busy.
    """
    try:
        place = get_address_host_port(address, strict=True)
    except ValueError as error:
        raise ClusterWordError(f"{address} is no address: write it like tcp://host:8786 ({error})") from error
    try:
        if address.startswith("tcp://"):
            _listen_plainly(address, place)
        elif security is not None:
            _listen_encrypted(address, place, security)
    except OSError:
        return


def _listen_plainly(address: str, place: tuple[str, int]) -> None:
    with socket.create_connection(place, GREETING) as connection:
        try:
            connection.recv(1)
            return
        except TimeoutError:
            pass
    # Whoever waits for us to speak first may be waiting for a TLS handshake.
    stranger = ssl.create_default_context()
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(place, GREETING) as connection:
        try:
            stranger.wrap_socket(connection).close()
        except ssl.SSLError as error:
            if "ALERT" not in (error.reason or ""):  # which would be an answer in TLS as well
                return
    raise ClusterWordError(
        f"what listens at {address} speaks TLS: write tls://{address.removeprefix('tcp://')}, and {WAYS}"
    )


def _listen_encrypted(address: str, place: tuple[str, int], security: Any) -> None:
    ours = context(security)
    name = security.extra_conn_args.get("server_hostname")
    try:
        with (
            socket.create_connection(place, GREETING) as connection,
            ours.wrap_socket(connection, server_hostname=name) as encrypted,
        ):
            encrypted.recv(1)  # with TLS 1.3 a refusal comes only after the handshake
    except ssl.SSLCertVerificationError as error:
        raise ClusterWordError(
            f"the certificate of the scheduler at {address} does not fit the CA of {named(security.tls_ca_file)}: "
            f"{error.verify_message}; give the CA file that the cluster was started with, or renew what has expired"
        ) from error
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason:
            plain = f"tcp://{address.removeprefix('tls://')}"
            raise ClusterWordError(
                f"what listens at {address} speaks no TLS: write {plain} if that is as it should be"
            ) from error
        if "ALERT" in reason:
            raise ClusterWordError(
                f"the scheduler at {address} refuses the certificate {named(security.tls_client_cert)} "
                f"({reason.lower().replace('_', ' ')}): give one that its own CA has signed"
            ) from error


def _wait_for_workers(client: Client, address: str, workers: int, patience: float) -> None:
    begin = monotonic()
    wish = None
    spoken = False
    while True:
        found = _running(client)
        if found >= workers:
            return
        waited = monotonic() - begin
        state = f"the scheduler at {address} has {'no workers' if workers == 1 else f'{found} of {workers} workers'}"
        if waited >= patience:
            raise ClusterWordError(
                f"waited {patience:.0f} s: {state}; start some, as by `dask worker {address}`, or wait for longer"
            )
        if waited >= SPEAK and not spoken:
            spoken = True
            log.warning("%s; waiting up to %.0f s", state, patience)
        if not found and wish is None:
            wish = client.submit(int, pure=False)  # a cluster that adapts its size starts workers for tasks only
        sleep(min(PAUSE, max(0.0, patience - waited)))


def _running(client: Client) -> int:
    return sum(worker["status"] == "running" for worker in workers_of(client).values())


def workers_of(client: Client) -> dict[str, Any]:
    """Return what the scheduler says of each worker, by address. Raises ClusterWordError for one that is gone."""
    found: dict[str, Any] | None = client.scheduler_info(n_workers=-1).get("workers")
    if found is None:  # the client has lost it
        raise ClusterWordError("the scheduler is gone: start it again")
    return found
