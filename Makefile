# Everything a developer or a newcomer types. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint typecheck bench docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; try make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,eval,dev]'
	@touch $@

demo: $(READY) ## install, then run the whole pipeline on the built-in recipe (less than 4 minutes on two cores)
	$(BIN)/grpo-audit run

test: $(READY) ## install, then run linters, type checks, the import contract and all tests
	$(MAKE) --no-print-directory lint typecheck
	$(BIN)/python -m pytest

lint: $(READY) ## ruff and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

typecheck: $(READY) ## mypy, strict
	$(BIN)/mypy

bench: $(READY) ## run the benchmarks (slow); each ends with one JSON line
	$(BIN)/python -m benchmarks.demo_gain
	$(BIN)/python -m benchmarks.recording_cost

docs: $(READY) ## write the generated pages again (docs/schema.md)
	$(BIN)/python -m grpo_audit.ledger.schema_doc docs/schema.md

clean: ## remove the environment, caches and runs
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
