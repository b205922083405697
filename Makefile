# `make` alone prints the menu. Every target sets up what it needs first; nothing outside this folder is touched.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml sdk/pyproject.toml requirements/dev.txt requirements/uv.txt
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test coverage soak check bench-artifacts bench-registry up down lock clean

help:  ## this menu
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready

# uv installs in seconds what pip needs minutes for; pip brings uv itself, pinned by hash like everything else.
$(VENV)/.ready: $(INPUTS)
	@echo "Setting up $(VENV) (once; about a minute) …"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "Modelyard needs Python 3.11, 3.12 or 3.13; try make PYTHON=python3.12")'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements/dev.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e sdk -e .
	@touch $@

demo: setup  ## train, register, promote, predict, hot-reload and roll back, on a throw-away registry
	@$(BIN)/python -m examples.demo

test: setup  ## the whole test-suite (SQLite and PostgreSQL, disk and real S3 servers)
	@$(BIN)/python -m pytest -n 2 --dist worksteal

coverage: setup  ## the same, and which lines it reached; tracing them takes half as long again
	@$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term

soak: setup  ## the reliability tests with many more kills and failures (20 minutes and more)
	@$(BIN)/python -m tests.reliability.soak --minutes 10

bench-registry: setup  ## guards, change feed, calls beside MLflow, searches of 200,000 versions (ten minutes)
	@$(BIN)/python -m benchmarks.registry

check: setup  ## linters, types, import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports --no-cache

bench-artifacts: setup  ## uploads and downloads beside boto3 and MLflow (needs Ceph, 16 GiB of memory, 20 minutes)
	@$(BIN)/python -m benchmarks.artifacts

up: setup  ## start a registry and a serving adapter on loopback, and leave them running
	@$(BIN)/python -m deploy.local up

down: setup  ## stop what `make up` started
	@$(BIN)/python -m deploy.local down

lock: setup  ## compile requirements/*.txt again from the pyproject files
	@$(BIN)/uv pip compile --quiet --upgrade pyproject.toml sdk/pyproject.toml --all-extras --group dev --universal \
	    --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-package modelyard \
	    --no-header -o requirements/dev.txt
	@echo uv | $(BIN)/uv pip compile --quiet --upgrade - --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header -o requirements/uv.txt

clean:  ## remove everything that was set up here
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
