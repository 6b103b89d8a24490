"""What can go wrong on the way to a cluster."""


class ClusterWordError(ValueError):
    """A word that names no cluster, a cluster that is not there, certificates that do not fit.

    The message says what to do about it, in one line.
    """
