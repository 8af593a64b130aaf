# Every habit is a target. `make help` lists them.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
USER_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALL_PROJECT := $(PIP_INSTALL) --no-deps --no-build-isolation -e sdk -e .

COMPILE := $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 \
  --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
  --extra standalone --no-emit-package control-plane-sdk pyproject.toml

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "control-plane needs Python 3.11 or later; $(PYTHON) is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Creating the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(USER_STAMP): $(VENV)/bin/python requirements.lock pyproject.toml sdk/pyproject.toml
	@echo "Installing the locked dependencies (once)"
	@$(PIP_INSTALL) --require-hashes -r requirements.lock
	@$(INSTALL_PROJECT)
	@touch $@

$(DEV_STAMP): $(USER_STAMP) requirements-dev.lock
	@echo "Installing the locked development tools (once)"
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

.PHONY: lock
lock: $(VENV)/bin/python ## Resolve the dependencies again, into requirements.lock and requirements-dev.lock
	@$(PIP_INSTALL) uv
	$(COMPILE) --group build -o requirements.lock
	$(COMPILE) --group build --group dev -c requirements.lock -o requirements-dev.lock

.PHONY: install
install: $(DEV_STAMP) ## Make the virtual environment with everything in it

.PHONY: demo
demo: $(USER_STAMP) ## Start a stack in a temporary folder, call functions, show what happens
	@$(BIN)/control-plane demo $(ARGS)

.PHONY: up
up: $(USER_STAMP) ## Run Postgres, Temporal, API and Temporal worker until Ctrl-C (ARGS="--port 0")
	@$(BIN)/control-plane up $(ARGS)

.PHONY: test
# Tests start hundreds of programs. Without bytecode files each would compile this project again.
test: export PYTHONDONTWRITEBYTECODE =
test: $(DEV_STAMP) ## Run all tests, three at a time (ARGS="-k name" for some)
	@$(BIN)/python -m pytest -n 3 --durations=20 $(ARGS)

.PHONY: fuzz
fuzz: $(DEV_STAMP) ## Send a running stack what the OpenAPI document allows, and what not (ARGS="--seed 1")
	@$(BIN)/python -m tests.proofs.fuzz $(ARGS)

.PHONY: check
check: $(DEV_STAMP) ## Format, lint, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: audit
audit: $(DEV_STAMP) ## Look for known vulnerabilities in the locked packages (ARGS="--where-possible")
	@$(BIN)/python -m tests.support.audit $(ARGS)

.PHONY: format
format: $(DEV_STAMP) ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(DEV_STAMP) ## Measure, as ratios to baselines that run beside it (ARGS="--only engine")
	@$(BIN)/python -m bench --output bench/results/latest.json $(ARGS)

.PHONY: bench-full
bench-full: $(DEV_STAMP) ## The same with large sizes: a million rows, 10,000 that wait (half an hour)
	@$(BIN)/python -m bench --full --output bench/results/full.json $(ARGS)

.PHONY: bench-deletion
bench-deletion: $(DEV_STAMP) ## Measure the deletion of a project of 100,000 invocations (ARGS="--count N")
	@$(BIN)/python -m bench.deletion $(ARGS)

.PHONY: prove-limit
prove-limit: $(DEV_STAMP) ## Prove the concurrency limit: 500 invocations, workers killed (idle machine)
	@CONTROL_PLANE_PROVE_LIMIT=500 $(BIN)/python -m pytest -o log_cli=true --log-cli-level=WARNING \
	  tests/e2e/test_concurrency_limit.py $(ARGS)

.PHONY: chaos
chaos: $(DEV_STAMP) ## Kill, stop and cut off parts of a stack under load, then check it (SEED=7 MINUTES=20)
	@$(BIN)/python -m tests.proofs.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

.PHONY: prove-bounds
prove-bounds: $(DEV_STAMP) ## Prove that memory stays bounded under hostile load (ARGS="--only bodies")
	@$(BIN)/python -m tests.proofs.bounds $(ARGS)

.PHONY: record
record: $(DEV_STAMP) ## Record workflow histories for new paths (never to mend a failing replay)
	@$(BIN)/python -m tests.replay.record $(ARGS)

.PHONY: openapi
openapi: $(DEV_STAMP) ## Write the OpenAPI snapshot that the tests compare with
	@$(BIN)/control-plane openapi --output tests/api/openapi.json

.PHONY: sdk-reference
sdk-reference: $(DEV_STAMP) ## Write the reference of the Python library from its docstrings
	@$(BIN)/python -m tests.support.sdk_reference

.PHONY: clean
clean: ## Delete the virtual environment and what tools left behind
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache bench/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
