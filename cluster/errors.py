"""What can go wrong on the way to a cluster."""


class ClusterWordError(ValueError):
    """A word that names no cluster, or a cluster that is not there; the message says what to type instead."""


class KubernetesError(ClusterWordError):
    """Kubernetes does not do what was asked: the message says which object, why, and what to do."""
