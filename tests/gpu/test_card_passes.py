"""The passes over rows on the card give the sums that they owe: of every loss, for any shape and any alignment."""

import cupy
import numpy as np
import pytest
from card import DTYPES, Expected, address, assert_near, laid_out, misaligned, on_card, rows, whole_rows

import dist_dot
from dist_dot import lay_out, losses
from dist_dot.errors import DataError
from dist_dot.kernels.device.card import Card
from dist_dot.kernels.folds import FoldScores, ValuesAndGradients, WithoutFold
from dist_dot.kernels.moments import CentredMoments
from dist_dot.kernels.passes import (
    Curvature,
    Expansion,
    GramProduct,
    HessianProduct,
    Moments,
    ValueAndGradient,
    coupled,
)
from dist_dot.kernels.targets import CheckTarget, ConstantValues, ReferenceSums, TargetSums

WIDTHS = (1, 3, 5, 16, 17, 28, 100, 127, 128, 129, 500, 512, 1000, 1025, 3000, 5001)
SINGLE = (losses.Squared(), losses.Logistic(), losses.Poisson(), losses.Gamma(), losses.Huber(1.0))


def sums_of_whole_rows(X, y, s, at):
    """Return the sums of the squared loss, of the Gram product, and of the moments about 0, exactly."""
    X, y, s = X.astype(float), y.astype(float), np.ones(len(X)) if s is None else s.astype(float)
    z = X @ at[:-1] + at[-1]
    r = s * (z - y)
    squared = np.concatenate([[0.5 * r @ (z - y)], r @ X, [r.sum()]])
    gram = np.append((s * z) @ X, s @ z)
    moments = np.concatenate([[s.sum()], s @ X, [s @ y], s @ X**2, [s @ y**2]])
    return squared, gram, moments


def check_whole(blocks, expected, at):
    kernels = (ValueAndGradient(losses.Squared()), GramProduct(), Moments())
    for kernel, sums in zip(kernels, expected, strict=True):
        parameters = np.zeros(at.size) if isinstance(kernel, Moments) else at
        np.testing.assert_array_equal(blocks.reduce(kernel, parameters), sums, err_msg=type(kernel).__name__)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", WIDTHS)
def test_whole_numbers_add_up_exactly(p, dtype):
    # A row or a column that is lost, or counts twice, is seen; rounding is not in the way.
    large = 10_007 if p <= 129 else 4_099 if p <= 1025 else 1_037
    for n, block_rows, weighted in ((1, "auto", False), (33, 7, True), (1001, 1001, True), (large, "auto", False)):
        X, y, s, at = whole_rows(n, p, dtype, weighted)
        check_whole(laid_out(X, y, s, block_rows), sums_of_whole_rows(X, y, s, at), at)


@pytest.mark.parametrize("n", [*range(2, 40), 63, 64, 65, 127, 128, 129, 255, 257, 511, 513, 2047, 2049, 8191, 8193])
def test_any_number_of_rows(n):
    for p, dtype in ((5, "float32"), (128, "float32"), (100, "float64")):
        X, y, s, at = whole_rows(n, p, dtype)
        check_whole(laid_out(X, y, s), sums_of_whole_rows(X, y, s, at), at)


def test_rows_of_several_widths_take_turns():
    # 4, 12 and 16 columns have one kernel, and more or less shared memory each.
    made = []
    for p in (16, 4, 12):
        X, y, s, at = whole_rows(1001, p, "float32")
        made.append((laid_out(X, y, s), sums_of_whole_rows(X, y, s, at), at))
    for blocks, expected, at in made * 3:
        check_whole(blocks, expected, at)


def test_a_recording_that_ends_early_leaves_the_card_as_it_was(monkeypatch):
    X, y, s, at = whole_rows(1001, 5, "float32")
    blocks, kernel = laid_out(X, y, s), ValueAndGradient(losses.Squared())
    blocks.reduce(kernel, at)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Card, "read", interrupted)  # what a round that is recorded asks for last
        blocks.reduce(kernel, at)
    for _ in range(3):
        check_whole(blocks, sums_of_whole_rows(X, y, s, at), at)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [16, 17, 128, 1000])
