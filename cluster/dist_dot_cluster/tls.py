"""Certificates for tls:// addresses: which files, and whether they can be used."""

import ssl
from pathlib import Path
from typing import Any

from distributed import Security

from dist_dot_cluster.errors import ClusterWordError

WAYS = (
    "give --tls-ca-file, --tls-cert and --tls-key on the command line, tls_ca_file, tls_cert and tls_key in [cluster], "
    "security=dist_dot_cluster.certificates(...) in Python, or distributed.comm.tls in Dask's configuration"
)


def certificates(ca_file: str | None, cert: str | None, key: str | None = None) -> Security:
    """Return Dask's Security for a client that has these files, in PEM format.

    ca_file holds the certificate of who has signed those of the cluster, cert and key are the client's own; the key
    may stand in cert instead. Raises ClusterWordError for a file that is missing or cannot be used.
    """
    security = Security(require_encryption=True, tls_ca_file=ca_file, tls_client_cert=cert, tls_client_key=key)
    context(security)
    return security


def context(security: Any) -> ssl.SSLContext:
    """Return the context of a client's connections, made by Dask. Raises ClusterWordError where it cannot be made."""
    ca_file, cert, key = security.tls_ca_file, security.tls_client_cert, security.tls_client_key
    if not (ca_file and cert):
        missing = "the client's is missing" if ca_file else "the CA's is missing" if cert else "there are none"
        raise ClusterWordError(f"a tls:// address needs two certificates, the CA's and the client's; {missing}: {WAYS}")
    for path in filter(None, (ca_file, cert, key)):
        if "\n" not in path and not Path(path).is_file():  # Dask takes PEM itself in place of a path
            raise ClusterWordError(f"certificates: there is no file {path}")
    try:
        ssl.create_default_context(**({"cadata": ca_file} if "\n" in ca_file else {"cafile": ca_file}))
    except (ssl.SSLError, OSError) as error:
        raise ClusterWordError(f"certificates: {named(ca_file)} holds no certificate in PEM format: {error}") from error
    try:
        made: ssl.SSLContext = security.get_connection_args("client")["ssl_context"]
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", "") or ""
        what = (
            f"{named(key or cert)} is not the key of {named(cert)}"
            if "MISMATCH" in reason
            else f"{named(cert)} and its key{f' {named(key)}' if key else ''} cannot be read in PEM format: {error}"
        )
        raise ClusterWordError(f"certificates: {what}") from error
    return made


def named(path: str) -> str:
    """Return how to speak of a certificate: its path, but not its text."""
    return "the certificate given as text" if "\n" in path else path
