"""The benchmarks run, and the kernels are no slower than they may be on any machine."""

import numpy as np

from benchmarks import harness, report, roofline
from dist_dot import losses
from dist_dot.blocks.arrays import Parameters
from dist_dot.blocks.kernels import ValueAndGradient


def test_roofline_from_measurement_to_table_and_plot(clients, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RECORDS", tmp_path)
    client = clients(2)
    records = [roofline.memory(client, 20_000_000)]
    for p in (3, 20):
        blocks = harness.random_blocks(client, 2_000_000, p, "float32")
        records += roofline.measure(blocks, 3)
    records += [roofline.products(blocks, 2), roofline.points(blocks, 3, 2)]
    harness.save("roofline", [harness.environment() | {"workers": 2, "threads": 1} | r for r in records])
    loaded = harness.load("roofline")
    assert [(r["kernel"], r["p"]) for r in loaded[1:5]] == [(k, p) for p in (3, 20) for k in ("squared", "logistic")]
    assert all(r["gb_s"] > 0 and r["share"] > 0 and r["rounds"] == 3 for r in loaded[1:5])
    text = report.roofline(loaded)
    assert "| logistic | float32 | 20 |" in text and harness.environment()["cpu"] in text
    report.plot(loaded, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("p = 20") >= 1


def test_the_table_in_the_repository_is_that_of_its_records():
    text = (report.HERE / "RESULTS.md").read_text()
    for section in report.sections():
        assert section in text, section.splitlines()[0]
    readme = (report.HERE.parent / "README.md").read_text()
    assert report.digits(harness.load("nist")) in readme and report.deaths(harness.load("chaos")) in readme


def test_the_pass_is_faster_than_two_products():
    blocks = harness.random_blocks(None, 64_000_000, 100, "float64")

    def products(block, parameters):
        at = parameters.like(block.X)
        z = block.X @ at[:-1] + at[-1] - block.y
        return np.concatenate([[0.5 * z @ z], z @ block.X, [z.sum()]])

    kernels = {"pass": ValueAndGradient(losses.Squared()), "products": products, "sum": harness.CompiledSum()}
    times = harness.Times(kernels, np.full(101, 0.1), 9)(blocks, lambda progress: False)
    best = {name: min(seconds) for name, seconds in times.items()}
    assert best["pass"] < 1.5 * best["products"]  # measured: 0.5
    assert best["pass"] < 6 * best["sum"]  # measured: 1.1 .. 1.7


def test_the_streams_read_everything():
    blocks = harness.random_blocks(None, 3_000_000, 20, "float64")
    block = blocks.blocks[0]
    for kernel in (harness.CompiledSum(), harness.NumpySum()):
        np.testing.assert_allclose(kernel(block, Parameters(np.zeros(0))), block.X.sum(), rtol=1e-9)
