# The two commands that matter: `make run` and `make test`. Both set up what they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
CORES ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
GPUS ?= 2
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
# Bytecode is compiled once at set-up: a hundred short jobs would each pay for it otherwise.
READY := $(VENV)/.ready
# Busy-waiting threads of one job starve the other jobs on the same cores (60 times slower was seen).
export OMP_WAIT_POLICY := PASSIVE
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup run test test-all test-cpu test-cpus test-dvc test-slurm lint docs hooks format lock
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## create .venv with the locked dependencies and rca itself

# The C++ that comes with pydensecrf2 was written by a Cython that knew no Python 3.13: the locked Cython rewrites it.
$(READY): requirements.lock pyproject.toml workflow/check_prerequisites.py
	@$(PYTHON) workflow/check_prerequisites.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV): about 6 GB of packages, most of it torch."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@$(INSTALL) $(shell grep -E '^(cython|setuptools)==' requirements.lock)
	@CYTHON_FORCE_REGEN=1 $(INSTALL) --compile-bytecode --no-build-isolation-package pydensecrf2 -r requirements.lock
	@$(INSTALL) --no-deps --editable .
	@touch $@

run: setup  ## run what params.yaml asks for (by default two runs on the embedded dataset), then print the table
	@rca check
	@snakemake --cores $(CORES) --resources gpu=$(GPUS)
	@rca show

# One thread a test process: two processes with two threads each would fight over two cores.
test test-all: export OMP_NUM_THREADS := 1

test: setup  ## the tests that take minutes
	@pytest -n $(CORES) --dist worksteal -m "not slow and not slurm"

test-all: setup  ## all tests but Slurm's, the README's commands among them
	@pytest -n $(CORES) --dist worksteal -m "not slurm"

# Under these variables the libraries compute as on older CPUs. No test may hang on how one of them rounds.
HASWELL := OPENBLAS_CORETYPE=Haswell ATEN_CPU_CAPABILITY=avx2
PRESCOTT := OPENBLAS_CORETYPE=Prescott ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41
COMPUTE := pytest -n $(CORES) --dist worksteal -m "not slow and not slurm" --ignore tests/pipeline --ignore tests/docs

test-cpu: setup  ## the tests of what computes, as on an old CPU and with two threads
	@$(PRESCOTT) OMP_NUM_THREADS=2 $(COMPUTE)

test-cpus: setup  ## the same as on two CPUs, with one and with two threads
	@for threads in 1 2; do \
		env $(HASWELL) OMP_NUM_THREADS=$$threads $(COMPUTE) && \
		env $(PRESCOTT) OMP_NUM_THREADS=$$threads $(COMPUTE) || exit 1; \
	done

DVC_VERSIONS := 3.63.0 3.67.1
test-dvc: setup  ## what is used of DVC, on the oldest and the newest version in the range
	@for version in $(DVC_VERSIONS); do \
		uv pip install --quiet --python $(BIN)/python --target .venv/dvc-$$version "dvc==$$version" && \
		PYTHONPATH=.venv/dvc-$$version pytest tests/pipeline/test_dvc_contract.py tests/pipeline/test_bridge.py || exit 1; \
	done

test-slurm: setup  ## send a small pipeline through a throw-away Slurm on this machine (needs root and Debian)
	@pytest -m slurm tests/slurm

lint: setup  ## style and types
	@ruff check .
	@ruff format --check .
	@mypy

docs: setup  ## build the site of the pages and all docstrings into docs/_build
	@$(MAKE) --no-print-directory -C docs

hooks: setup  ## check style and types before each commit
	@pre-commit install

format: setup  ## rewrite the code in the project's style
	@ruff check --fix .
	@ruff format .

lock: setup  ## resolve requirements.lock again from pyproject.toml
	@uv pip compile --universal --python-version 3.11 --extra dev --upgrade --quiet \
		--no-header --no-annotate --no-emit-index-url pyproject.toml -o requirements.lock
