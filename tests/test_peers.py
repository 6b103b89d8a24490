"""What `make test-peers` is sure of: no difference is silent, and our estimators take scikit-learn's parameters."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from peers import adapter, expectations
from peers.expectations import Expectations, Expected, Outcome, counted, differences
from sklearn.base import clone

SPARSE = Expected("to come", "sparse X", "Sparse data", ("a.py::test_x[*csr*]", "a.py::test_y"))
FOUND = {
    "a.py::test_x[None-1]": Outcome("passed"),
    "a.py::test_x[csr-1]": Outcome("failed", "TypeError: Sparse data was passed"),
    "a.py::test_y[1]": Outcome("failed", "TypeError: Sparse data was passed"),
    "a.py::test_y[2]": Outcome("skipped"),
    "a.py::test_z": Outcome("not ours"),
}
COUNTS = {"a.py": {"passed": 1, "to come": 2, "skipped": 1, "not ours": 1}}


def test_what_is_as_expected_makes_no_difference():
    assert differences(FOUND, Expectations("1", COUNTS, (SPARSE,))) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a.py::test_x[None-1]": Outcome("failed", "wrong")}, "a.py::test_x[None-1]: fails: wrong"),
        ({"a.py::test_x[csr-1]": Outcome("failed", "wrong")}, "does not fail with 'Sparse data', but: wrong"),
        ({"a.py::test_x[csr-1]": Outcome("passed")}, "a.py::test_x[csr-1]: passed, but expected to fail: sparse X"),
        ({"a.py::test_x[csr-1]": Outcome("not ours")}, "a.py::test_x[csr-1]: not ours, but expected to fail"),
        ({"a.py::test_y[1]": Outcome("skipped")}, "a.py::test_y: no such test fails: sparse X"),
        ({"a.py::test_x[None-1]": Outcome("not ours")}, "a.py: counts are "),
        ({"a.py::test_new": Outcome("passed")}, "a.py: counts are "),
        ({"b.py::test_new": Outcome("passed")}, "b.py: counts are "),
    ],
)
def test_a_difference_is_said(change, words):
    assert any(words in line for line in differences(FOUND | change, Expectations("1", COUNTS, (SPARSE,))))


def test_a_test_that_two_entries_name():
    both = (SPARSE, Expected("by design", "other words", "", ("a.py::test_y[1]",)))
    assert "a.py::test_y[1]: expected to fail twice: sparse X; other words" in differences(
        FOUND, Expectations("1", COUNTS, both)
    )


def test_where_some_tests_ran_those_alone_are_compared():
    some = {name: FOUND[name] for name in ("a.py::test_x[csr-1]", "a.py::test_z")}
    assert differences(some, Expectations("1", COUNTS, (SPARSE,)), some=True) == []


def test_what_is_expected_can_be_read_and_adds_up():
    expected = expectations.read(Path(expectations.__file__).with_name("scikit_learn.toml"))
    assert all(each.why and each.says and each.tests for each in expected.failures)
    assert all(set(each) <= set(expectations.COLUMNS) for each in expected.counts.values())
    assert counted({"a.py::test_x": Outcome("failed", "wrong")}, expected) == {"a.py": {"failed": 1}}


ROWS = np.random.default_rng(5).standard_normal((30, 2))


def test_words_of_scikit_learn_become_ours_for_a_fit():
    model = adapter.OURS["Ridge"](0.5, solver="svd", max_iter=None, random_state=0)
    fitted = pickle.loads(pickle.dumps(clone(model).set_params(copy_X=False).fit(ROWS, ROWS[:, 0])))
    assert fitted.fit_.solver.startswith("Exact(")
    assert fitted.get_params()["solver"] == fitted.solver_ == "svd"
    assert fitted.get_params()["max_iter"] is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Ridge", {"positive": True}),
        ("LogisticRegression", {"l1_ratio": 0.5}),
        ("LogisticRegression", {"penalty": None}),
        ("LogisticRegressionCV", {"l1_ratios": (0, 1)}),
        ("RidgeCV", {"cv": 3, "scoring": "neg_mean_squared_error"}),
    ],
)
def test_what_we_do_not_have_is_refused_and_not_ignored(name, parameters):
    with pytest.raises(TypeError, match=f"dist_dot.{name} has no parameter {list(parameters)[-1]}: "):
        clone(adapter.OURS[name](**parameters)).fit(ROWS, ROWS[:, 0] > 0)
