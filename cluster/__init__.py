"""Where Dask runs: from a word to a Client. Knows nothing of training.

::

    import cluster

    with cluster.open("local:4") as client: ...
"""

from cluster.errors import ClusterWordError, KubernetesError
from cluster.manifests import Pods, Volume
from cluster.tls import certificates
from cluster.words import open

__all__ = ["ClusterWordError", "KubernetesError", "Pods", "Volume", "certificates", "open"]
