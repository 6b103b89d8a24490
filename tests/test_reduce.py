"""The fold: same bits whoever holds what."""

import time
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.tree import fold, root, uncovered
from dist_dot.rounds.local import LocalBlocks
from dist_dot.rows.block import Block, Cuts


def leaves_of(count):
    return {(0, i): np.random.default_rng(i).standard_normal(3) for i in range(count)}


@given(st.integers(1, 70), st.data())
def test_bits_do_not_depend_on_the_holders(count, data):
    holders = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    leaves = leaves_of(count)
    whole = fold(leaves, count)
    assert list(whole) == [root(count)]
    parts = {}
    for holder in set(holders):
        parts |= fold({node: leaves[node] for node in leaves if holders[node[1]] == holder}, count)
    assert uncovered(parts, count) == []
    assert fold(parts, count)[root(count)].tobytes() == whole[root(count)].tobytes()
    assert np.allclose(whole[root(count)], sum(leaves.values()))


@given(st.integers(2, 200), st.data())
def test_a_missing_block_is_seen(count, data):
    gone = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1))
    parts = fold({node: value for node, value in leaves_of(count).items() if node[1] not in gone}, count)
    assert uncovered(parts, count) == sorted(gone)
    assert root(count) not in parts


@pytest.mark.parametrize(("start", "stop"), [(0, 500), (123, 877), (999, 1000)])
def test_a_range_folds_to_few_nodes(start, stop):
    assert len(fold({(0, i): np.zeros(1) for i in range(start, stop)}, 1000)) <= 2 * 10


def test_few_sums_are_held_at_a_time():
    cuts = Cuts(64, 1, "float64", block_rows=1)
    blocks = LocalBlocks([Block(np.ones((1, 1)), np.ones(1), None, i) for i in range(64)], cuts)
    blocks._threads = 1
    held, most = set(), 0

    class Watched(Kernel):
        def __call__(self, block, parameters):
            nonlocal most
            sums = np.full(3, float(block.start))
            held.add(block.start)
            weakref.finalize(sums, held.discard, block.start)
            most = max(most, len(held))
            return sums

    assert blocks.reduce(Watched(), np.zeros(1)).tolist() == [sum(range(64))] * 3
    assert most <= 7  # one for each level of the tree, and the new one


def test_the_error_of_the_first_block_is_raised_whoever_was_faster():
    class Fails(Kernel):
        def __call__(self, block, parameters):
            if block.start in (3, 40):
                time.sleep(0.02 if block.start == 3 else 0.0)
                raise ValueError(f"block {block.start}")
            return np.zeros(1)

    cuts = Cuts(64, 1, "float64", block_rows=1)
    blocks = LocalBlocks([Block(np.ones((1, 1)), np.ones(1), None, i) for i in range(64)], cuts)
    blocks._threads = 4
    for _ in range(10):
        with pytest.raises(ValueError, match="block 3"):
            blocks.reduce(Fails(), np.zeros(1))
