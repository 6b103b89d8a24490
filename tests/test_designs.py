"""Designs: those side by side are their columns together, and a kind that nobody has seen trains like any other."""

import pickle
from dataclasses import replace

import array_api_strict
import cloudpickle
import numpy as np
import pytest
import refusing
from circulant import Circulant, Maker
from problems import Problem, minimum

from dist_dot import Checkpoints, EarlyStopping, Objective, Status, lay_out, losses, minimise
from dist_dot.kernels.checksum import checksum
from dist_dot.kernels.scores import Correct, RankCounts, SquaredErrors
from dist_dot.objective import Linear
from dist_dot.rounds.layout import lay_out_rows
from dist_dot.rows.arrays import to_host
from dist_dot.rows.block import Block
from dist_dot.rows.design import Dense, Stacked
from dist_dot.solvers import LBFGS, Exact, GradientDescent, Newton
from dist_dot.training.cross_validation import CrossValidation
from dist_dot.training.loop import Loop
from dist_dot.training.together import CrossValidated, Together, minimise_path

LIBRARIES = [np, array_api_strict, refusing.library]
SHAPES = {
    "one": lambda d: Stacked((d[0],)),
    "one column": lambda d: Stacked((d[1],)),
    "two": lambda d: Stacked((d[0], d[1])),
    "two alike": lambda d: Stacked((d[0], d[0])),
    "three": lambda d: Stacked((d[1], d[0], d[2])),
    "inside": lambda d: Stacked((Stacked((d[1], d[2])), d[0])),
    "inside of inside": lambda d: Stacked((d[0], Stacked((Stacked((d[1],)), d[2], d[1])))),
}
ROWS = 11


def arrays(dtype="float64"):
    """Three designs of 4, 1 and 2 columns."""
    random = np.random.default_rng(0)
    return [random.standard_normal((ROWS, p)).astype(dtype) for p in (4, 1, 2)]


def leaves(design):
    """The arrays of a design, from left to right."""
    if isinstance(design, Circulant):
        return [design.vector, design.numbers]
    return [design.values] if isinstance(design, Dense) else [a for part in design.designs for a in leaves(part)]


def stacked(shape, library=np, dtype="float64"):
    """Return a design, and the array that it is."""
    design = SHAPES[shape]([Dense(array) for array in arrays(dtype)])
    there = SHAPES[shape]([Dense(array if library is np else library.asarray(array)) for array in arrays(dtype)])
    return there, np.hstack(leaves(design))


def close(found, expected, dtype="float64"):
    tight = dtype == "float64"
    np.testing.assert_allclose(to_host(found), expected, rtol=1e-13 if tight else 1e-5, atol=1e-13 if tight else 1e-5)


