"""Which worker computes which blocks, and when moving some of them pays: pure functions of who holds what."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby

from dist_dot.kernels.tree import fold

Ranges = list[tuple[int, int]]
"""(first block, block after the last), in order."""
Placement = Mapping[str, Sequence[int]]
"""Worker -> the blocks it computes, in order."""


def assign(holders: Mapping[int, Collection[str]], threads: Mapping[str, int]) -> dict[str, list[int]]:
    """Give each block to one worker that holds it: balanced by threads, in ranges as long as they can be.

    holders maps block numbers, in order, to one or more workers. Blocks that only one worker holds are given to it
    first; neighbours with the same choice of workers are then shared out so that the loads even out, each worker's
    share in one piece.
    """
    load: dict[str, int] = defaultdict(int)
    owner: dict[int, str] = {}
    choices = []
    for candidates, group in groupby(holders, lambda number: frozenset(holders[number])):
        numbers = list(group)
        if len(candidates) == 1:
            (only,) = candidates
            load[only] += len(numbers)
            owner.update(dict.fromkeys(numbers, only))
        else:
            choices.append((numbers, candidates))
    for numbers, candidates in choices:
        share = dict.fromkeys(sorted(candidates), 0)
        for _ in numbers:
            address = min(share, key=lambda worker: ((load[worker] + 1) / threads[worker], worker))
            share[address] += 1
            load[address] += 1
        before = owner.get(numbers[0] - 1)
        start = 0
        for address in sorted(share, key=lambda worker: (worker != before, worker)):  # go on with the neighbour
            owner.update(dict.fromkeys(numbers[start : start + share[address]], address))
            start += share[address]
    placement: dict[str, list[int]] = defaultdict(list)
    for number in sorted(owner):
        placement[owner[number]].append(number)
    return dict(placement)


def ranges(numbers: Iterable[int]) -> Ranges:
    """Return block numbers, in order, as ranges."""
    found: Ranges = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = found[-1][0], number + 1
        else:
            found.append((number, number + 1))
    return found


def slowest(placement: Placement, threads: Mapping[str, int]) -> float:
    """Return the largest number of blocks per thread: what a round waits for."""
    return max((len(numbers) / threads[worker] for worker, numbers in placement.items()), default=0.0)


def nodes(placement: Placement, leaves: int) -> int:
    """Return how many sums the workers send in a round, all together."""
    return sum(len(fold({(0, n): 0 for n in numbers}, leaves)) for numbers in placement.values())  # type: ignore[misc]


def even(placement: Placement, threads: Mapping[str, int]) -> dict[str, list[int]]:
    """Return a placement in one range per worker, in proportion to threads, that moves few blocks.

    The workers keep their order along the rows; one without blocks is put beside the one that has most too many.
    """
    total = sum(len(numbers) for numbers in placement.values())
    quota = {worker: total * count / sum(threads.values()) for worker, count in threads.items()}
    held = {worker: placement.get(worker, ()) for worker in threads}
    order = sorted((w for w in held if held[w]), key=lambda w: (sum(held[w]) / len(held[w]), w))
    surplus = {worker: len(held[worker]) - quota[worker] for worker in order}
    for worker in sorted(w for w in held if not held[w]):
        richest = max(order, key=lambda w: surplus[w])
        order.insert(order.index(richest) + 1, worker)
        surplus[richest] -= quota[worker]
        surplus[worker] = 0.0
    numbers = sorted(number for part in placement.values() for number in part)
    result, start, threads_before = {}, 0, 0
    for worker in order:
        threads_before += threads[worker]
        stop = round(total * threads_before / sum(threads.values()))
        result[worker] = numbers[start:stop]
        start = stop
    return result


def moves(placement: Placement, wanted: Placement) -> dict[str, list[tuple[int, str]]]:
    """Return worker -> (block, where it is now) for the blocks that it must be sent."""
    now = {number: worker for worker, numbers in placement.items() for number in numbers}
    return {
        worker: part
        for worker, numbers in wanted.items()
        if (part := [(number, now[number]) for number in numbers if now[number] != worker])
    }
