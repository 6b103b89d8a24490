"""Which tests of scikit-learn fail with our estimators, why, and whether what was found is just that."""

import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

KINDS = ("does not apply", "by design", "to come")
COLUMNS = ("passed", *KINDS, "not ours", "skipped")
"""What a test did: it passed with our estimators, or failed for a reason of some kind; it uses none of them; it did not
run, or scikit-learn says that it fails there too."""


@dataclass(frozen=True)
class Outcome:
    """What a test did: it passed, failed, was skipped, or is not ours, and the words that it failed with."""

    state: str
    words: str = ""


@dataclass(frozen=True)
class Expected:
    """Tests that fail for one reason. `*` in a name stands for any text; a name without [..] is all its parameters."""

    kind: str
    why: str
    says: str
    tests: tuple[str, ...]

    def names(self, pattern: str, test: str) -> bool:
        """Whether a pattern of these means this test."""
        name = test if "[" in pattern else test.partition("[")[0]
        return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name))


@dataclass(frozen=True)
class Expectations:
    """What scikit_learn.toml says."""

    version: str
    counts: dict[str, dict[str, int]]
    failures: tuple[Expected, ...]

    def of(self, test: str) -> list[Expected]:
        """Return the entries that expect this test to fail."""
        return [each for each in self.failures if any(each.names(pattern, test) for pattern in each.tests)]


def read(path: Path) -> Expectations:
    """Return what a file says. Raises ValueError for a kind that is none."""
    told: dict[str, Any] = tomllib.loads(path.read_text())
    failures = tuple(Expected(**{**each, "tests": tuple(each["tests"])}) for each in told["failure"])
    for each in failures:
        if each.kind not in KINDS:
            raise ValueError(f"{path}: kind is {each.kind!r}: give one of {', '.join(KINDS)}")
    return Expectations(told["version"], told["counts"], failures)


def counted(outcomes: dict[str, Outcome], expected: Expectations) -> dict[str, Counter[str]]:
    """Return how many tests of each file, which stands before `::`, belong in each column."""
    counts: dict[str, Counter[str]] = {}
    for test, outcome in outcomes.items():
        entries = expected.of(test) if outcome.state == "failed" else []
        column = entries[0].kind if entries else outcome.state
        counts.setdefault(test.partition("::")[0], Counter())[column] += 1
    return counts


def differences(outcomes: dict[str, Outcome], expected: Expectations, some: bool = False) -> list[str]:
    """Return what is not as expected, a line each. Where only some tests ran, those alone are looked at."""
    lines = []
    for test, outcome in outcomes.items():
        entries, words = expected.of(test), shorten(outcome.words, 240)
        if len(entries) > 1:
            lines.append(f"{test}: expected to fail twice: {entries[0].why}; {entries[1].why}")
        elif outcome.state == "failed" and not entries:
            lines.append(f"{test}: fails: {words}")
        elif outcome.state == "failed" and entries[0].says not in outcome.words:
            lines.append(f"{test}: does not fail with {entries[0].says!r}, but: {words}")
        elif outcome.state in ("passed", "not ours") and entries:
            lines.append(f"{test}: {outcome.state}, but expected to fail: {entries[0].why}")
    if some:
        return lines
    failed = [test for test, outcome in outcomes.items() if outcome.state == "failed"]
    for each in expected.failures:
        for pattern in each.tests:
            if not any(each.names(pattern, test) for test in failed):
                lines.append(f"{pattern}: no such test fails: {each.why}")
    found = counted(outcomes, expected)
    for file in sorted(found.keys() | expected.counts.keys()):
        here, there = dict(found.get(file, {})), expected.counts.get(file, {})
        if here != there:
            lines.append(f"{file}: counts are {here}, expected {there}")
    return lines


def table(counts: dict[str, Counter[str]]) -> str:
    """Return the counts of each file, and of all."""
    columns = COLUMNS + (("failed",) if any(each["failed"] for each in counts.values()) else ())
    rows = [("", *columns)]
    for file, each in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        rows.append((file, *(f"{each[column]:,}" for column in columns)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *others = widths
    return "\n".join(
        name.ljust(first) + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, others, strict=True))
        for name, *cells in rows
    )