# Designs side by side.


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_side_by_side_is_the_columns_together(shape, dtype, library):
    design, X = stacked(shape, library, dtype)
    own = (lambda array: array) if library is np else library.asarray
    random = np.random.default_rng(1)
    assert design.shape == X.shape and design.nbytes == X.nbytes
    np.testing.assert_array_equal(to_host(design.dense()), X)
    for width in ((), (1,), (3,)):
        W, R = (random.standard_normal((size, *width)).astype(dtype) for size in X.shape[::-1])
        for found, expected in ((design.times(own(W)), X @ W), (design.transposed_times(own(R)), R.T @ X)):
            assert found.shape == expected.shape and found.dtype == design.dense().dtype
            assert type(found) is type(own(X))
            close(found, expected, dtype)
    for wide in {dtype, "float64"}:
        d = random.uniform(0, 2, ROWS).astype(wide)
        close(design.gram(own(d)), X.T @ (d[:, None] * X), wide if dtype == "float64" else dtype)
        for name in SHAPES:
            other, Z = stacked(name, library, dtype)
            close(design.cross(other, own(d)), X.T @ (d[:, None] * Z), wide if dtype == "float64" else dtype)
        plain = Dense(own(X[:, ::-1].copy()))
        close(design.cross(plain, own(d)), X.T @ (d[:, None] * X[:, ::-1]), wide if dtype == "float64" else dtype)
        close(plain.cross(design, own(d)), X[:, ::-1].T @ (d[:, None] * X), wide if dtype == "float64" else dtype)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_designs_side_by_side(shape, library):
    design, X = stacked(shape, library)
    for part in (slice(0, ROWS), slice(3, 8), slice(4, 5), slice(5, 5), slice(2, ROWS)):
        some = design.rows(part)
        assert some.shape == X[part].shape and some.nbytes == X[part].nbytes
        np.testing.assert_array_equal(to_host(some.dense()), X[part])
        half = slice(0, len(X[part]) // 2)
        np.testing.assert_array_equal(to_host(some.rows(half).dense()), X[part][half])
    for numbers in ([3, 1, 1, 10], [], [0]):
        numbers = np.array(numbers, int)
        some = design.take(numbers if library is np else library.asarray(numbers))
        assert some.shape == X[numbers].shape
        np.testing.assert_array_equal(to_host(some.dense()), X[numbers])
    if library is np:
        assert all(
            np.shares_memory(*pair) for pair in zip(leaves(design.rows(slice(2, 9))), leaves(design), strict=True)
        )


@pytest.mark.parametrize("make", [lambda X: Dense(X), lambda X: Stacked((Dense(X), Dense(X[:, :2].copy())))])
@pytest.mark.parametrize("library", LIBRARIES)
def test_rows_of_a_block_keep_every_column_and_their_place(library, make):
    random = np.random.default_rng(2)
    X, y = random.standard_normal((9, 3)), random.standard_normal((9, 2))
    beside = random.uniform(0, 1, (3, 9))
    own = (lambda array: array) if library is np else library.asarray
    design = make(X) if library is np else Stacked(tuple(Dense(own(a)) for a in leaves(make(X))))
    block = Block(design, own(y), own(beside[0]), 100, own(beside[1]), own(beside[2]))
    rest = block.rows(slice(2, 8))
    assert len(rest) == 6 and rest.start == 102 and rest.rows(slice(3, 5)).start == 105
    assert block.nbytes == block.X.nbytes + 9 * 5 * 8
    numbers = np.array([8, 0, 3])
    few = block.take(own(numbers))
    assert len(few) == 3 and few.start == 100
    for some, part in ((rest, slice(2, 8)), (few, numbers)):
        found = (some.X.dense(), some.y, some.weight, some.offset, some.fold)
        expected = (to_host(design.dense())[part], y[part], *(column[part] for column in beside))
        for mine, its in zip(found, expected, strict=True):
            np.testing.assert_array_equal(to_host(mine), its)
    bare = Block(design, own(y[:, 0]), None, 7).take(own(numbers))
    assert (bare.weight, bare.offset, bare.fold) == (None, None, None)


def designs():
    return {
        "dense": Dense(arrays()[0]),
        "by columns": Dense(np.asfortranarray(arrays()[0])),
        "with gaps": Dense(arrays()[0][:, ::2]),
        **{name: stacked(name)[0] for name in SHAPES},
        "circulant": circulant(ROWS),
        "every second row": circulant(2 * ROWS).take(np.arange(0, 2 * ROWS, 2)),
        "beside": Stacked((circulant(ROWS), Dense(arrays()[1]))),
    }


def moved(values):
    """Pickle with buffers of their own, and have them arrive one byte beside where numbers lie."""
    buffers, arrived = [], []
    stream = pickle.dumps(values, protocol=5, buffer_callback=buffers.append)
    for buffer in buffers:
        raw = buffer.raw()
        room = bytearray(raw.nbytes + 64)
        place = -np.frombuffer(room, np.uint8).ctypes.data % 64 + 1
        room[place : place + raw.nbytes] = raw
        arrived.append(memoryview(room)[place : place + raw.nbytes])
    return pickle.loads(stream, buffers=arrived)


def circulant(n=400, p=5, groups=4, dtype="float64", seed=3):
    vector = np.random.default_rng(seed).standard_normal(n + 11).astype(dtype)
    return Circulant(vector, np.arange(n), p, groups, 37)


@pytest.mark.parametrize("name", designs())
def test_designs_travel(name):
    design = designs()[name]
    y = np.arange(2.0 * ROWS)[::2]
    block = Block(design, y, y + 1, 5, y + 2, y + 3)
    ways = [lambda values, protocol=protocol: pickle.loads(pickle.dumps(values, protocol)) for protocol in range(6)]
    for way in (*ways, moved, lambda values: pickle.loads(cloudpickle.dumps(values))):
        there, alone = way(block), way(design)
        for array in (*leaves(there.X), *leaves(alone), *there.columns):
            assert array.flags.aligned and array.flags.c_contiguous
        for back in (there.X, alone):
            assert type(back) is type(design)
            np.testing.assert_array_equal(back.dense(), design.dense())
        assert there.start == 5
        for mine, its in zip(there.columns, block.columns, strict=True):
            np.testing.assert_array_equal(mine, its)
        assert checksum(there) == checksum(block)


# Checksums.


def test_checksums_differ_where_numbers_shapes_or_kinds_do():
    X, vector, y = arrays()[0], np.arange(20.0), np.zeros(ROWS)
    columns = [Dense(X[:, [j]].copy()) for j in range(4)]
    once = X.copy()
    once[7, 3] = np.nextafter(once[7, 3], 9.0)
    rows = np.arange(ROWS)
    kinds = [
        Dense(X),
        Dense(once),
        Dense(X.astype("float32")),
        Dense(X[:, :3].copy()),
        Dense(X[:, ::-1].copy()),
        Stacked((Dense(X),)),
        Stacked((Dense(X[:, :2].copy()), Dense(X[:, 2:].copy()))),
        Stacked((Dense(X[:, :1].copy()), Dense(X[:, 1:].copy()))),
        Stacked(tuple(columns)),
        Stacked(tuple(columns[::-1])),
        Circulant(vector, rows, 3, 1, 2),
        Circulant(vector, rows, 2, 2, 2),
        Circulant(vector, rows + 1, 3, 1, 2),
        Circulant(vector + 1e-15, rows, 3, 1, 2),
        Stacked((Circulant(vector, rows, 3, 1, 2),)),
    ]
    assert len({checksum(Block(kind, y, None, 0)) for kind in kinds}) == len(kinds)
    flat = {checksum(Block(Dense(np.zeros(shape)), np.zeros(shape[0]), None, 0)) for shape in ((6, 4), (4, 6), (24, 1))}
    assert len(flat) == 3


def test_checksums_differ_where_what_stands_beside_x_does():
    X, y, s, o = Dense(arrays()[0]), *np.random.default_rng(0).uniform(0, 1, (3, ROWS))
    later = np.append(o[:-1], np.nextafter(o[-1], 9.0))
    blocks = [
        Block(X, y, None, 0),
        Block(X, s, None, 0),
        Block(X, y, s, 0),
        Block(X, y, s, 0, o),
        Block(X, y, s, 0, later),
        Block(X, y, s, 0, o, y),
        Block(X, y, s, 0, o, s),
        Block(X, np.column_stack([y, s]), None, 0),
    ]
    assert len({checksum(block) for block in blocks}) == len(blocks)


@pytest.mark.parametrize("name", designs())
def test_checksums_are_those_of_the_same_rows(name):
    y = np.arange(float(ROWS))
    whole = checksum(Block(designs()[name], y, y, 0))
    assert checksum(Block(designs()[name], y.copy(), y, 0)) == whole
    assert checksum(Block(designs()[name], np.column_stack([y, y])[:, 0], y, 0)) == whole
    # Rows cut out of others have no memory of them.
    twice = designs()[name].take(np.append(np.arange(ROWS), np.arange(ROWS)))
    assert checksum(Block(twice.rows(slice(ROWS, 2 * ROWS)), y, y, 0)) == whole


# A kind that nobody has seen.

SOLVERS = {
    "gradient": GradientDescent(),
    "lbfgs": LBFGS(),
    "newton": Newton("cholesky"),
    "cg": Newton("cg"),
    "auto": "auto",
}
LEAST_SQUARES = {"gram": Exact("gram"), "qr": Exact("qr"), "exact": Exact(), "reuse": GradientDescent(reuse="gram")}


def table():
    random, X = np.random.default_rng(7), circulant().dense()
    n, p = X.shape
    z = X @ random.standard_normal(p) / 2
    noise, o = random.standard_normal((2, n))
    outliers = z + 0.1 * noise + 20 * (random.random(n) < 0.1)
    both = np.column_stack([z + noise, noise])
    codes = np.argmax(X[:, :4] + random.gumbel(size=(n, 4)), axis=1)
    of = {
        "squared": (losses.Squared(), z + noise),
        "squared, two targets": (losses.Squared(), both),
        "logistic": (losses.Logistic(), z + noise > 0),
        "softmax": (losses.Softmax(4), codes),
        "poisson": (losses.Poisson(), random.poisson(np.exp(z / 2 + 1))),
        "poisson, two targets": (losses.Poisson(), random.poisson(np.exp(both / 3))),
        "gamma": (losses.Gamma(), np.exp(z / 2) * random.gamma(2.0, size=n)),
        "huber": (losses.Huber(1.0), outliers),
        "huber, two targets": (losses.Huber(1.0), np.column_stack([outliers, z])),
    }
    weight = random.uniform(0.1, 2, n)
    problems = {name: Problem(name, loss, X, np.asarray(y, float), 1.0, weight) for name, (loss, y) in of.items()}
    bare = replace(problems["logistic"], weight=None, fit_intercept=False)
    moved = {f"{name}, offset": replace(problems[name], offset=o) for name in ("squared", "poisson", "huber")}
    return {**problems, "logistic, no intercept": bare, **moved}


PROBLEMS = table()


def each(names):
    """Return every problem with every solver that there is for its loss."""
    return [
        (name, solver)
        for name in names
        for solver in (SOLVERS | LEAST_SQUARES if name.startswith("squared") else SOLVERS)
    ]


def host(X, y, weight=None, client=None, block_rows=90, **columns):
    """Lay out rows of a circulant design, alone or beside others."""
    maker = Maker(X, {"y": y, "weight": weight, **columns}, block_rows)
    return lay_out_rows(maker, maker.cuts, client)


def pairs(X, *columns, block_rows=90, **others):
    """The same rows twice: as a design of their own, and in one array."""
    dense = {"block_rows": block_rows, **others}
    return host(X, *columns, block_rows=block_rows, **others), lay_out(X.dense(), *columns, **dense)


def blocks_of(problem, client=None):
    return host(circulant(), problem.y, problem.weight, client, offset=problem.offset)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_circulant_design_is_what_it_says(dtype):
    design = circulant(50, dtype=dtype).rows(slice(3, 44)).take(np.arange(40)[::-1])
    X, random = design.dense(), np.random.default_rng(0)
    np.testing.assert_array_equal(X[7, :5], np.roll(design.vector, design.numbers[7])[:5])
    assert X.shape == design.shape and X.dtype == dtype and (X[:, 5:].sum(axis=1) == 1).all()
    for width in ((), (3,)):
        W, R = (random.standard_normal((size, *width)).astype(dtype) for size in X.shape[::-1])
        close(design.times(W), X @ W, dtype)
        close(design.transposed_times(R), R.T @ X, dtype)


@pytest.mark.parametrize(("name", "solver"), each(PROBLEMS))
def test_a_new_kind_trains_to_the_optimum(name, solver):
    problem = PROBLEMS[name]
    objective = Objective(blocks_of(problem), problem.loss, problem.alpha, problem.fit_intercept)
    fit = minimise(objective, (SOLVERS | LEAST_SQUARES)[solver], tol=1e-10, max_iter=4000)
    value, W, b = minimum(problem)
    b = b - b.mean() if problem.loss.name == "softmax" else b
    assert fit.status is Status.CONVERGED and abs(fit.value - value) <= 1e-10 * abs(value)
    np.testing.assert_allclose(fit.w.reshape(W.shape), W, rtol=0, atol=1e-6 * np.abs(W).max())
    np.testing.assert_allclose(np.atleast_1d(fit.intercept), b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
@pytest.mark.parametrize("name", ["squared, two targets", "poisson, offset", "softmax"])
def test_the_bits_of_a_new_kind_do_not_depend_on_the_cluster(name, solver, clients):
    problem = PROBLEMS[name]
    solver = Exact("qr") if (name, solver) == ("squared, two targets", "newton") else SOLVERS[solver]
    here, there = (
        minimise(Objective(blocks_of(problem, client), problem.loss, problem.alpha), solver, tol=1e-10)
        for client in (None, clients(2))
    )
    assert there.where == "a Dask cluster of 2 workers" and there.rounds == here.rounds
    assert there.parameters.tobytes() == here.parameters.tobytes() and there.value == here.value
    value, W, _ = minimum(problem)
    assert abs(there.value - value) <= 1e-10 * abs(value)
    np.testing.assert_allclose(there.w.reshape(W.shape), W, rtol=0, atol=1e-6 * np.abs(W).max())


@pytest.mark.parametrize("folds", [0, 3])
def test_the_scores_of_a_new_kind_have_the_bits_of_the_cluster(folds, clients):
    problem = PROBLEMS["squared, two targets"]
    here, there = (
        host(circulant(), problem.y, problem.weight, client, fold=np.arange(400.0) % 3 if folds else None).run(
            CrossValidation((0.01, 1.0), folds, True), lambda progress: False
        )
        for client in (None, clients(2))
    )
    assert there.path.scores.tobytes() == here.path.scores.tobytes() and there.w.tobytes() == here.w.tobytes()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_what_an_objective_asks_of_a_new_kind(name, dtype):
    problem, random = PROBLEMS[name], np.random.default_rng(8)
    columns = (None if a is None else a.astype(dtype) for a in (problem.y, problem.weight, problem.offset))
    y, weight, offset = columns
    mine, its = (
        Objective(blocks, problem.loss, 0.5, problem.fit_intercept)
        for blocks in pairs(circulant(dtype=dtype), y, weight, offset=offset)
    )
    at, direction, *points = random.standard_normal((5, mine.n_parameters)) / 3
    centre = its.moments().mean

    def asked(objective):
        yield from objective.value_and_gradient(at)
        yield from objective.values_and_gradients(np.array(points))
        yield objective.hessian(at)
        if problem.fit_intercept:
            yield objective.hessian(at, centre)
        yield from objective.expansion(at)
        yield objective.hessian_product(at, direction)
        if problem.loss.curvature is not None:
            yield objective.curvature_bound_product(direction)
        yield from vars(objective.moments()).values()
        yield from objective.far_columns()
        yield objective.standardized().scale
        yield objective.explained(at)
        yield from objective.first_value_and_gradient(objective.start())
        yield objective.is_rounding(at, objective.value_and_gradient(at)[1])

    share = 1e-11 if dtype == "float64" else 1e-4
    for found, expected in zip(asked(mine), asked(its), strict=True):
        found, expected = np.asarray(found, float), np.asarray(expected, float)
        np.testing.assert_allclose(found, expected, rtol=0, atol=share * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["logistic", "poisson, offset", "huber, two targets", "softmax"])
def test_early_stopping_of_a_new_kind(name, solver):
    problem = PROBLEMS[name]
    mine, its = (
        minimise(
            Objective(blocks, problem.loss, 1e-3),
            SOLVERS[solver],
            tol=1e-9,
            max_iter=200,
            early_stopping=EarlyStopping(4),
        )
        for blocks in pairs(circulant(), problem.y, problem.weight, offset=problem.offset)
    )
    assert mine.status is its.status
    length = min(len(mine.history), len(its.history))
    validations = [[progress.validation for progress in fit.history[:length]] for fit in (mine, its)]
    np.testing.assert_allclose(*validations, rtol=1e-6)
    np.testing.assert_allclose(mine.w, its.w, rtol=0, atol=1e-5 * np.abs(its.w).max())


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("folds", [0, 3])
@pytest.mark.parametrize("name", ["squared", "squared, two targets"])
@pytest.mark.parametrize("flat", [1.0, 1e-4])
def test_cross_validation_of_a_new_kind(name, folds, fit_intercept, flat):
    """Columns that nearly repeat each other have triangles and residuals of twice the precision asked for."""
    problem, X = PROBLEMS[name], circulant()
    X = replace(X, vector=1.0 + flat * X.vector)
    fold = np.arange(400.0) * 7 % 3 if folds else None
    mine, its = (
        blocks.run(CrossValidation((1e-4, 0.1, 10.0), folds, fit_intercept), lambda progress: False)
        for blocks in pairs(X, problem.y, problem.weight, fold=fold)
    )
    assert mine.rounds == its.rounds and mine.path.best == its.path.best
    np.testing.assert_allclose(mine.path.scores, its.path.scores, rtol=1e-8)
    np.testing.assert_allclose(mine.w, its.w, rtol=0, atol=1e-6 * np.abs(its.w).max())


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 10.0])
def test_a_new_kind_of_wide_rows(alpha, k):
    random = np.random.default_rng(9)
    X = Circulant(random.standard_normal(1300), np.arange(40), 1010, 3, 13)
    y = random.standard_normal((40, k) if k > 1 else 40)
    for solver in (Exact("rows"), "auto", LBFGS(30, "row_space"), *([Newton("cg")] if k == 1 else [])):
        mine, its = (
            minimise(Objective(blocks, losses.Squared(), alpha), solver, tol=1e-9)
            for blocks in pairs(X, y, block_rows=16)
        )
        np.testing.assert_allclose(mine.w, its.w, rtol=0, atol=1e-6 * np.abs(its.w).max())
        np.testing.assert_allclose(mine.value, its.value, rtol=1e-8, atol=1e-15)
    for folds in (0, 3):
        mine, its = (
            blocks.run(CrossValidation((0.1, 10.0), folds, True), lambda progress: False)
            for blocks in pairs(X, y, fold=np.arange(40.0) % 3 if folds else None, block_rows=16)
        )
        np.testing.assert_allclose(mine.path.scores, its.path.scores, rtol=1e-9)


