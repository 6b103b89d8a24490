"""The fold: same bits whoever holds what."""

import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import dense_block

from dist_dot import losses
from dist_dot.errors import DataError
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.passes import GramProduct, ValueAndGradient
from dist_dot.kernels.targets import ReferenceSums, TargetSums
from dist_dot.kernels.tree import fold, root, uncovered
from dist_dot.rounds.local import LocalBlocks
from dist_dot.rows.block import Cuts


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
    blocks = LocalBlocks([dense_block(np.ones((1, 1)), np.ones(1), None, i) for i in range(64)], cuts)
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
    blocks = LocalBlocks([dense_block(np.ones((1, 1)), np.ones(1), None, i) for i in range(64)], cuts)
    blocks._threads = 4
    for _ in range(10):
        with pytest.raises(ValueError, match="block 3"):
            blocks.reduce(Fails(), np.zeros(1))


@pytest.mark.parametrize(
    ("kernel", "sums", "looks"),
    [
        (TargetSums(losses.Logistic()), [1.0], 0),  # it reads y alone
        (ValueAndGradient(losses.Logistic()), [1.0], 0),  # finite sums say that all of X is
        (ValueAndGradient(losses.Logistic()), [np.nan], 1),
        (ReferenceSums(losses.Logistic()), [np.inf], 1),
        (GramProduct(), [1.0], 1),  # it may miss some of X
    ],
)
def test_rows_of_a_gpu_are_looked_at_before_anybody_sees_sums_of_them(kernel, sums, looks):
    """Once, in the first round that reads X; what is wrong with them is raised, and raised again."""
    seen, wrong = [], DataError("X is nan in column 0, row 0")

    def blocks(look):
        made = LocalBlocks([dense_block(np.ones((1, 1)), np.ones(1))], Cuts(1, 1, "float64", 1), look)
        made.on_device = True
        made.tables = SimpleNamespace(reduce=lambda *arguments: {(0, 0): np.array(sums)})
        return made

    fine = blocks(lambda: seen.append("X"))
    for _ in range(2):
        np.testing.assert_array_equal(fine.reduce(kernel, np.zeros(2)), sums)
    assert len(seen) == looks

    def refuse():
        raise wrong

    refused = blocks(refuse)
    for _ in range(2 * looks):
        with pytest.raises(DataError, match="X is nan"):
            refused.reduce(kernel, np.zeros(2))
    if kernel.reads == "y":  # the look is still to come
        refused.reduce(kernel, np.zeros(2))
        with pytest.raises(DataError, match="X is nan"):
            refused.reduce(GramProduct(), np.zeros(2))