def test_rows_that_begin_anywhere_stay_where_they_are(p, dtype):
    X, y, s, at = whole_rows(1003, p, dtype)
    for shifted in (misaligned(X), cupy.asarray(np.vstack([X[:1], X]))[1:]):
        others = misaligned(y), misaligned(s)
        blocks = lay_out(shifted, *others, block_rows=200)
        check_whole(blocks, sums_of_whole_rows(X, y, s, at), at)
        for block in blocks.blocks:
            assert address(block.X.values) == address(shifted) + block.start * shifted.strides[0]
            for own, given in zip((block.y, block.weight), others, strict=True):
                assert address(own) == address(given) + block.start * given.strides[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_not_contiguous_are_taken_too(dtype):
    X, y, s, at = whole_rows(300, 28, dtype)
    expected = sums_of_whole_rows(X, y, s, at)
    wide, tall = cupy.zeros((300, 40), dtype=dtype), cupy.zeros((600, 28), dtype=dtype)
    wide[:, 5:33], tall[::2] = cupy.asarray(X), cupy.asarray(X)
    for view in (wide[:, 5:33], tall[::2], cupy.asfortranarray(cupy.asarray(X))):
        check_whole(lay_out(view, *on_card(y, s), block_rows=64), expected, at)


def test_parts_of_the_input_may_lie_on_the_host_or_be_whole_numbers():
    X, y, s, at = whole_rows(300, 28, "float64")
    expected = sums_of_whole_rows(X, y, s, at)
    check_whole(lay_out(cupy.asarray(X), y, s), expected, at)
    check_whole(lay_out(cupy.asarray(X.astype("int32")), cupy.asarray(y.astype("int64")), s), expected, at)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [5, 128, 1000])
@pytest.mark.parametrize("loss", [*SINGLE, losses.Softmax(2), losses.Softmax(4)], ids=lambda loss: f"{loss}")
def test_every_loss(loss, p, dtype):
    X, y, s, at = rows(2003, p, dtype, loss)
    columns = at(loss.outputs)
    expected = Expected(loss, X, y, s, columns, dtype)
    blocks = laid_out(X, y, s, 700)
    found = blocks.reduce(ValueAndGradient(loss), columns.ravel())
    assert_near(found, *expected.value_and_gradient(), "value and gradient")
    direction = at(loss.outputs)
    product = blocks.reduce(HessianProduct(loss), np.append(columns, direction))
    assert_near(product, *expected.hessian_product(direction), "product")
    if p < 1000 or loss.name == "logistic":
        pairs = [expected.hessian(c, d) for c, d in coupled(loss, loss.outputs)]
        triangles, tolerances = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        curvature = blocks.reduce(Curvature(loss), columns.ravel())
        assert_near(curvature, triangles, tolerances, "curvature")
        both = blocks.reduce(Expansion(loss), columns.ravel())
        np.testing.assert_array_equal(both, np.append(found, curvature))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [5, 128, 1000])
@pytest.mark.parametrize("points", [2, 3, 4, 8, 11])
@pytest.mark.parametrize("loss", [losses.Squared(), losses.Logistic()], ids=lambda loss: loss.name)
def test_several_points(loss, points, p, dtype):
    X, y, s, at = rows(1501, p, dtype, loss)
    columns = at(points)
    found = laid_out(X, y, s, 700).reduce(ValueAndGradient(loss, points), columns.ravel()).reshape(points, -1)
    for point, sums in zip(columns, found, strict=True):
        assert_near(sums, *Expected(loss, X, y, s, point[None, :], dtype).value_and_gradient())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [5, 128, 1000])
@pytest.mark.parametrize(("targets", "points"), [(2, 1), (3, 1), (8, 1), (2, 2), (3, 2)])
def test_several_targets(targets, points, p, dtype):
    for loss in (losses.Squared(), losses.Huber(1.0)):
        X, y, s, at = rows(1501, p, dtype, loss, targets)
        columns = at(points * targets)
        blocks = laid_out(X, y, s, 700)
        found = blocks.reduce(ValueAndGradient(loss, points), columns.ravel()).reshape(points, -1)
        for point, sums in zip(columns.reshape(points, targets, -1), found, strict=True):
            assert_near(sums, *Expected(loss, X, y, s, point, dtype).value_and_gradient())