@pytest.mark.parametrize("smooth", [0, 12])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_least_squares_of_a_new_kind_has_the_digits_of_dense_rows(shift, smooth):
    """Near columns are no different from the next ones, and far from 0: conditions of 1e1 to 1e7."""
    vector = circulant().vector
    for _ in range(smooth):
        vector = (vector + np.roll(vector, 1)) / 2
    X = Circulant(vector + shift, np.arange(400), 5)
    y = PROBLEMS["squared"].y
    for solver in (Exact("qr"), Exact()):
        mine, its = (minimise(Objective(blocks, losses.Squared()), solver) for blocks in pairs(X, y))
        assert mine.rounds == its.rounds and mine.state.rank == its.state.rank == 5
        np.testing.assert_allclose(mine.w, its.w, rtol=1e-10)


@pytest.mark.parametrize("name", ["logistic", "poisson, offset", "softmax"])
def test_fits_of_a_new_kind_together(name):
    problem, fold = PROBLEMS[name], np.arange(400.0) % 3
    outputs = problem.loss.outputs
    loops = tuple(
        Loop(Linear(problem.loss, alpha), LBFGS(), 1e-9, 300, start=np.zeros(10 * outputs))
        for alpha in (0.1, 1.0)
        for _ in range(3)
    )
    (fits, scores), (others, expected) = (
        blocks.run(CrossValidated(Together(loops, (0, 1, 2) * 2), problem.loss), lambda progress: False)
        for blocks in pairs(circulant(), problem.y, problem.weight, offset=problem.offset, fold=fold)
    )
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    for mine, its in zip(fits, others, strict=True):
        np.testing.assert_allclose(mine.w, its.w, rtol=0, atol=1e-6 * np.abs(its.w).max())
    path = minimise_path(Objective(blocks_of(problem), problem.loss), (0.1, 1.0), tol=1e-10)
    for fit, alpha in zip(path, (0.1, 1.0), strict=True):
        value, W, _ = minimum(replace(problem, alpha=alpha))
        np.testing.assert_allclose(fit.value, value, rtol=1e-10)
        np.testing.assert_allclose(fit.w.reshape(W.shape), W, rtol=0, atol=1e-6 * np.abs(W).max())


