"""Rows that are held out end a run in the rounds that train it."""

from dataclasses import replace

import array_api_strict
import dask.array as da
import numpy as np
import pytest
import refusing
from problems import dense_block

from dist_dot import (
    Checkpoints,
    EarlyStopping,
    LogisticRegression,
    Objective,
    PoissonRegressor,
    SolverError,
    Status,
    lay_out,
    losses,
    minimise,
)
from dist_dot.errors import InputError
from dist_dot.kernels.passes import ValueAndGradient
from dist_dot.rounds.held_out import KeptAndScored, held_out
from dist_dot.rows.arrays import Parameters, to_host
from dist_dot.solvers import LBFGS, GradientDescent, Newton

pytestmark = pytest.mark.filterwarnings("ignore:Sending large graph")
SOLVERS = [LBFGS(), GradientDescent(), Newton("cg"), Newton("cholesky")]
LOSSES = [losses.Logistic(), losses.Softmax(3), losses.Poisson(), losses.Huber(0.5)]


def noisy(loss, n=240, p=60):
    """Return rows with more columns than they can teach, which a fit without penalty learns by heart."""
    random = np.random.default_rng(11)
    X = random.standard_normal((n, p))
    z = X[:, 0] + random.standard_normal(n)
    y = {"logistic": z > 0, "softmax": np.digitize(z, [-1, 1]), "poisson": np.abs(z).round(), "huber": z}[loss.name]
    return X, y.astype(float), random.uniform(0.5, 2, n)


def drawn(n, one_in=10):
    return np.asarray(held_out(dense_block(np.zeros((n, 1)), np.zeros(n)), one_in))


