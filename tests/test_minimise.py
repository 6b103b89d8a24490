"""Solvers x problems with known optima and round counts; the loop; checkpoints."""

import json
import multiprocessing
import os
import time
import warnings
from dataclasses import dataclass, replace

import fsspec
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save

from dist_dot import Checkpoints, Objective, SolverError, Status, lay_out, losses, minimise
from dist_dot.errors import ClusterError, InputError
from dist_dot.reference import Reference
from dist_dot.solvers import LBFGS, GradientDescent, Newton
from dist_dot.solvers.curvature import largest_curvature
from dist_dot.training.callbacks import TimeLimit
from dist_dot.training.checkpoint import Checkpoint, _digest


def optimum(X, y, alpha, fit_intercept):
    """The normal equations of the centred columns, by least squares."""
    mean, mean_y = (X.mean(0), y.mean()) if fit_intercept else (np.zeros(X.shape[1]), 0.0)
    A = np.vstack([X - mean, np.sqrt(alpha) * np.eye(X.shape[1])])
    w = np.linalg.lstsq(A, np.append(y - mean_y, np.zeros(X.shape[1])), rcond=None)[0]
    return np.append(w, mean_y - mean @ w)


@pytest.mark.parametrize(
    ("solver", "rounds"),
    [(GradientDescent(), 250), (GradientDescent(momentum=None), 3300)],
    ids=["nesterov", "plain"],
)
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_optimum_in_so_many_rounds(rows, solver, rounds, alpha, fit_intercept):
    X, y = rows
    objective = Objective(lay_out(X, y, block_rows=100), losses.Squared(), alpha, fit_intercept)
    fit = minimise(objective, solver, tol=1e-11, max_iter=5000)
    best = optimum(X, y, alpha, fit_intercept)[: objective.n_parameters]
    assert fit.status is Status.CONVERGED
    lowest = objective.value_and_gradient(best)[0]
    assert fit.value <= lowest * (1 + 1e-10)
    assert fit.rounds <= rounds
    np.testing.assert_allclose(fit.parameters, best, rtol=1e-6, atol=1e-6)


def test_a_bound_that_is_too_small_is_noticed(rows, monkeypatch):
    monkeypatch.setattr("dist_dot.solvers.gradient.largest_curvature", lambda product, size: 1e-3)
    fit = minimise(Objective(lay_out(*rows), losses.Squared(), 1.0), GradientDescent(), tol=1e-8, max_iter=3000)
    assert fit.status is Status.CONVERGED


@pytest.mark.parametrize("size", [1, 3, 200])
def test_the_curvature_bound_is_safe_and_close(size):
    random = np.random.default_rng(size)
    A = random.standard_normal((size, size))
    A = A @ A.T
    largest = np.linalg.eigvalsh(A)[-1]
    assert largest <= largest_curvature(lambda v: A @ v, size) <= 1.5 * largest


def test_statuses(rows):
    objective = Objective(lay_out(*rows), losses.Squared(), 1.0)
    assert minimise(objective, GradientDescent(), max_iter=3).status is Status.MAX_ITER
    wild = GradientDescent(learning_rate=1e3, momentum=None, preconditioner=None)
    with np.errstate(over="ignore", invalid="ignore"):
        assert minimise(objective, wild, max_iter=500).status is Status.DIVERGED
    seen = []
    fit = minimise(objective, GradientDescent(), callbacks=(seen.append, lambda p: p.iteration == 4))
    assert fit.status is Status.STOPPED and fit.n_iter == 4
    assert tuple(seen) == fit.history


def test_a_time_limit_stops_the_run(rows):
    objective = Objective(lay_out(*rows), losses.Squared(), 1.0)
    fit = minimise(objective, GradientDescent(), tol=0, max_iter=10**9, callbacks=(TimeLimit(0.2),))
    assert fit.status is Status.STOPPED
    assert fit.history[-2].seconds < 0.2 <= fit.history[-1].seconds
    with pytest.raises(InputError, match="seconds is 0"):
        TimeLimit(0)