def test_scores_of_a_new_kind():
    X, weight, random = circulant().dense(), PROBLEMS["softmax"].weight, np.random.default_rng(10)
    y, codes, Y = (PROBLEMS[name].y for name in ("logistic", "softmax", "squared, two targets"))
    W, b = random.standard_normal((9, 4)), random.standard_normal(4)
    each = np.column_stack([W.T, b])
    z = X @ W + b
    right = host(circulant(), codes, weight).reduce(Correct(), each.ravel())
    np.testing.assert_allclose(right, [weight.sum(), weight[z.argmax(axis=1) == codes].sum()], rtol=1e-12)
    right = host(circulant(), y, weight).reduce(Correct(), each[0])
    np.testing.assert_allclose(right, [weight.sum(), weight[(z[:, 0] > 0) == y].sum()], rtol=1e-12)
    edges = np.array([-1.0, 0.0, 0.7])
    counts = host(circulant(), y, weight).reduce(RankCounts(), np.append(each[0], edges))
    places = np.searchsorted(edges, z[:, 0])
    expected = [np.bincount(places[y == c], weight[y == c], 4) for c in (0, 1)]
    np.testing.assert_allclose(counts, np.concatenate(expected), rtol=1e-12)
    errors = host(circulant(), Y, weight).reduce(SquaredErrors(), each[:2].ravel())
    np.testing.assert_allclose(errors, [weight.sum(), *(weight @ Y), *(weight @ (Y - z[:, :2]) ** 2)], rtol=1e-12)


