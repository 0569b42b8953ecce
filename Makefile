# Rules that must stay true here:
# - `make demo` and `make test` need python3.11 and make, nothing else; what only Debian or Go brings is test-stack's.
# - Every package is pinned with its hash (requirements/*.txt); `make lock` alone changes a pin.
# - A target's exit code is the tool's own verdict: nothing here hides a failure.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
# Extra words for pytest, as in: make unit PYTEST_ARGS="tests/core -x"
PYTEST_ARGS ?=
# Processes that share the tests; 0 runs them in one, where a debugger can be used.
WORKERS ?= auto
# Which of deploy/example's two: kubernetes or machines.
EXAMPLE ?= kubernetes

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# pip may write a virtual environment from one place at a time only.
.NOTPARALLEL:
.PHONY: help demo test check lint unit example bench soak stack test-stack diagrams lock clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## watch a CA change hands under load, on real parts, in under three minutes
	@$(BIN)/rotator demo

test: check ## set up what is needed, then lint, types and every test that needs no more than Python

check: lint unit ## exactly what CI runs before the stack: format, ruff, mypy, import-linter, pytest

lint: $(VENV)/.dev ## format, ruff, mypy --strict and the directions between the rooms
	@echo "ruff format"; $(BIN)/ruff format --check --quiet .
	@echo "ruff"; $(BIN)/ruff check --quiet .
	@echo "mypy --strict"; $(BIN)/mypy --no-error-summary
	@echo "import-linter"; $(BIN)/lint-imports --no-logo

unit: $(VENV)/.dev ## the tests alone
	@$(PYTEST) -m "not stack and not soak" -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

example: $(VENV)/.dev ## play deploy/example: a real Envoy for every workload; prints who reached whom
	@$(BIN)/python -m tests.example $(EXAMPLE)

bench: $(VENV)/.dev ## ratios, not times: issuing against the raw signing rate, sweeps, memory, restart
	@$(BIN)/python -m tests.bench

soak: $(VENV)/.dev ## the long counts: dozens of kills, tens of thousands of requests; not part of CI
	@$(PYTEST) -m soak -s --timeout 3600 $(PYTEST_ARGS)

stack: ## bring what test-stack needs: built with Go 1.26 or newer, unpacked from Debian's packages
	@tests/stack/build

test-stack: $(VENV)/.dev stack ## the tests that need what only Go or Debian brings
	@$(PYTEST) -m "stack and not soak" --timeout 1800 -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

diagrams: $(VENV)/.dev ## draw docs/diagrams again from the tables in the code
	@$(BIN)/python -m tests.diagrams

lock: $(VENV)/.dev ## resolve requirements/*.txt again (UV_ARGS=--upgrade takes newer versions)
	@set -e; lock() { name=$$1; shift; echo "requirements/$$name.txt"; \
	  $(BIN)/uv pip compile --quiet --allow-unsafe --generate-hashes --no-header --no-annotate --universal \
	    --python-version 3.11 --no-emit-index-url --no-emit-find-links $(UV_ARGS) "$$@" --group build \
	    --output-file requirements/$$name.txt pyproject.toml; }; \
	lock runtime --extra apprise --extra celery --extra otlp --extra postgresql; \
	lock demo --extra demo; \
	lock dev --extra apprise --extra demo --extra otlp --extra postgresql --group dev

clean: ## remove the virtual environment, caches and what a demo left
	rm -rf $(VENV) demo build dist bench.json .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
	  tests/stack/bin *.egg-info

# --- the virtual environment ------------------------------------------------------------------------------------------

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python could not make a virtual environment (on Debian and Ubuntu: the package python3.11-venv)" >&2; exit 2; }

$(VENV)/.demo: requirements/demo.txt pyproject.toml | $(BIN)/python
	@echo "installing what the demo needs (pinned, with hashes): about a minute"
	@$(PIP) install --require-hashes -r requirements/demo.txt
	@$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "installing what the tests need (pinned, with hashes): about two minutes"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@
