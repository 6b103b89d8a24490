"""Rows on a GPU: kernels of our own in CUDA C++, compiled by CuPy, and cuBLAS where a product is all there is to do.

::

    cuda/        the kernels; common.cuh says how rows are cut, and why the bits depend on nothing else
    plan.py      how a pass is laid over a card, by p, dtype and columns of parameters
    card.py      a card as this process uses it: one stream, one thread at a time
    passes.py    a pass and its buffers
    evaluation.py  the passes of an evaluation, and the graph of a round
    rows.py      all blocks of a process at once: what kernels ask for
    losses.py    the losses that passes have
    labels.py    class labels
    serialize.py blocks on their way to another worker

Kernels (`dist_dot.kernels.passes`) ask blocks of rows on a card through their method `launch`; one that has none runs
as array operations, block by block.
"""

from collections.abc import Sequence
from dataclasses import replace
from weakref import ref

from dist_dot.kernels.device.card import Card, card
from dist_dot.kernels.device.evaluation import Evaluation
from dist_dot.kernels.device.rows import DeviceRows, digest, first_outside, merged
from dist_dot.kernels.kernel import Kernel, SumsOfBlocks
from dist_dot.kernels.tree import Node, put
from dist_dot.rows.arrays import Parameters
from dist_dot.rows.block import Block
from dist_dot.rows.settle import on_device
from dist_dot.typing import Array, DeviceArray

__all__ = ["DeviceRows", "Tables", "digest", "merged", "of_one", "on_device", "places_outside", "reduce"]

# Tables of blocks that are kept from round to round, as long as all of the blocks live.
KEPT = 16
# Most blocks of a table: launches have a row of CTAs for each, and CUDA no more rows than these.
BLOCKS = 65_535
_tables: dict[tuple[int, ...], tuple[list["ref[Block]"], "Tables"]] = {}


class Tables:
    """Which of some blocks lie on which card, and the table of each card's."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        places = [_place(block) for block in blocks]
        self._parts: list[tuple[Card, list[int], DeviceRows]] = []
        for place in dict.fromkeys(places):
            with card(place) as here:
                there = [i for i, other in enumerate(places) if other == place]
                for start in range(0, len(there), BLOCKS):
                    part = there[start : start + BLOCKS]
                    self._parts.append((here, part, DeviceRows([blocks[i] for i in part], here)))

    def asked(self, blocks: Sequence[Block], kernel: Kernel, parameters: Array) -> tuple[Card, SumsOfBlocks]:
        """Return the one card of the blocks, and what the launch of the kernel gives there: for benchmarks."""
        ((here, _, rows),) = self._parts
        with here:
            return here, asked(kernel, rows, blocks, parameters)

    def reduce(
        self, blocks: Sequence[Block], numbers: Sequence[int], leaves: int, kernel: Kernel, parameters: Array
    ) -> dict[Node, Array]:
        """Return the nodes that kernel(block, parameters) add up to, on the host.

        The blocks are those of the tables; numbers are theirs, in order, of `leaves` in all. On each card one launch
        and one transfer where the kernel has a `launch`, else array operations, block by block.
        """
        if len(self._parts) == 1:
            return _reduce(self._parts[0][0], self._parts[0][2], blocks, numbers, leaves, kernel, parameters)
        nodes: dict[Node, Array] = {}
        for here, part, rows in self._parts:
            mine = [blocks[i] for i in part], [numbers[i] for i in part]
            for node, total in _reduce(here, rows, *mine, leaves, kernel, parameters).items():
                put(nodes, node, total, leaves, kernel.merge)
        return nodes


def _reduce(
    here: Card,
    rows: DeviceRows,
    blocks: Sequence[Block],
    numbers: Sequence[int],
    leaves: int,
    kernel: Kernel,
    parameters: Array,
) -> dict[Node, Array]:
    with here:
        sums = asked(kernel, rows, blocks, parameters)
        if isinstance(sums, Evaluation):
            return sums.nodes(numbers, leaves)
        if on_device(sums):
            return here.folded(sums, numbers, leaves)
        if sums is None:
            at = Parameters(parameters)
            sums = (kernel(block, at) for block in blocks)
        nodes: dict[Node, DeviceArray] = {}
        for number, total in zip(numbers, sums, strict=True):
            put(nodes, (0, number), total, leaves, kernel.merge)
        return here.together(nodes)


def reduce(
    blocks: Sequence[Block], numbers: Sequence[int], leaves: int, kernel: Kernel, parameters: Array
) -> dict[Node, Array]:
    """Return `Tables.reduce` of the blocks, by the tables of the last time where all of the blocks still live."""
    key = tuple(map(id, blocks))
    kept = _tables.get(key)
    if kept is None or not all(known() is block for known, block in zip(kept[0], blocks, strict=True)):
        made = Tables(blocks)
        for old in list(_tables)[: max(0, len(_tables) + 1 - KEPT)]:
            _tables.pop(old, None)

        def forget(gone: "ref[Block]") -> None:
            """Let the memory of the tables go with the first of their blocks."""
            _tables.pop(key, None)

        kept = _tables[key] = [ref(block, forget) for block in blocks], made
    return kept[1].reduce(blocks, numbers, leaves, kernel, parameters)


def asked(kernel: Kernel, rows: DeviceRows, blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
    """Return what the launch of a kernel gives; None where it has none, and where its z would have an offset."""
    return None if rows.offset and kernel.of_z else kernel.launch(rows, blocks, parameters)


def places_outside(arrays: Sequence[DeviceArray], lows: Sequence[float]) -> list[int]:
    """Return the place of the first number of each array that is below its low, NaN or infinite; -1 for none."""
    with card(arrays[0].device.id) as here:
        places: list[int] = first_outside(here, arrays, lows).tolist()
        return places


def of_one(block: Block, kernel: Kernel, parameters: Parameters) -> DeviceArray | None:
    """Return kernel(block, parameters), on the card, by the kernel's launch; None where it has none for this block."""
    with card(_place(block)) as here:
        block = _contiguous(block)
        sums = asked(kernel, DeviceRows((block,), here), (block,), parameters.host)
        if isinstance(sums, Evaluation):
            sums = sums.totals()
            here.stream.synchronize()  # the parameters lie in memory of the host that is used anew from here on
        return None if sums is None else next(iter(sums))


def _place(block: Block) -> int:
    """Return the number of the card that a block lies on."""
    X: DeviceArray = block.X.array
    return int(X.device.id)


def _contiguous(block: Block) -> Block:
    """Return a block whose columns beside X may be views of others' as one whose columns are its own."""
    from cupy import ascontiguousarray

    weight, offset, fold = (None if column is None else ascontiguousarray(column) for column in block.columns[1:])
    return replace(block, y=ascontiguousarray(block.y), weight=weight, offset=offset, fold=fold)