def test_a_run_on_a_new_kind_is_resumed(tmp_path):
    problem = PROBLEMS["gamma"]
    objective = Objective(blocks_of(problem), problem.loss, problem.alpha)
    straight = minimise(objective, LBFGS(), tol=1e-9)
    checkpoints = Checkpoints(str(tmp_path))
    minimise(objective, LBFGS(), tol=1e-9, max_iter=4, checkpoint=checkpoints)
    again = Objective(blocks_of(problem), problem.loss, problem.alpha)
    resumed = minimise(again, LBFGS(), tol=1e-9, checkpoint=replace(checkpoints, resume=True))
    assert resumed.parameters.tobytes() == straight.parameters.tobytes()


@pytest.mark.parametrize(
    ("name", "solver"), each(["squared, two targets", "logistic", "poisson, offset", "huber", "softmax"])
)
@pytest.mark.parametrize(
    "beside",
    [
        lambda X: Stacked((Dense(X.dense()),)),
        lambda X: Stacked((Dense(X.dense()[:, :3].copy()), Dense(X.dense()[:, 3:].copy()))),
        lambda X: Stacked((replace(X, groups=0), Dense(X.dense()[:, 5:].copy()))),
    ],
    ids=["one", "two", "with a new kind"],
)
def test_designs_side_by_side_train_as_one_array(beside, name, solver):
    problem = PROBLEMS[name]
    mine, its = (
        minimise(Objective(blocks, problem.loss, problem.alpha), (SOLVERS | LEAST_SQUARES)[solver], tol=1e-10)
        for blocks in (
            host(beside(circulant()), problem.y, problem.weight, offset=problem.offset),
            lay_out(problem.X, problem.y, problem.weight, offset=problem.offset, block_rows=90),
        )
    )
    assert mine.status is its.status is Status.CONVERGED and abs(mine.value - its.value) <= 1e-12 * abs(its.value)
    np.testing.assert_allclose(mine.w, its.w, rtol=0, atol=1e-7 * np.abs(its.w).max())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_one_array_as_a_stack_of_one_has_its_sums(name, dtype):
    """How a design is told decides how it is read; what comes out agrees to rounding."""
    problem, random = PROBLEMS[name], np.random.default_rng(11)
    X, y, weight, offset = (
        None if a is None else a.astype(dtype) for a in (problem.X, problem.y, problem.weight, problem.offset)
    )
    mine, its = (
        Objective(blocks, problem.loss, 0.5, problem.fit_intercept)
        for blocks in (
            host(Stacked((Dense(X),)), y, weight, offset=offset),
            lay_out(X, y, weight, offset=offset, block_rows=90),
        )
    )
    share = 1e-12 if dtype == "float64" else 1e-5
    at, direction = random.standard_normal((2, mine.n_parameters)) / 3
    for ask in (
        lambda objective: objective.value_and_gradient(at),
        lambda objective: objective.expansion(at),
        lambda objective: [objective.hessian_product(at, direction)],
        lambda objective: [getattr(objective.moments(), name) for name in ("mean", "spread")],
    ):
        for found, expected in zip(ask(mine), ask(its), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=share * np.abs(expected).max())
