# Every target makes its own .venv from pyproject.toml and constraints.txt; nothing else has to be installed before.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKSPACE ?= workspace

.PHONY: help quickstart test test-cluster check audit bench bench-scale bench-gpu results demo-reevaluation local-cluster chaos clean

help:
	@echo "make quickstart   the whole path on built-in data, end to end"
	@echo "make test         lint, types, import rules, tests"
	@echo "make test-cluster the tests that take minutes: submitted jobs, killed processes, PostgreSQL, a browser"
	@echo "make check        lint, types, import rules, installed packages that fit together"
	@echo "make audit        known vulnerabilities of the pinned packages; needs the internet"
	@echo "make bench        measurements, each beside its baseline"
	@echo "make bench-scale  the same at the size of the largest data sets: a quarter of an hour"
	@echo "make bench-gpu    is a GPU right, and how fast: eight minutes on one, gpu.json; torch and timm are enough"
	@echo "make demo-reevaluation  a week of data that arrives, models that are promoted or kept: six minutes"
	@echo "make local-cluster  a head, three nodes, MLflow on PostgreSQL and an S3 store on this machine, until Ctrl-C"
	@echo "make chaos        20 random faults over a training and a re-evaluation: what comes out must not change"
	@echo "make results      the rows of docs/results.md that are missing; DATA=folder WEIGHTS=file"

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@# Until 0.2.0 the distribution was called zse: uninstalled later, it would take the command with it.
	@$(BIN)/pip uninstall --quiet --yes --disable-pip-version-check zse 2> /dev/null || true
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

quickstart: $(VENV)/installed
	$(BIN)/zse quickstart --workspace $(WORKSPACE)

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pip check --disable-pip-version-check

# In an environment of its own: what it needs is nothing that the project runs with.
audit: $(VENV)/installed
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)-audit/bin/pip-audit --requirement constraints.txt --disable-pip --no-deps

# Two processes, a Ray each, whole files each: half the time of one, which mostly waits for Ray's workers to start. Files
# in their order, because the long ones come first; one thread each, because two do not make two cores faster.
TESTED := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
test: check
	$(TESTED) -m "not cluster"

test-cluster: $(VENV)/installed
	$(TESTED) -m cluster

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks

bench-scale: $(VENV)/installed
	$(BIN)/python -m benchmarks scale

bench-gpu: $(VENV)/installed
	$(BIN)/python -m benchmarks gpu --out gpu.json

results: $(VENV)/installed
	$(BIN)/python -m benchmarks.results

demo-reevaluation: $(VENV)/installed
	$(BIN)/python -m tests.demo_reevaluation

local-cluster: $(VENV)/installed
	$(BIN)/python -m tests.local_cluster up

chaos: $(VENV)/installed
	$(BIN)/python -m tests.chaos

clean:
	rm -rf $(VENV) $(VENV)-audit workspace demo local-cluster build dist *.egg-info
