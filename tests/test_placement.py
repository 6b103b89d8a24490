"""Who computes what: pure functions, so all of it without a cluster."""

from hypothesis import given
from hypothesis import strategies as st

from dist_dot.rounds.placement import assign, even, moves, nodes, ranges, slowest

WORKERS = "abcde"
threads_of = st.dictionaries(st.sampled_from(WORKERS), st.integers(1, 4), min_size=1)


@st.composite
def held(draw):
    """Worker threads, and which of them hold each block."""
    threads = draw(threads_of)
    some = st.sets(st.sampled_from(sorted(threads)), min_size=1)
    return threads, dict(enumerate(draw(st.lists(some, min_size=1, max_size=40))))


@given(held())
def test_each_block_goes_to_one_worker_that_holds_it(case):
    threads, holders = case
    placement = assign(holders, threads)
    assert sorted(number for part in placement.values() for number in part) == list(holders)
    for worker, numbers in placement.items():
        assert numbers == sorted(numbers) and all(worker in holders[number] for number in numbers)


def test_replicas_even_out_the_load_in_long_ranges():
    everywhere = dict.fromkeys(range(12), {"a", "b"})
    assert {w: ranges(n) for w, n in assign(everywhere, {"a": 1, "b": 1}).items()} == {"a": [(0, 6)], "b": [(6, 12)]}
    assert {w: len(n) for w, n in assign(everywhere, {"a": 1, "b": 2}).items()} == {"a": 4, "b": 8}
    # b alone holds the first six: a computes the rest; and whoever holds the neighbour goes on.
    assert assign(dict.fromkeys(range(6), {"b"}) | dict.fromkeys(range(6, 12), {"a", "b"}), {"a": 1, "b": 1}) == {
        "b": [0, 1, 2, 3, 4, 5],
        "a": [6, 7, 8, 9, 10, 11],
    }
    grown = dict.fromkeys(range(4), {"b"}) | dict.fromkeys(range(4, 12), {"a", "b"})
    assert {w: ranges(n) for w, n in assign(grown, {"a": 1, "b": 1}).items()} == {"b": [(0, 6)], "a": [(6, 12)]}


@given(st.sets(st.integers(0, 30)))
def test_ranges_are_the_numbers(numbers):
    found = ranges(sorted(numbers))
    assert {number for start, stop in found for number in range(start, stop)} == numbers
    assert all(before[1] < after[0] for before, after in zip(found, found[1:], strict=False))


@given(held(), st.dictionaries(st.sampled_from("xyz"), st.integers(1, 4)))
def test_an_even_placement_is_even_and_in_one_range_each(case, newcomers):
    threads, holders = case
    now = assign(holders, threads)
    threads = threads | newcomers
    wanted = even(now, threads)
    assert sorted(number for part in wanted.values() for number in part) == list(holders)
    assert all(len(ranges(numbers)) <= 1 for numbers in wanted.values())
    ideal = len(holders) / sum(threads.values())
    assert slowest(wanted, threads) <= ideal + 1
    after = {worker: list(numbers) for worker, numbers in now.items()}
    for worker, part in moves(now, wanted).items():
        for number, source in part:
            after[source].remove(number)
            after.setdefault(worker, []).append(number)
    assert {w: sorted(n) for w, n in after.items() if n} == {w: n for w, n in wanted.items() if n}


def test_a_new_worker_costs_as_few_moves_as_it_can():
    for workers, moved in ((1, 2 / 3 * 48), (2, 16)):
        now = assign({n: {"abc"[n * workers // 48]} for n in range(48)}, dict.fromkeys("abc", 1))
        wanted = even(now, dict.fromkeys("abc", 1))
        assert [len(wanted[worker]) for worker in "abc"] == [16, 16, 16]
        assert sum(map(len, moves(now, wanted).values())) == moved


def test_what_a_round_waits_for_and_what_it_sends():
    assert slowest({"a": [0, 1, 2], "b": [3]}, {"a": 2, "b": 1}) == 1.5
    assert slowest({}, {}) == 0.0
    assert nodes({"a": [0, 1, 2, 3], "b": [4, 5, 6, 7]}, 8) == 2
    assert nodes({"a": [0, 2, 4, 6], "b": [1, 3, 5, 7]}, 8) == 8
