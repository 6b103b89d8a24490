"""The digits of NIST's reference sets, however the rows are cut."""

import numpy as np
import pytest

from benchmarks import nist
from dist_dot import LinearRegression, solvers

PROBLEMS = nist.problems()
pytestmark = pytest.mark.parametrize("problem", PROBLEMS, ids=[problem.name for problem in PROBLEMS])


def enough(problem):
    """Filip's decimals become doubles: at its condition that alone costs all but some seven digits."""
    return 7.0 if problem.name == "filip" else 9.0


def test_coefficients_and_rounds(problem):
    for method, rounds in (("qr", 7), ("auto", 8)):
        fits = [nist.ours(problem, method, blocks) for blocks in nist.CUTS]
        digits = [nist.digits(nist.coefficients(fit), problem.coefficients) for fit in fits]
        assert min(digits) >= enough(problem), digits
        assert max(fit.rounds for fit in fits) <= rounds
        if fits[0].state.method == "qr":  # the refinement ends where the cuts do not matter any more
            assert max(digits) - min(digits) < 0.2


def test_standard_errors(problem):
    for blocks in nist.CUTS:
        inference = nist.ours(problem, "qr", blocks).inference()
        errors = np.roll(inference.standard_error, int(problem.fit_intercept))
        assert nist.digits(errors, problem.standard_errors) >= enough(problem)
        assert nist.digits(inference.deviation, problem.deviation) >= enough(problem)


def test_the_estimator_goes_to_qr_by_itself(problem):
    model = LinearRegression(fit_intercept=problem.fit_intercept).fit(problem.X, problem.y)
    found = np.append([model.intercept_] if problem.fit_intercept else [], model.coef_)
    assert nist.digits(found, problem.coefficients) >= enough(problem)
    turned = model.fit_.state.method == "qr"
    assert turned == (problem.name.startswith("wampler") or problem.name == "filip")
    assert model.fit_.note.startswith("gram -> qr: the condition is") == turned


def test_refinement_is_what_gives_the_digits(problem, monkeypatch):
    monkeypatch.setattr(solvers.exact, "REFINEMENTS", 0)
    digits = nist.digits(nist.coefficients(nist.ours(problem, "qr", 1)), problem.coefficients)
    assert digits < (7.0 if problem.name == "wampler5" else 15.1)