def test_rates_are_those_of_rounds_after_the_first_evaluation(rows):
    once = minimise(Objective(lay_out(*rows), losses.Squared(), 1.0), "exact")
    assert once.rounds == 1 and once.seconds_per_round is None and once.bytes_per_second is None
    many = minimise(Objective(lay_out(*rows), losses.Squared(), 1.0), "lbfgs")
    times = np.diff([p.seconds for p in many.history]) / np.diff([p.rounds for p in many.history])
    assert many.seconds_per_round == pytest.approx(np.median(times))
    assert many.bytes_per_second == pytest.approx(many.history[-1].nbytes / np.median(times))


def test_the_history_is_a_frame(rows):
    fit = minimise(Objective(lay_out(*rows), losses.Squared(), 1.0), GradientDescent())
    frame = fit.frame()
    assert list(frame.columns[:3]) == ["iteration", "rounds", "value"] and len(frame) == len(fit.history)
    assert frame.value.iloc[-1] == fit.value


def test_a_warm_start_stops_by_the_same_test(rows):
    objective = Objective(lay_out(*rows), losses.Squared(), 1.0)
    cold = minimise(objective, GradientDescent(), tol=1e-8)
    warm = minimise(objective, GradientDescent(), tol=1e-8, start=cold.parameters)
    assert warm.status is Status.CONVERGED and warm.n_iter == 0


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_several_targets_share_the_rounds(rows, fit_intercept):
    X, y = rows
    Y = np.column_stack([y, X[:, 0] - y, np.arange(600.0)])
    fit = minimise(
        Objective(lay_out(X, Y, block_rows=100), losses.Squared(), 1.0, fit_intercept), GradientDescent(), tol=1e-11
    )
    assert fit.status is Status.CONVERGED and fit.w.shape == (7, 3) and fit.rounds < 300
    for c in range(3):
        best = optimum(X, Y[:, c], 1.0, fit_intercept)
        np.testing.assert_allclose(np.append(fit.w[:, c], fit.intercept[c]), best, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"learning_rate": 0.0}, {"learning_rate": "fast"}, {"momentum": "heavy"}, {"preconditioner": "full"}]
)
def test_options_are_checked(options):
    with pytest.raises(SolverError, match=next(iter(options))):
        GradientDescent(**options)


def test_resume_gives_the_bits_of_no_interruption(rows, tmp_path):
    objective = Objective(lay_out(*rows, block_rows=64), losses.Squared(), 1.0)
    straight = minimise(objective, GradientDescent(), tol=1e-9)
    first = Checkpoints(str(tmp_path), every=7)
    cut_short = minimise(objective, GradientDescent(), tol=1e-9, max_iter=25, checkpoint=first)
    assert cut_short.n_iter == 25 < straight.n_iter
    assert len(list(tmp_path.iterdir())) == 2
    resumed = minimise(objective, GradientDescent(), tol=1e-9, checkpoint=replace(first, resume=True))
    assert resumed.parameters.tobytes() == straight.parameters.tobytes()
    assert [p.value for p in resumed.history] == [p.value for p in straight.history]
    assert resumed.rounds == straight.rounds


@pytest.mark.parametrize("loss", [losses.Squared(), losses.Huber(1.0)])
@pytest.mark.parametrize("solver", [Newton("cholesky"), Newton("cg"), LBFGS()])
def test_resume_takes_the_rounds_of_no_interruption(rows, tmp_path, solver, loss):
    objective = Objective(lay_out(*rows, block_rows=64), loss, 1.0)
    straight = minimise(objective, solver, tol=1e-9)
    checkpoints = Checkpoints(str(tmp_path), every=1)
    minimise(objective, solver, tol=1e-9, max_iter=straight.n_iter - 1, checkpoint=checkpoints)
    resumed = minimise(objective, solver, tol=1e-9, checkpoint=replace(checkpoints, resume=True))
    assert resumed.parameters.tobytes() == straight.parameters.tobytes()
    assert resumed.rounds == straight.rounds and resumed.status is straight.status


