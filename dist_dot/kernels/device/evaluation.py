"""All sums of one kind of evaluation of a loss over the rows of a card, and how they are asked for again and again.

From the second time on a round is a CUDA graph: what the first asked of the card one by one is asked at once. On an
H100 that took a round of 1,000 rows of 100 columns from 73 to 45 microseconds, its pass of some 20 included.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dist_dot.kernels.device.card import Card
from dist_dot.kernels.device.passes import NONE, Chunks, Pass
from dist_dot.kernels.tree import Node
from dist_dot.typing import Array, CupyObject, DeviceArray, DType


@dataclass(frozen=True)
class _Graph:
    """What a round asks of the card, and the memory that it writes to and reads from."""

    graph: CupyObject
    names: tuple[Node, ...]
    on_host: Array
    memory: tuple[DeviceArray, ...]


class Evaluation:
    """Losses and gradients at k columns of parameters (k, p + 1), `outputs` of which belong to a point.

    `passes` are the columns that go together in one read of X, each with its launch; `chunks` the tables of those.
    """

    def __init__(
        self,
        card: Card,
        passes: Sequence[tuple[slice, Pass]],
        chunks: Sequence[Chunks],
        blocks: int,
        y_width: int,
        p: int,
        dtype: DType,
        k: int,
        outputs: int,
    ) -> None:
        self._card, self._passes, self._chunks = card, passes, chunks
        self._blocks, self._y_width, self._p, self._k, self._outputs = blocks, y_width, p, k, outputs
        self._totals = card.empty((blocks, k // outputs * (1 + outputs * (p + 1))))
        self._losses = card.empty((blocks, k)) if outputs > 1 else NONE
        # The sums of chunks of one pass, and then of the next.
        rooms = [one.room(table) for (_, one), table in zip(passes, chunks, strict=True)]
        most_sums, most_gradients = map(max, zip(*rooms, strict=True))
        self._room = card.empty(most_sums), card.empty(most_gradients, dtype)
        self._asked: set[tuple[tuple[int, ...], int]] = set()
        self._graphs: dict[tuple[tuple[int, ...], int], _Graph] = {}

    def at(self, columns: Array) -> "Evaluation":
        """Set the columns (k, p + 1); return the evaluation itself."""
        for part, one in self._passes:
            np.copyto(one.columns, columns[part], casting="same_kind")
        return self

    def totals(self, chunks: Sequence[Chunks] | None = None) -> DeviceArray:
        """Return the sums (blocks, k / outputs (1 + outputs (p + 1))), on the card: they stand until the next call."""
        for (part, one), table in zip(self._passes, chunks or self._chunks, strict=True):
            one.add_up(table, self._y_width, *self._room)
            one.fold(table, (part.start, self._k, self._outputs), *self._room, self._totals, self._losses)
        if self._outputs > 1:
            sizes = np.int32(self._p), np.int32(self._k), np.int32(self._outputs)
            self._card.function("sums", "fold_losses")((self._blocks,), (128,), (*sizes, self._losses, self._totals))
        return self._totals

    def add_up(self) -> None:
        """Ask for the passes alone, the sums of whose chunks nobody adds up: for benchmarks."""
        for (_, one), table in zip(self._passes, self._chunks, strict=True):
            one.add_up(table, self._y_width, *self._room)

    def nodes(self, numbers: Sequence[int], leaves: int) -> dict[Node, Array]:
        """Return the nodes that blocks of these numbers add up to, on the host. One round."""
        key = tuple(numbers), leaves
        made = self._graphs.get(key)
        if made is None:
            if key not in self._asked:  # once without a graph: what is made at first use is there then
                self._asked.add(key)
                return self._card.folded(self.totals(), numbers, leaves)
            made = self._graphs[key] = self._recorded(*key)
        made.graph.launch(self._card.stream)
        self._card.stream.synchronize()
        return dict(zip(made.names, made.on_host.copy(), strict=True))

    def _recorded(self, numbers: tuple[int, ...], leaves: int) -> _Graph:
        card = self._card
        names, first, count = card.spans(numbers, leaves)
        nodes = card.empty((len(names), self._totals.shape[1]))
        on_host: Array = card.pinned(nodes.shape, np.float64)
        try:
            card.stream.begin_capture()
            card.fold(self.totals(), first, count, nodes)
            card.read(nodes, on_host)
        finally:  # after an error, or Ctrl-C, too: a stream that goes on recording does nothing else any more
            graph = card.stream.end_capture()
        return _Graph(graph, names, on_host, (nodes, first, count))
