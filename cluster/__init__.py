"""Where Dask runs: from a word to a Client. Knows nothing of training.

::

    with connect("local:4") as client: ...
"""

from cluster.connect import connect
from cluster.errors import ClusterWordError

__all__ = ["ClusterWordError", "connect"]
