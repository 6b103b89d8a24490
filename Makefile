# make demo: train on real data. make test, make lint: what the checks run. make test-kubernetes: the same on real pods.
# make test-peers: scikit-learn's own tests with our estimators.
# make bench: the tables of figures. make fuzz: random fits, for hours. make fuzz-readers: damaged files. Each makes what it needs. make wheels-gpu, test-gpu, bench-gpu: see there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-peers test-kubernetes wheels-gpu test-gpu bench bench-gpu chaos fuzz fuzz-readers lint format clean

demo: $(VENV)/demo examples/flights.parquet
	$(BIN)/dist-dot train examples/flights.toml

test: $(VENV)/dev examples/flights.parquet
	$(BIN)/python -m pytest

# scikit-learn's tests of linear models, as installed, with our estimators: some 5 minutes. tests/peers/scikit_learn.toml
# names those that fail, and why; any difference is a failure. PEERS="-k test_warm_start --tb=short" runs some of them.
test-peers: $(VENV)/dev
	PYTHONPATH=tests:.:cluster $(BIN)/python -m peers $(PEERS)

# On whatever Kubernetes KUBECONFIG names, with the image IMAGE of cluster/Dockerfile: see tests/kubernetes/conftest.py.
test-kubernetes: $(VENV)/dev examples/flights.parquet
	$(BIN)/python -m pytest tests/kubernetes -o 'norecursedirs=.*' -v --durations 0 --log-level ERROR \
		-W "ignore:Kubernetes version:UserWarning" -W ignore::pytest.PytestUnraisableExceptionWarning $(TESTS)

# A machine with a GPU often has CuPy, but no network. Run wheels-gpu where there is one, carry the folder .wheels/ over
# (some 3 MB), and run test-gpu and bench-gpu there, with a python3 that has all the other packages.
GPU_PYTHON ?= python3
GPU_OUT ?= .wheels/out
WHEELS := array-api-compat array-api-strict cloudpickle dask dask-cuda distributed locket partd tblib tornado zict

wheels-gpu: constraints.txt
	rm -rf .wheels
	$(PYTHON) -m pip download --quiet --dest .wheels --constraint constraints.txt --no-deps --only-binary :all: \
		--python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 $(WHEELS)

# Several processes compile kernels and make what is expected at the same time, where pytest-xdist is there.
test-gpu: .wheels/site
	PYTHONPATH=.wheels/site:.:cluster $(GPU_PYTHON) -m pytest tests/gpu -o 'norecursedirs=.*' --durations 10 \
		$(shell $(GPU_PYTHON) -c 'import xdist; print("-n 6")' 2>/dev/null) \
		-W default -W error::sklearn.exceptions.ConvergenceWarning $(TESTS)

bench-gpu: .wheels/site
	PYTHONPATH=.wheels/site:.:cluster $(GPU_PYTHON) -m benchmarks.gpu --out $(GPU_OUT) $(QUICK)

.wheels/site:
	$(GPU_PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --target $@ .wheels/*.whl

bench: $(VENV)/bench examples/flights.parquet
	$(BIN)/python -m benchmarks.roofline
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.nist
	$(BIN)/python -m benchmarks.exact
	$(BIN)/python -m benchmarks.logistic
	$(BIN)/python -m benchmarks.products
	$(BIN)/python -m benchmarks.rounds
	$(BIN)/python -m benchmarks.report

chaos: $(VENV)/bench examples/flights.parquet
	$(BIN)/python -m benchmarks.chaos
	$(BIN)/python -m benchmarks.report

# MINUTES=60 SEED=1 COUNT=1000000: whichever ends first. FUZZ="--case 17" does one case again.
MINUTES ?= 60
SEED ?= 1
COUNT ?= 1000000
fuzz: $(VENV)/dev
	PYTHONPATH=tests:.:cluster $(BIN)/python -m fuzz --seed $(SEED) --minutes $(MINUTES) --count $(COUNT) --workers 2 $(FUZZ)

# COUNT=5000 files that are damaged. FUZZ="--case 17" does one case again.
fuzz-readers: COUNT = 5000
fuzz-readers: $(VENV)/dev
	PYTHONPATH=tests:.:cluster $(BIN)/python -m fuzz.readers --seed $(SEED) --count $(COUNT) $(FUZZ)

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
