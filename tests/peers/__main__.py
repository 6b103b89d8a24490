"""Runs scikit-learn's tests of linear models, as installed, with our estimators, and compares with what is expected.

Prints how many tests of each file pass, fail for a reason of each kind, or have nothing of ours. Exit status 0 if just
the tests fail that scikit_learn.toml names, with the words that it names. Arguments go to pytest, such as
`-k test_warm_start --tb=short`: then only the tests that ran are compared.
"""

import os
import sys
from collections.abc import Generator
from pathlib import Path

os.environ["SCIPY_ARRAY_API"] = "1"  # before SciPy is imported: without it scikit-learn skips tests of other arrays

import pytest
import sklearn

from peers import adapter
from peers.expectations import Outcome, counted, differences, read, table

THEIRS = Path(sklearn.__file__).parent
FILES = (
    "linear_model/tests/test_base.py",
    "linear_model/tests/test_common.py",
    "linear_model/tests/test_logistic.py",
    "linear_model/tests/test_ridge.py",
    "linear_model/_glm/tests/test_glm.py",
)
# Theirs, as their own configuration would have it: no warnings are errors but those that a test asks for.
OPTIONS = ("-q", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings=", "--disable-warnings", "-r", "N")
# It tests a private function of scikit-learn alone, and takes a sixth of the time of all tests.
WITHOUT = "not test_lbfgs_solver_consistency"


class Peers:
    """A plugin of pytest: has their test modules import our estimators, and keeps what each test did."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None]:
        if not isinstance(collector, pytest.Module):
            return (yield)
        with adapter.in_place_of_theirs(
            ".".join(["sklearn", *collector.path.relative_to(THEIRS).with_suffix("").parts])
        ):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None]:
        adapter.uses = 0
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None]:
        report = yield
        name = f"{item.path.name}::{item.nodeid.partition('::')[2]}"
        if hasattr(report, "wasxfail") or report.outcome == "skipped":
            self.outcomes[name] = Outcome("skipped")
        elif report.outcome == "failed":
            self.outcomes[name] = Outcome("failed", _words(call.excinfo.value))
        elif report.when == "call":
            self.outcomes[name] = Outcome("passed" if adapter.uses else "not ours")
        return report


def _words(error: BaseException | None) -> str:
    """Return what an error says, and those that it came from: what a test waits for does not come after an error."""
    words = []
    while error is not None:
        words.append(f"{type(error).__name__}: {error}")
        error = error.__context__
    return "\n  after ".join(words)


def main() -> int:
    """Return the exit status."""
    expected = read(Path(__file__).with_name("scikit_learn.toml"))
    if sklearn.__version__ != expected.version:
        print(f"scikit-learn is {sklearn.__version__}: what is expected was written for {expected.version}")
        return 1
    peers, some = Peers(), sys.argv[1:]
    options = [*OPTIONS, *(some or ["--tb=no", "-k", WITHOUT])]
    status = pytest.main([*options, *(str(THEIRS / file) for file in FILES)], plugins=[peers])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(status)
    found = differences(peers.outcomes, expected, some=bool(some))
    print("", table(counted(peers.outcomes, expected)), "", *found, sep="\n")
    print(f"{len(found)} differences from scikit_learn.toml" if found else "as scikit_learn.toml has it")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
