# The main commands: `make run` and `make test`. Both set up what they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
CORES ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
GPUS ?= 2
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
# Set-up compiles bytecode once; otherwise each of a hundred short jobs would.
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup run test test-all notebook bench test-cpu test-cpus test-dvc test-slurm lint docs hooks format lock
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## create .venv with the locked dependencies and rca itself

# The C++ code in pydensecrf2 is from a Cython older than Python 3.13: the locked Cython generates it again.
$(READY): requirements.lock pyproject.toml workflow/check_prerequisites.py
	@$(PYTHON) workflow/check_prerequisites.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV): about 6 GB of packages, most of it torch."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@$(INSTALL) $(shell grep -E '^(cython|setuptools)==' requirements.lock)
	@CYTHON_FORCE_REGEN=1 $(INSTALL) --compile-bytecode --no-build-isolation-package pydensecrf2 -r requirements.lock
	@$(INSTALL) --no-deps --editable .
	@touch $@

run: setup  ## run the pipeline of params.yaml (by default two runs on the embedded dataset), then print the table
	@rca run --cores $(CORES) --gpus $(GPUS)

# One thread per test process: two processes with two threads each would compete for two cores.
test test-all: export OMP_NUM_THREADS := 1

test: setup  ## run the fast tests, in minutes
	@pytest -n $(CORES) --dist worksteal -m "not slow and not slurm"

test-all: setup  ## run all tests except Slurm's, with the README's commands
	@pytest -n $(CORES) --dist worksteal -m "not slurm"

notebook: setup  ## run the notebook docs/tour.ipynb from its first cell to its last
	@pytest --nbmake --nbmake-timeout=120 docs/tour.ipynb

bench: setup  ## run the benchmarks in about 25 minutes, and write docs/benchmarks.md
	@$(BIN)/python benchmarks

# These variables make libraries compute as on older CPUs. No test may depend on the rounding of a CPU.
HASWELL := OPENBLAS_CORETYPE=Haswell ATEN_CPU_CAPABILITY=avx2
PRESCOTT := OPENBLAS_CORETYPE=Prescott ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41
COMPUTE := OMP_WAIT_POLICY=PASSIVE pytest -n $(CORES) --dist worksteal -m "not slow and not slurm" --ignore tests/pipeline --ignore tests/docs

test-cpu: setup  ## run the numerical tests as on an old CPU, with two threads
	@$(PRESCOTT) OMP_NUM_THREADS=2 $(COMPUTE)

test-cpus: setup  ## run the numerical tests as on two older CPUs, with one and with two threads
	@for threads in 1 2; do \
		env $(HASWELL) OMP_NUM_THREADS=$$threads $(COMPUTE) && \
		env $(PRESCOTT) OMP_NUM_THREADS=$$threads $(COMPUTE) || exit 1; \
	done

DVC_VERSIONS := 3.63.0 3.67.1
test-dvc: setup  ## test the use of DVC with its oldest and newest supported versions
	@for version in $(DVC_VERSIONS); do \
		uv pip install --quiet --python $(BIN)/python --target .venv/dvc-$$version "dvc==$$version" && \
		PYTHONPATH=.venv/dvc-$$version pytest tests/pipeline/test_dvc_contract.py tests/pipeline/test_bridge.py || exit 1; \
	done

test-slurm: setup  ## run a small pipeline on a temporary Slurm on this machine (needs root and Debian)
	@pytest -m slurm tests/slurm

lint: setup  ## check style and types
	@ruff check .
	@ruff format --check .
	@mypy

docs: setup  ## build the documentation site into docs/_build
	@$(MAKE) --no-print-directory -C docs

hooks: setup  ## check style and types before each commit
	@pre-commit install

format: setup  ## rewrite the code in the project's style
	@ruff check --fix .
	@ruff format .

lock: setup  ## resolve requirements.lock again from pyproject.toml
	@uv pip compile --universal --python-version 3.11 --extra dev --upgrade --quiet \
		--no-header --no-annotate --no-emit-index-url pyproject.toml -o requirements.lock
