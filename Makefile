# Targets are listed by `make help`. Nothing is installed outside .venv.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.setup-done
# One thread a process: two test processes share two cores, and short kernels gain nothing from more.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format test-slow test-gpu clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(READY) ## install into .venv (says first what it downloads)

$(READY): pyproject.toml constraints.txt .ci/setup
	@.ci/setup

demo: setup ## the four commands on rendered scenes with embedded models, then a measurement; 15 minutes on two cores
	$(BIN)/qllava demo

test: setup lint ## everything CI runs: linters, types, import floors, tests
	$(TEST) -n 2

lint: setup ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples
	$(BIN)/lint-imports

format: setup ## let ruff repair and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-slow: setup ## the proofs that take minutes
	$(TEST) -m slow --timeout 1800

test-gpu: setup ## the tests that need a CUDA card
	$(BIN)/python -m pytest -m gpu

clean: ## remove caches and builds; .venv and runs stay
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
