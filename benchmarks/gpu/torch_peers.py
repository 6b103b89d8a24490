"""scikit-learn with torch's tensors."""

from collections.abc import Iterator

from benchmarks.gpu import peers
from benchmarks.gpu.clock import Clock, Record


def measure(clock: Clock, quick: bool) -> Iterator[Record]:
    """Yield the records."""
    return peers.measure(peers.Torch(), clock, quick)
