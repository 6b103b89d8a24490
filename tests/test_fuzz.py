"""Some of the cases of the fuzzers, the same ones each time: `make fuzz`, `make fuzz-readers` are the long forms."""

from dataclasses import replace

import pytest
from fuzz.case import drawn
from fuzz.check import check
from fuzz.fits import VARIANTS
from fuzz.readers import Files, find


@pytest.mark.parametrize("number", range(120))
def test_fits_are_minima_and_the_same_ones_in_other_words(number):
    assert not check(drawn(3, number, ordinary=True))


ONCE = [
    (15, 1149),
    (17, 947),
    (19, 4822),
    (21, 8380),
    (25, 849),
    (27, 255),
    (29, 619),
    (29, 1651),
    (61, 2827),
    (62, 7719),
    (62, 14308),
]


@pytest.mark.parametrize(("seed", "number"), ONCE)
def test_cases_that_found_something_once(seed, number):
    assert not check(drawn(seed, number, ordinary=True))


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_each_way_to_say_the_same_is_tried(variant):
    plain = replace(drawn(1, 0, ordinary=True), family="squared", n=60, p=3, variant=variant, route="objective")
    assert check(plain) == []


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("number", range(200))
def test_files_that_are_damaged_are_read_or_named(files, number):
    assert not find(files, 7, number)