def test_a_damaged_checkpoint_is_passed_over(rows, tmp_path):
    objective = Objective(lay_out(*rows), losses.Squared(), 1.0)
    checkpoints = Checkpoints(str(tmp_path), every=5, resume=True)
    minimise(objective, GradientDescent(), tol=0, max_iter=12, checkpoint=checkpoints)
    older, newest = sorted(tmp_path.iterdir())
    content = bytearray(newest.read_bytes())
    content[-20] ^= 1
    newest.write_bytes(content)
    seen = []
    minimise(objective, GradientDescent(), tol=0, max_iter=12, checkpoint=checkpoints, callbacks=(seen.append,))
    assert older.name == "000000010.safetensors" and seen[0].iteration == 10


def test_the_checkpoint_of_another_run_is_refused(rows, tmp_path):
    X, y = rows
    checkpoints = Checkpoints(str(tmp_path), every=5, resume=True)
    minimise(Objective(lay_out(X, y), losses.Squared(), 1.0), GradientDescent(), max_iter=5, checkpoint=checkpoints)
    for other, words in (
        (Objective(lay_out(X, y), losses.Squared(), 2.0), "its alpha differ"),
        (Objective(lay_out(X, y + 1), losses.Squared(), 1.0), "its data differ"),
    ):
        with pytest.raises(InputError, match=words):
            minimise(other, GradientDescent(), max_iter=5, checkpoint=checkpoints)


@pytest.mark.parametrize("place", ["folder", "alpha=[1]", "run*", "why?", "{a,b}", "[!a", "memory://checkpoints/run"])
def test_checkpoints_in_any_store(rows, tmp_path, place):
    place = place if "://" in place else str(tmp_path / place)
    objective = Objective(lay_out(*rows, block_rows=64), losses.Squared(), 1.0)
    straight = minimise(objective, GradientDescent(), tol=0, max_iter=40)
    minimise(objective, GradientDescent(), tol=0, max_iter=25, checkpoint=Checkpoints(place, every=7))
    store, folder = fsspec.url_to_fs(place)
    assert sorted(path[-21:] for path in store.ls(folder, detail=False)) == [
        "000000021.safetensors",
        "000000025.safetensors",
    ]
    resumed = minimise(objective, GradientDescent(), tol=0, max_iter=40, checkpoint=Checkpoints(place, resume=True))
    assert resumed.parameters.tobytes() == straight.parameters.tobytes()


def test_a_url_that_may_stand_for_several_places_is_refused():
    for letter in "*?[":
        with pytest.raises(InputError, match="without them"):
            Checkpoints(f"memory://checkpoints{letter}/run")


@pytest.mark.parametrize("name", ["run", "alpha=[1] *?"])
def test_a_fresh_start_puts_what_was_there_aside(rows, tmp_path, name):
    objective = Objective(lay_out(*rows), losses.Squared(), 1.0)
    folder = tmp_path / name
    for steps in (10, 20):
        minimise(objective, GradientDescent(), tol=0, max_iter=steps, checkpoint=Checkpoints(str(folder), every=6))
        (folder / ".000000099.safetensors.7").touch()  # of a writer that has died
    minimise(
        objective, GradientDescent(), tol=0, max_iter=20, checkpoint=Checkpoints(str(folder), every=6, resume=True)
    )
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "000000006.safetensors.before", "000000010.safetensors.before", "000000018.safetensors", "000000020.safetensors"
    ]  # fmt: skip


def test_what_a_cluster_cannot_finish_is_kept(rows, tmp_path):
    objective = Objective(lay_out(*rows), losses.Squared(), 1.0)

    class Failing(GradientDescent):
        def step(self, objective, state):
            if objective.blocks.rounds > 30:
                raise ClusterError("no workers")
            return super().step(objective, state)

    with pytest.raises(ClusterError):
        minimise(objective, Failing(), tol=0, checkpoint=Checkpoints(str(tmp_path), every=10**6))
    (saved,) = tmp_path.iterdir()
    assert int(saved.stem[:9]) > 10


