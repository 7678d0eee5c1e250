# Everything a person starts: `make train` and `make test` set the environment up by themselves.
#
# The environment is .venv, installed from mlproject/env/dev.lock and nothing else; nobody needs to activate it. pip's own
# settings (index, find-links, proxies, certificates) apply. `make help` lists the targets.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# Settings of a run: make train PROFILE=nhanes DATA=table.csv.gz OVERRIDES="training.epochs=5 seed=1". Assigned here, so
# that only the command line sets them, never the caller's environment; exported, so that every character survives.
PROFILE := default
DATA :=
OVERRIDES :=
export PROFILE DATA OVERRIDES

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCKS := mlproject/env

# `mlflow run --env-manager local` takes the first python on PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# No library calls home, and no pickle is read.
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false
export GX_ANALYTICS_ENABLED := false
# uv, with which MLflow may build environments, reads none of pip's settings: hand on where wheels lie.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

.PHONY: help setup train test test-all check format bench bench-setup bench-clocks bench-serving lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## create or refresh .venv (the other targets do it by themselves)

$(STAMP): $(LOCKS)/dev.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make: PYTHON=$(PYTHON) is $$("$(PYTHON)" --version 2>&1 | tail -n 1), expected Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "== creating $(VENV) with $$("$(PYTHON)" --version)"; \
	  "$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); echo "make: $(PYTHON) cannot create environments; does it lack the package python3-venv?" >&2; exit 1; }; }
	@echo "== installing the $$(grep -c == $(LOCKS)/dev.lock) pinned packages of $(LOCKS)/dev.lock (some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(LOCKS)/dev.lock
	@echo "== installing henaw itself, editable"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

train: setup ## the main job: validate, cache, train, evaluate, register (PROFILE=, DATA=, OVERRIDES=)
	@echo "== mlflow run . -e train: profile $$PROFILE$${DATA:+, data $$DATA}$${OVERRIDES:+, $$OVERRIDES}"
	@$(BIN)/mlflow run . -e train --env-manager local --experiment-name henaw \
	  -P profile="$$PROFILE" -P data="$$DATA" -P overrides="$$OVERRIDES"

# One thread a library: the tests' arrays are small, and the threads of several libraries only wait for each other.
test test-all: export OMP_NUM_THREADS := 1
# One process a core, a file's tests in one of them; more than four would want much memory.
SIDE_BY_SIDE := -n logical --maxprocesses=4 --dist loadfile

test: setup ## the quick tests
	@echo "== pytest, without the slow tests"
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

test-all: setup ## every test
	@echo "== pytest, every test"
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

check: setup ## lint, format, types, layers, spelling
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== import-linter"
	@$(BIN)/lint-imports --no-logo
	@echo "== codespell"
	@git ls-files -z --cached --others --exclude-standard | xargs -0 $(BIN)/codespell

format: setup ## sort imports, mend what can be mended, format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## how fast training is beside what people use instead (DATA=; needs bench-setup; some 6 minutes)
	@data="$${DATA:-../shared/data/nhanes/nhanes_adults.csv.gz}"; [ -f "$$data" ] || [ -n "$$DATA" ] || data=; \
	$(BIN)/python benchmarks/bench_training.py $${data:+"$$data"}

bench-setup: setup ## install what HENAW is compared with (TabM, LightGBM, CatBoost, NGBoost)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(LOCKS)/bench.lock

bench-clocks: setup ## both clocks against their bars, on NHANES (DATA=; needs bench-setup; some 20 minutes)
	@$(BIN)/python benchmarks/bench_clocks.py "$${DATA:-../shared/data/nhanes/nhanes_adults.csv.gz}"

bench-serving: setup ## `henaw serve` beside other servers, against its bars (BENTOML=path/to/bentoml; some 5 minutes)
	@$(BIN)/python benchmarks/bench_serving.py $${BENTOML:+--bentoml "$$BENTOML"}

# One resolution for Python >= 3.11 on every platform. The CUDA packages that PyPI's own torch wheel pins by itself are left
# out: listed, they would come (gigabytes) beside a CPU wheel too. Existing pins are kept while they satisfy pyproject.toml;
# delete a line to let it move.
lock: setup ## write the locks anew from pyproject.toml
	@for name in requirements dev bench; do \
	  lock=$(LOCKS)/$$name.lock; options=; \
	  if [ $$name = dev ]; then options="--group dev --constraints $(LOCKS)/requirements.lock"; fi; \
	  if [ $$name = bench ]; then options="--group bench --constraints $(LOCKS)/dev.lock"; fi; \
	  env -u UV_FIND_LINKS $(BIN)/uv pip compile pyproject.toml $$options --quiet --universal --python-version 3.11 \
	    --no-annotate --no-header --no-emit-index-url --output-file $$lock >/dev/null; \
	  { echo "# Written by \`make lock\` from pyproject.toml: every package, for Python >= 3.11 on Linux and macOS."; \
	    echo "# Without torch's CUDA packages: PyPI's wheel pins them by itself, a CPU wheel needs none."; \
	    grep -vE '^(#|nvidia-|cuda-|triton==)' $$lock; } > $$lock.new; \
	  mv $$lock.new $$lock; \
	  echo "== $$lock: $$(grep -c == $$lock) packages"; \
	done

clean: ## remove the environment, builds and caches (never runs, models or .henaw)
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