def test_several_points_of_several_classes():
    loss = losses.Softmax(4)
    X, y, s, at = rows(1501, 28, "float64", loss)
    columns = at(8)
    found = laid_out(X, y, s, 700).reduce(ValueAndGradient(loss, 2), columns.ravel()).reshape(2, -1)
    for point, sums in zip(columns.reshape(2, 4, -1), found, strict=True):
        assert_near(sums, *Expected(loss, X, y, s, point, "float64").value_and_gradient())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [losses.Logistic(), losses.Squared(), losses.Softmax(3)], ids=lambda loss: loss.name)
def test_fits_that_leave_out_a_fold_each(loss, dtype):
    X, y, s, at = rows(1501, 28, dtype, loss)
    fold, folds = np.arange(1501) % 3, (-1, 0, 1, 2)
    blocks = laid_out(X, y, s, 400, fold.astype(dtype))
    points = [at(loss.outputs) for _ in folds]
    found = blocks.reduce(ValuesAndGradients(loss, folds), np.concatenate(points).ravel()).reshape(len(folds), -1)
    scores = blocks.reduce(FoldScores(loss, folds), np.concatenate(points).ravel()).reshape(len(folds), 3)
    for number, columns, sums, (weight, value, right) in zip(folds, points, found, scores, strict=True):
        without = Expected(loss, X, y, s * (fold != number), columns, dtype)
        assert_near(sums, *without.value_and_gradient(), f"without fold {number}")
        alone = blocks.reduce(WithoutFold(ValueAndGradient(loss), number), columns.ravel())
        assert_near(alone, *without.value_and_gradient(), f"alone, without fold {number}")
        of_fold = Expected(loss, X, y, s * (fold == number), columns, dtype)
        np.testing.assert_allclose([weight, value], [of_fold.s.sum(), of_fold.s @ of_fold.value], rtol=1e-4)
        assert 0 <= right <= weight


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("loss", [*SINGLE, losses.Softmax(3)], ids=lambda loss: loss.name)
def test_numbers_out_of_hand(loss, sign, dtype):
    # z is 800 or 79 and nothing is lost in it; what the loss says of them is tested without a card.
    X = np.array([[1.0, 0], [79 / 800, 0], [0, 1], [1, 0], [0, 0]], dtype)
    y = np.array([0.0, 1, 1, 1, 0], dtype) + (loss.name == "gamma")
    column = np.array([sign * 800.0, 1.0, 0.0])
    columns = np.stack([np.zeros(3), column, -column]) if loss.outputs > 1 else column[None, :]
    z = (X @ columns[:, :-1].T.astype(dtype) + columns[:, -1].astype(dtype)).astype(dtype)
    target = y if loss.outputs > 1 else y[:, None]
    with np.errstate(over="ignore"):
        values, slopes = loss.value(target, z).astype(float), loss.first(target, z).astype(float)
    gradient = np.column_stack([slopes.T @ X, slopes.sum(0)])
    found = laid_out(X, y).reduce(ValueAndGradient(loss), columns.ravel())
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, np.append(values.sum(), gradient), rtol=2e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [ValueAndGradient(losses.Logistic()), Curvature(losses.Logistic()), Moments()])
def test_rows_of_weight_zero_do_not_count(kernel, dtype):
    X, y, _, at = rows(1003, 28, dtype, losses.Logistic())
    kept = np.arange(1003) % 3 > 0
    parameters = np.zeros(29) if isinstance(kernel, Moments) else at(1).ravel()
    found = laid_out(X, y, kept.astype(dtype), 300).reduce(kernel, parameters)
    expected = laid_out(X[kept], y[kept]).reduce(kernel, parameters)
    close = 1e-12 if dtype == "float64" else 2e-5
    np.testing.assert_allclose(found, expected, rtol=close, atol=close * np.abs(expected).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_over_y_alone(dtype):
    for loss in (*SINGLE, losses.Softmax(4)):
        X, y, s, _ = rows(5003, 3, dtype, loss)
        blocks = laid_out(X, y, s, 1000)
        target, weight = y.astype(float), s.astype(float)
        np.testing.assert_allclose(blocks.reduce(CheckTarget(loss), np.zeros(0)), [weight.sum()], rtol=1e-6)
        dropped = {
            "poisson": np.where(target > 0, target * np.log(np.where(target > 0, target, 1.0)), 0.0) - target,
            "gamma": -np.log(np.abs(target) + (target == 0)) - 1,
        }.get(loss.name, 0 * target)
        means = [weight @ target] if loss.outputs == 1 else [weight @ (target == c) for c in range(4)]
        close = {"rtol": 1e-6, "atol": 1e-6 * weight.sum()}
        np.testing.assert_allclose(blocks.reduce(TargetSums(loss), np.zeros(0)), [weight.sum(), *means], **close)
        points = np.linspace(-0.5, 0.5, 2 * loss.outputs)
        at = points if loss.outputs == 1 else points.reshape(2, -1)
        of_points = [
            weight @ loss.value(target, target[:, None] * 0 + z if loss.outputs > 1 else 0 * target + z) for z in at
        ]
        np.testing.assert_allclose(blocks.reduce(ConstantValues(loss), points), of_points, **close)
        found = blocks.reduce(ConstantValues(loss, deviance=True), points)
        np.testing.assert_allclose(found, [weight @ dropped, *of_points], **close)


@pytest.mark.parametrize(
    ("loss", "wrong", "words"),
    [
        (losses.Logistic(), 1.5, r"y is 1.5 in row 4001: .*0 <= y <= 1"),
        (losses.Poisson(), -1.0, r"y is -1.0 in row 4001: .*0 <= y"),
        (losses.Gamma(), 0.0, r"y is 0.0 in row 4001: .*0 < y"),
        (losses.Softmax(3), 0.5, r"y is 0.5 in row 4001: .*whole numbers"),
    ],
)
def test_a_wrong_y_is_named(loss, wrong, words):
    y = np.ones(5003)
    y[[4001, 4002]] = wrong
    for kernel in (CheckTarget(loss), TargetSums(loss)):
        with pytest.raises(DataError, match=words):
            laid_out(np.ones((5003, 2)), y, None, 1000).reduce(kernel, np.zeros(0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_bad_numbers_are_named(wrong, dtype):
    X, y = np.ones((50_000, 7), dtype), np.ones(50_000, dtype)
    bad_X, bad_y, bad_weight = X.copy(), y.copy(), y.copy()
    bad_X[40_001, 5], bad_y[49_999], bad_weight[3] = wrong, wrong, -1.0
    word = {"nan": "nan", "inf": "inf", "-inf": "-inf"}[str(wrong)]
    for loss in (losses.Squared(), losses.Logistic(), losses.Poisson(), losses.Gamma(), losses.Huber()):
        for kernel, at in (
            (ValueAndGradient(loss), np.zeros(8)),
            (ValueAndGradient(loss), np.full(8, 0.1)),
            (ReferenceSums(loss), np.zeros(8)),
            (Expansion(loss), np.zeros(8)),
            (CentredMoments(), np.zeros(0)),
            (GramProduct(), np.ones(8)),
        ):
            blocks = laid_out(bad_X, y)
            blocks.reduce(TargetSums(loss), np.zeros(0))  # it reads y alone
            with pytest.raises(DataError, match=f"X is {word} in column 5, row 40001"):  # in the first that reads X
                blocks.reduce(kernel, at)
    for model in (dist_dot.Ridge(), dist_dot.LogisticRegression(), dist_dot.PoissonRegressor()):
        with pytest.raises(DataError, match=f"X is {word} in column 5, row 40001"):
            model.fit(*on_card(bad_X, np.arange(50_000) % 2))
    with pytest.raises(DataError, match=f"y is {word}.* row 49999"):
        laid_out(X, bad_y)
    with pytest.raises(DataError, match="sample_weight is -1.0 in row 3"):
        laid_out(X, y, bad_weight)
    large = np.full((4, 2), np.finfo(dtype).max, dtype)  # numbers whose sum is infinite are numbers
    laid_out(large, np.ones(4, dtype)).reduce(CentredMoments(), np.zeros(0))
