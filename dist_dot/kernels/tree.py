"""The sum of the blocks, in a tree that is fixed by block number.

Leaves are the nodes (0, block number). Two complete siblings (level, 2 i) and (level, 2 i + 1) become their parent
(level + 1, i); an odd last node of a level moves up alone. Whoever holds some of the nodes may fold them: the total
has the same bits whatever the grouping, and a block that is missing cannot pass unseen, because the root is then not
there.
"""

from collections.abc import Callable, Iterable, Mapping
from operator import add

import numpy as np

from dist_dot.typing import Array

quietly = np.errstate(over="ignore", invalid="ignore", divide="ignore")
"""For what adds up: a line search tries points where sums overflow, and looks at them; NumPy need not warn of it."""

Node = tuple[int, int]
Merge = Callable[[Array, Array], Array]
"""(left, right) -> the sum of both, which may take the memory of either."""


def root(leaves: int) -> Node:
    """Return the node that holds the sum of all leaves."""
    return (leaves - 1).bit_length(), 0


def fold(nodes: Mapping[Node, Array], leaves: int, merge: Merge = add) -> dict[Node, Array]:
    """Merge siblings as far up as they are complete; return the nodes that are left.

    O(nodes) merges, in the memory of the nodes where `merge` works in place. A contiguous range of blocks leaves
    O(log blocks) nodes.
    """
    left: dict[Node, Array] = {}
    for node, total in nodes.items():
        put(left, node, total, leaves, merge)
    return left


@quietly
def put(nodes: dict[Node, Array], node: Node, total: Array, leaves: int, merge: Merge) -> None:
    """Add a node to folded ones, as its parent if its sibling is there, and so on upwards."""
    level, index = node
    while level < root(leaves)[0]:
        sibling = level, index ^ 1
        if sibling in nodes:
            other = nodes.pop(sibling)
            total = merge(other, total) if index & 1 else merge(total, other)
        elif sibling[1] << level < leaves:
            break
        level, index = level + 1, index >> 1
    nodes[level, index] = total


def uncovered(nodes: Iterable[Node], leaves: int) -> list[int]:
    """Return the numbers of the blocks that none of the nodes contains, in order."""
    seen: set[int] = set()
    for level, index in nodes:
        seen.update(range(index << level, min((index + 1) << level, leaves)))
    return [number for number in range(leaves) if number not in seen]
