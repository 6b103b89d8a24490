"""What can go wrong on the way to a cluster."""


class ClusterWordError(ValueError):
    """A word that names no cluster, a cluster that is not there, certificates that do not fit.

    The message says what to do about it, in one line.
    """


class KubernetesError(ClusterWordError):
    """Kubernetes does not do what was asked: the message says which object, why, and what to do."""


class PodsError(KubernetesError):
    """Pods that will not run as they are: no image, no memory, no room."""