@pytest.mark.parametrize("library", [np, array_api_strict, refusing.library])
@pytest.mark.parametrize("one_in", [2, 7, 10])
def test_the_rows_held_out_do_not_hang_on_the_cuts(library, one_in):
    n = 1003
    whole = drawn(n, one_in)
    assert [group.sum() for group in np.split(whole[: n // one_in * one_in], n // one_in)] == [1] * (n // one_in)
    assert len({tuple(group) for group in np.split(whole[: n // one_in * one_in], n // one_in)}) == one_in
    ends = [0, 0, 1, 64, 500, 501, n]
    parts = [
        held_out(
            dense_block(library.asarray(np.zeros((stop - start, 1))), library.asarray(np.zeros(1)), None, start), one_in
        )
        for start, stop in zip(ends, ends[1:], strict=False)
    ]
    np.testing.assert_array_equal(np.concatenate([to_host(part) for part in parts]), whole)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_run_is_that_of_the_other_rows_until_the_loss_rises(solver, loss, weighted):
    X, y, s = noisy(loss)
    s = s if weighted else None
    held = drawn(len(y))
    stopping = EarlyStopping(patience=4)
    fit = minimise(Objective(lay_out(X, y, s, block_rows=50), loss, 1e-3), solver, tol=0, early_stopping=stopping)
    validation = np.array([progress.validation for progress in fit.history])
    assert fit.status is Status.EARLY_STOPPED
    assert fit.n_iter == np.argmin(validation) + 4
    # F, its rounds and its course are those of the rows that were kept, alone.
    kept = Objective(lay_out(X[~held], y[~held], None if s is None else s[~held]), loss, 1e-3)
    alone = minimise(kept, solver, tol=0, max_iter=fit.n_iter)
    assert abs(alone.rounds - fit.rounds) <= 0.02 * fit.rounds  # conjugate gradients may take one more, by rounding
    np.testing.assert_allclose([p.value for p in fit.history], [p.value for p in alone.history], rtol=1e-5)
    # And the coefficients are those of the lowest loss on the rows that were held out.
    best = minimise(kept, solver, tol=0, max_iter=int(np.argmin(validation)))
    np.testing.assert_allclose(fit.w, best.w, rtol=1e-5, atol=1e-6)
    assert fit.value == fit.history[int(np.argmin(validation))].value
    assert fit.value == pytest.approx(kept.value_and_gradient(fit.parameters)[0], rel=1e-12)
    rows = Objective(lay_out(X[held], y[held], None if s is None else s[held]), loss)
    at = rows.join(fit.w.reshape(X.shape[1], -1), np.atleast_1d(fit.intercept))
    weight = held.sum() if s is None else s[held].sum()
    assert rows.value_and_gradient(at)[0] / weight == pytest.approx(validation.min(), rel=1e-12)


def test_a_run_that_converges_first_is_as_without():
    X, y, _ = noisy(losses.Logistic())
    held = drawn(len(y))
    fit = minimise(Objective(lay_out(X, y), losses.Logistic(), 100.0), "newton", early_stopping=EarlyStopping(50))
    alone = minimise(Objective(lay_out(X[~held], y[~held]), losses.Logistic(), 100.0), "newton")
    assert fit.status is alone.status is Status.CONVERGED and fit.rounds == alone.rounds
    np.testing.assert_allclose(fit.w, alone.w, rtol=1e-9)
    assert minimise(Objective(lay_out(X, y), losses.Logistic(), 1.0)).history[-1].validation is None


def test_a_solver_that_does_not_ask_for_f_pays_a_round():
    X, y, _ = noisy(losses.Huber())
    held = drawn(len(y))
    objective = Objective(lay_out(X, y), losses.Squared(), 1.0)
    fit = minimise(objective, GradientDescent(reuse="gram"), early_stopping=EarlyStopping())
    rows = Objective(lay_out(X[held], y[held]), losses.Squared())
    lowest = min(progress.validation for progress in fit.history)
    assert lowest == pytest.approx(rows.value_and_gradient(fit.parameters)[0] / held.sum())
    with pytest.raises(SolverError, match="exact takes one: name another"):
        minimise(objective, early_stopping=EarlyStopping())


def test_a_resumed_run_has_the_bits_of_no_interruption(tmp_path):
    X, y, s = noisy(losses.Logistic())
    objective = Objective(lay_out(X, y, s, block_rows=64), losses.Logistic(), 1e-3)
    straight = minimise(objective, LBFGS(), tol=0, early_stopping=EarlyStopping())
    lowest = straight.n_iter - 10
    for end in (lowest - 2, lowest + 3):
        checkpoints = Checkpoints(str(tmp_path / str(end)))
        options = {"tol": 0, "early_stopping": EarlyStopping()}
        minimise(objective, LBFGS(), max_iter=end, checkpoint=checkpoints, **options)
        resumed = minimise(objective, LBFGS(), checkpoint=replace(checkpoints, resume=True), **options)
        assert resumed.parameters.tobytes() == straight.parameters.tobytes()
        assert [p.validation for p in resumed.history] == [p.validation for p in straight.history]
        assert resumed.rounds == straight.rounds and resumed.status is Status.EARLY_STOPPED
    with pytest.raises(InputError, match="its early stopping differ"):
        minimise(objective, LBFGS(), tol=0, checkpoint=replace(checkpoints, resume=True))


def test_the_same_bits_on_a_cluster(clients):
    X, y, _ = noisy(losses.Logistic())
    here = LogisticRegression(1e3, tol=0, early_stopping=EarlyStopping(5)).fit(X, y)
    assert here.fit_.status is Status.EARLY_STOPPED
    with clients(2).as_current():
        chunks = da.from_array(X, (80, -1)), da.from_array(y, 80)
        there = LogisticRegression(1e3, tol=0, early_stopping=EarlyStopping(5)).fit(*chunks)
    assert there.coef_.tobytes() == here.coef_.tobytes() and there.fit_.rounds == here.fit_.rounds


def test_a_step_that_was_refused_costs_a_resumed_run_no_round(tmp_path):
    random = np.random.default_rng(2)
    X = random.standard_normal((240, 60))
    y = random.poisson(np.exp(3 + X[:, 0])).astype(float)
    objective = Objective(lay_out(X, y, block_rows=48), losses.Poisson(), 1e-3)
    options = {"tol": 0, "early_stopping": EarlyStopping()}
    straight = minimise(objective, GradientDescent(), max_iter=8, **options)
    assert straight.history[1].value == straight.history[2].value  # refused, the second time in a row
    checkpoints = Checkpoints(str(tmp_path))
    minimise(objective, GradientDescent(), max_iter=1, checkpoint=checkpoints, **options)
    again = replace(checkpoints, resume=True)
    resumed = minimise(objective, GradientDescent(), max_iter=8, checkpoint=again, **options)
    assert [(p.rounds, p.validation) for p in resumed.history] == [(p.rounds, p.validation) for p in straight.history]


@pytest.mark.parametrize("library", [np, array_api_strict, refusing.library])
@pytest.mark.parametrize("targets", [1, 2])
def test_a_block_may_hold_nothing_out(library, targets):
    """As the last one of many does, where it is short."""
    X, y, _ = noisy(losses.Huber())
    number = int(np.argmin(drawn(len(y))))
    Y = y if targets == 1 else np.column_stack([y, -y])
    block = dense_block(*(library.asarray(part[number : number + 1]) for part in (X, Y)), None, number)
    kernel, at = ValueAndGradient(losses.Huber()), Parameters(np.ones(targets * 61) / 9)
    found = to_host(KeptAndScored(kernel, 10)(block, at))
    np.testing.assert_array_equal(found, np.append(to_host(kernel(block, at)), [0.0, 0.0]))


def test_estimators_pass_it_on():
    X, y, s = noisy(losses.Poisson())
    model = PoissonRegressor(alpha=0, solver="lbfgs", tol=0, early_stopping=EarlyStopping(3)).fit(X, y, s)
    lowest = min(progress.validation for progress in model.fit_.history)
    assert model.fit_.status is Status.EARLY_STOPPED
    assert model.fit_.history[-4].validation == lowest == model.fit_.frame()["validation"].min()


@pytest.mark.parametrize("options", [{"patience": 0}, {"one_in": 1}])
def test_options_are_checked(options):
    with pytest.raises(InputError, match=next(iter(options))):
        EarlyStopping(**options)


def test_too_few_rows_are_named():
    X, y = np.arange(3.0)[:, None], np.array([0.0, 1.0, 1.0])
    with pytest.raises(InputError, match="one row in 10, and those have no weight"):
        LogisticRegression(early_stopping=EarlyStopping()).fit(X, y, ~drawn(3))
