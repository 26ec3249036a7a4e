# Everything a contributor or a newcomer types. Each target does its own set-up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
STAMP := $(VENV)/.installed
TORCH_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: setup quickstart test test-all test-fast check bench clean
.DELETE_ON_ERROR:

setup: $(STAMP)  ## a .venv from the lock; nothing when current

$(STAMP): requirements/cpu.lock requirements/torch-cpu.lock pyproject.toml
	@echo "Setting up $(VENV) (about two minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --no-deps --require-hashes -r requirements/torch-cpu.lock \
		|| $(PIP) install --no-deps --require-hashes --index-url $(TORCH_INDEX) -r requirements/torch-cpu.lock
	@$(PIP) install --no-deps --require-hashes -r requirements/cpu.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

quickstart: setup  ## the whole pipeline on the built-in micro model
	$(BIN)/cai-ray run quickstart

test: setup  ## all but the long tests: the pure ones on every core, then real Ray, vLLM and torch
	$(BIN)/python -m pytest -m "not slow" -q -n logical
	$(BIN)/python -m pytest -m "slow and not long" --durations=15

test-all: setup  ## every test
	$(BIN)/python -m pytest

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
