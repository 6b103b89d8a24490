# make demo: train on real data. make test, make lint: what the checks run. make test-kubernetes: the same on real pods.
# make bench: the tables of figures. Each makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-kubernetes bench chaos lint format clean

demo: $(VENV)/demo examples/flights.parquet
	$(BIN)/dist-dot train examples/flights.toml

test: $(VENV)/dev examples/flights.parquet
	$(BIN)/python -m pytest

# On whatever Kubernetes KUBECONFIG names, with the image IMAGE of cluster/Dockerfile: see tests/kubernetes/conftest.py.
test-kubernetes: $(VENV)/dev examples/flights.parquet
	$(BIN)/python -m pytest tests/kubernetes -o 'norecursedirs=.*' -v --durations 0 --log-level ERROR \
		-W "ignore:Kubernetes version:UserWarning" -W ignore::pytest.PytestUnraisableExceptionWarning $(TESTS)

bench: $(VENV)/bench examples/flights.parquet
	$(BIN)/python -m benchmarks.roofline
	$(BIN)/python -m benchmarks.nist
	$(BIN)/python -m benchmarks.exact
	$(BIN)/python -m benchmarks.logistic
	$(BIN)/python -m benchmarks.products
	$(BIN)/python -m benchmarks.rounds
	$(BIN)/python -m benchmarks.report

chaos: $(VENV)/bench examples/flights.parquet
	$(BIN)/python -m benchmarks.chaos
	$(BIN)/python -m benchmarks.report

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) examples/flights.parquet examples/runs .mypy_cache .pytest_cache .ruff_cache

examples/flights.parquet: examples/make_flights.py | $(VENV)/demo
	$(BIN)/python examples/make_flights.py

# One stamp per set of packages, so that the second time costs nothing.
$(VENV)/demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[examples]"
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,examples]"
	touch $@

$(VENV)/bench: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
