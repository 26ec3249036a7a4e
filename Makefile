# Everything a contributor or a newcomer types. Each target does its own set-up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
STAMP := $(VENV)/.installed$(if $(GPU),-gpu)
OTHER_STAMP := $(VENV)/.installed$(if $(GPU),,-gpu)
TORCH_INDEX := https://download.pytorch.org/whl/cpu
# `make setup GPU=1`: the CUDA stack. One .venv holds one of the two.
LOCKS := $(if $(GPU),requirements/gpu.lock,requirements/torch-cpu.lock requirements/cpu.lock)

.PHONY: setup quickstart test test-all test-cluster test-fast check bench clean
.DELETE_ON_ERROR:

setup: $(STAMP)  ## a .venv from the lock; nothing when current. GPU=1: with CUDA

$(STAMP): $(LOCKS) pyproject.toml
	@test ! -e $(OTHER_STAMP) || { echo "$(VENV) holds the other stack: make clean, or $(if $(GPU),leave out,add) GPU=1"; exit 2; }
	@echo "Setting up $(VENV) (about two minutes; with CUDA some more) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifndef GPU
	@$(PIP) install --no-deps --require-hashes -r requirements/torch-cpu.lock \
		|| $(PIP) install --no-deps --require-hashes --index-url $(TORCH_INDEX) -r requirements/torch-cpu.lock
endif
	@$(PIP) install --no-deps --require-hashes -r $(lastword $(LOCKS))
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

quickstart: setup  ## the whole pipeline on the built-in micro model
	$(BIN)/cai-ray run quickstart

test: setup  ## all but the long tests: the pure ones on every core, then real Ray, vLLM and torch
	$(BIN)/python -m pytest -m "not slow" -q -n logical
	$(BIN)/python -m pytest -m "slow and not long" --durations=15

test-all: setup  ## every test
	$(BIN)/python -m pytest

test-cluster: setup  ## clusters of several hosts on this machine, in network namespaces; needs root
	$(BIN)/python -m pytest -m hosts --durations=15

test-fast: setup  ## the pure tests, a minute on two cores
	$(BIN)/python -m pytest -m "not slow" -q -n logical

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## every claim of the README, measured again into benchmarks/results/
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
