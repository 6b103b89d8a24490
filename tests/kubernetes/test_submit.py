"""Runs on Kubernetes, with real pods: undisturbed, disturbed, and made wrong."""

import json

from lab import bits, left


def test_the_model_has_the_bits_of_a_local_run(submit, space, straight, place):
    run = submit()
    status, errors = run.ends()
    assert (status, errors) == (3, "")
    assert bits(run.out) == straight
    assert json.loads((run.out / "report.json").read_text())["where"].startswith("2 workers")
    assert left(space) == []
