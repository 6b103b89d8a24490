"""Rows in every form that a caller may hand in give what they give as NumPy arrays, here and on a cluster."""

import array_api_strict
import dist_dot_cluster
import numpy as np
import pytest
from given import (
    LABELS,
    MODELS,
    WEIGHTS,
    DataArray,
    X,
    Y,
    chunked,
    dask_frame,
    frame,
    name_of,
    nothing_left,
    nullable,
    second_device,
    target_of,
    to_host,
    unknown,
)
from sklearn.base import clone

from dist_dot import (
    EarlyStopping,
    LogisticRegression,
    LogisticRegressionCV,
    Objective,
    cosine_similarity,
    dot,
    gram,
    inner,
    lay_out,
    losses,
    minimise,
    top_k,
)

# The arrays of these tests travel inside their graph, which is what Dask warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Sending large graph")


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes."""
    with dist_dot_cluster.open("local", 2) as client:
        yield client


def as_numpy(array):
    return array


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


HERE = {
    "list": (np.ndarray.tolist,) * 3,
    "tuple": (lambda array: tuple(map(tuple, array.tolist())), tuple, tuple),
    "frame": (frame,) * 3,
    "frame with missing values, of which there are none": (nullable,) * 3,
    "frame X": (frame, as_numpy, as_numpy),
    "Series y": (as_numpy, frame, frame),
    "strict": (array_api_strict.asarray,) * 3,
    "strict, second device": (second_device,) * 3,
    "strict X": (array_api_strict.asarray, as_numpy, as_numpy),
    "strict X, second device": (second_device, as_numpy, as_numpy),
    "strict y": (as_numpy, array_api_strict.asarray, array_api_strict.asarray),
    "strict y, second device": (as_numpy, second_device, second_device),
    "xarray": (DataArray,) * 3,
    "xarray y": (as_numpy, DataArray, DataArray),
    "memoryview": (memoryview,) * 3,
    "masked nowhere": (np.ma.array,) * 3,
    "Fortran order": (np.asfortranarray,) * 3,
    "strided": (lambda array: np.repeat(array, 2, axis=-1)[..., ::2],) * 3,
    "big endian": (lambda array: array.astype(array.dtype.newbyteorder(">")),) * 3,
    "objects": (lambda array: array.astype(object), as_numpy, as_numpy),
    "read only": (read_only,) * 3,
}
OBJECTS = "frame with missing values, of which there are none", "objects"  # of NumPy's dtype, where X is alone
ON_A_CLUSTER = {
    "dask": (chunked,) * 3,
    "dask, other chunks": (lambda a: chunked(a, 7), lambda a: chunked(a, 11), lambda a: chunked(a, 30)),
    "dask, chunks of columns": (lambda a: chunked(a).rechunk((10, 2)), chunked, chunked),
    "dask, sizes unknown": (unknown,) * 3,
    "dask, sizes of X unknown": (unknown, chunked, chunked),
    "dask, sizes of y unknown": (chunked, unknown, unknown),
    "dask of frames": (lambda array: dask_frame(array).to_dask_array(lengths=True),) * 3,
    "dask of frames, sizes unknown": (lambda array: dask_frame(array).to_dask_array(),) * 3,
    "dask X": (chunked, as_numpy, as_numpy),
    "dask X, list": (chunked, np.ndarray.tolist, np.ndarray.tolist),
    "dask X, Series": (chunked, frame, frame),
    "dask X, xarray": (chunked, DataArray, DataArray),
    "dask X, strict": (chunked, array_api_strict.asarray, array_api_strict.asarray),
    "dask X, strict on the second device": (chunked, second_device, second_device),
    "dask X, memoryview": (chunked, memoryview, memoryview),
    "dask y": (as_numpy, chunked, chunked),
}


def same_fit(model, kinds):
    of_X, of_y, of_weight = kinds
    y = target_of(model)
    expected = clone(model).fit(X, y, WEIGHTS)
    rows = of_X(X), of_y(y), of_weight(WEIGHTS)
    fitted = clone(model).fit(*rows)
    np.testing.assert_allclose(fitted.coef_, expected.coef_, rtol=1e-10)
    np.testing.assert_allclose(fitted.intercept_, expected.intercept_, rtol=1e-10)
    np.testing.assert_allclose(fitted.score(*rows), expected.score(X, y, WEIGHTS), rtol=1e-10)
    np.testing.assert_allclose(to_host(fitted.predict(rows[0])), expected.predict(X), rtol=1e-10)


@pytest.mark.parametrize("model", MODELS, ids=name_of)
@pytest.mark.parametrize("kind", HERE)
def test_here(model, kind):
    same_fit(model, HERE[kind])


@pytest.mark.parametrize("model", MODELS, ids=name_of)
@pytest.mark.parametrize("kind", ON_A_CLUSTER)
def test_on_a_cluster(model, kind, cluster):
    with nothing_left(cluster):
        same_fit(model, ON_A_CLUSTER[kind])


@pytest.mark.parametrize("model", MODELS, ids=name_of)
@pytest.mark.parametrize("weight", [2, 2.0, np.float32(2.0), np.array(2.0)], ids=repr)
def test_one_weight_is_that_of_every_row(model, weight, cluster):
    y = target_of(model)
    expected = clone(model).fit(X, y, np.full(len(X), 2.0)).coef_
    np.testing.assert_array_equal(clone(model).fit(X, y, weight).coef_, expected)
    with nothing_left(cluster):
        np.testing.assert_array_equal(clone(model).fit(chunked(X), chunked(y), weight).coef_, expected)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 2.0, 1: 0.5}], ids=str)
@pytest.mark.parametrize(
    ("of_y", "of_weight"),
    [
        (unknown, lambda weight: None),
        (unknown, unknown),
        (lambda y: unknown(y)[:, None], chunked),
        (lambda y: chunked(y)[:, None], lambda weight: weight),
    ],
)
def test_weights_of_classes_of_labels_in_any_chunks(class_weight, of_y, of_weight, cluster):
    model, weight = LogisticRegression(class_weight=class_weight), of_weight(WEIGHTS)
    expected = clone(model).fit(X, LABELS, None if weight is None else WEIGHTS)
    with nothing_left(cluster):
        fitted = clone(model).fit(unknown(X), of_y(LABELS), weight)
    np.testing.assert_allclose(fitted.coef_, expected.coef_, rtol=1e-12)


SEVERAL = np.digitize(Y, [-1.0, 2.0])


@pytest.mark.parametrize("solver", ["newton", "lbfgs", "gradient_descent"])
@pytest.mark.parametrize("y", [LABELS, SEVERAL], ids=["two", "three"])
def test_classifiers_on_the_second_device(solver, y):
    model = LogisticRegression(solver=solver, class_weight="balanced")
    expected, fitted = clone(model).fit(X, y), clone(model).fit(second_device(X), second_device(y))
    np.testing.assert_allclose(fitted.coef_, expected.coef_, rtol=1e-10)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        found = getattr(fitted, method)(second_device(X))
        assert found.device == second_device(X).device
        np.testing.assert_allclose(to_host(found), getattr(expected, method)(X), rtol=1e-9)
    rows = second_device(X), second_device(y)
    np.testing.assert_allclose(fitted.log_loss(*rows), expected.log_loss(X, y), rtol=1e-10)
    if y is LABELS:
        np.testing.assert_allclose(fitted.auc(*rows), expected.auc(X, y), rtol=1e-10)
    clone(model).set_params(early_stopping=EarlyStopping()).fit(*rows)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("y", [LABELS, SEVERAL], ids=["two", "three"])
def test_cross_validation_on_the_second_device(class_weight, y):
    model = LogisticRegressionCV(3, cv=3, class_weight=class_weight, scoring="neg_log_loss")
    expected, fitted = clone(model).fit(X, y), clone(model).fit(second_device(X), second_device(y))
    np.testing.assert_allclose(fitted.coef_, expected.coef_, rtol=1e-6)
    np.testing.assert_allclose(fitted.scores_, expected.scores_, rtol=1e-6)
    score = fitted.score(second_device(X), second_device(y))
    np.testing.assert_allclose(score, expected.score(X, y), rtol=1e-6)
    np.testing.assert_allclose(score, -expected.log_loss(X, y), rtol=1e-6)


def test_softmax_with_offsets_on_the_second_device():
    rows = [
        minimise(Objective(lay_out(of(X), of(SEVERAL), offset=of(Y)), losses.Softmax(3), 1.0)).w
        for of in (as_numpy, second_device)
    ]
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in (*HERE, *ON_A_CLUSTER) if kind not in OBJECTS])
def test_products(kind, cluster):
    wrap = (HERE | ON_A_CLUSTER)[kind][0]
    with nothing_left(cluster):
        rows = wrap(X)
        np.testing.assert_allclose(to_host(dot(rows, rows)), X @ X.T, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(to_host(gram(rows)), X.T @ X, rtol=1e-12)
        np.testing.assert_allclose(to_host(inner(rows, rows)), np.sum(X * X), rtol=1e-12)
        np.testing.assert_allclose(to_host(cosine_similarity(rows, rows)).diagonal(), 1.0, rtol=1e-12)
        found, expected = top_k(rows, wrap(X), 3), top_k(X, X, 3)
        np.testing.assert_array_equal(to_host(found.index), expected.index)
        np.testing.assert_allclose(to_host(found.score), expected.score, rtol=1e-12)
