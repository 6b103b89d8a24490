"""Where Dask runs: from a word to a Client. Knows nothing of training.

::

    import dist_dot_cluster

    with dist_dot_cluster.open("local:4") as client: ...
"""

from dist_dot_cluster.errors import ClusterWordError, KubernetesError
from dist_dot_cluster.manifests import Pods, Volume
from dist_dot_cluster.opening import open
from dist_dot_cluster.tls import certificates

__all__ = ["ClusterWordError", "KubernetesError", "Pods", "Volume", "certificates", "open"]