def test_a_damaged_file_is_reported(rows, tmp_path, notices):
    objective = Objective(lay_out(*rows), losses.Squared(), 1.0)
    checkpoints = Checkpoints(str(tmp_path), every=5, resume=True)
    minimise(objective, GradientDescent(), tol=0, max_iter=12, checkpoint=checkpoints)
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    minimise(objective, GradientDescent(), tol=0, max_iter=12, checkpoint=checkpoints)
    assert f"{newest} is damaged and passed over" in notices[0]


def test_files_of_another_version_are_put_aside(rows, tmp_path, notices):
    objective = Objective(lay_out(*rows), losses.Squared(), 1.0)
    checkpoints = Checkpoints(str(tmp_path), every=5, resume=True)
    minimise(objective, GradientDescent(), tol=0, max_iter=30, checkpoint=checkpoints)
    for path in tmp_path.iterdir():
        header, arrays = json.loads(safe_open(path, "numpy").metadata()["header"]), load_file(path)
        del header["reference"]
        text = json.dumps(header)
        path.write_bytes(save(arrays, metadata={"header": text, "digest": _digest(text, arrays)}))
    minimise(objective, GradientDescent(), tol=0, max_iter=12, checkpoint=checkpoints)
    assert len(notices) == 2 and all("is of another version" in words for words in notices)
    names = sorted(path.name.partition(".")[2] for path in tmp_path.iterdir())
    assert names == ["safetensors", "safetensors", "safetensors.before", "safetensors.before"]


@pytest.mark.parametrize("solver", [Newton(), Newton("cg"), LBFGS(), GradientDescent()])
def test_a_start_of_another_length_is_refused(rows, solver):
    objective = Objective(lay_out(*rows), losses.Squared(), 1.0)
    with pytest.raises(InputError, match=r"parameters have shape \(3,\)"):
        minimise(objective, solver, start=np.zeros(3))


@dataclass(frozen=True)
class Large:
    """A state of a quarter of a megabyte."""

    parameters: np.ndarray
    value: float
    gradient: np.ndarray


def write_for_ever(folder, acknowledged):
    """Save checkpoints, one after the other, and say so after each."""
    checkpoints, x = Checkpoints(folder, every=1, resume=True), np.zeros(16_000)
    state = Large(x, 0.5, x)
    newest = checkpoints.newest("{}", Large, print)
    for iteration in range(newest.iteration + 1 if newest else 0, 10**9):
        checkpoints.save(Checkpoint("{}", state, Reference(x, 0.0, 0.0), iteration, 0, 0.0, ()))
        os.write(acknowledged, iteration.to_bytes(8, "little"))


def test_a_writer_killed_at_any_moment_leaves_a_good_checkpoint(tmp_path):
    random, last = np.random.default_rng(0), -1
    torn = 0
    for _ in range(200):
        ours, theirs = os.pipe()
        process = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(str(tmp_path), theirs))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads: it only writes
            process.start()
        os.close(theirs)
        first = os.read(ours, 8)  # it is at work
        time.sleep(random.uniform(0, 0.02))
        process.kill()
        process.join()
        rest = first
        while chunk := os.read(ours, 1 << 16):
            rest += chunk
        os.close(ours)
        last = int.from_bytes(rest[len(rest) // 8 * 8 - 8 : len(rest) // 8 * 8], "little")
        torn += bool(list(tmp_path.glob(".*")))
        damaged = []
        found = Checkpoints(str(tmp_path), resume=True).newest("{}", Large, damaged.append)
        assert found.iteration in (last, last + 1) and not damaged
        assert not list(tmp_path.glob(".*"))  # what it left half written is gone
    assert torn > 10  # it was killed in the middle of writing
