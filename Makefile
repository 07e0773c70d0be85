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
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,rewards,eval,dev]'
	@touch $@

demo: $(READY) ## install, then run the whole pipeline on the built-in recipe (less than 4 minutes on two cores)
	$(BIN)/grpo-audit run

test: $(READY) ## install, then run linters, type checks, the import contract and all tests
	$(MAKE) --no-print-directory lint typecheck
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

lint: $(READY) ## ruff and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

typecheck: $(READY) ## mypy, strict
	$(BIN)/mypy

bench: $(READY) ## run the benchmarks (slow); each ends with one JSON line
	$(BIN)/python -m benchmarks.demo_gain
	$(BIN)/python -m benchmarks.recording_cost
	$(BIN)/python -m benchmarks.trainer_vs_trl
	$(BIN)/python -m benchmarks.ppo_vs_grpo
	$(BIN)/python -m benchmarks.replay_power
	$(BIN)/python -m benchmarks.ledger
	$(BIN)/python -m benchmarks.lm_eval_speed
	$(BIN)/python -m benchmarks.decontamination
	$(BIN)/python -m benchmarks.comparison_power

docs: $(READY) ## write the generated pages again (schema, preflight, catalogue)
	$(BIN)/python -m grpo_audit.ledger.schema_doc >docs/schema.md
	$(BIN)/python -m grpo_audit.preflight.doc docs/preflight.md
	$(BIN)/python -m grpo_audit.catalogue.doc docs/catalogue.md

.PHONY: mutate faults
mutate: $(READY) ## flip every byte of a small record and of a bundle, and count what is detected (slow)
	PYTHONPATH=tests:. $(BIN)/python -m attacks.mutation

faults: $(READY) ## let every system call of a writer fail, one at a time, and check the record (slow; needs strace)
	PYTHONPATH=tests:. $(BIN)/python -m attacks.faults

VLLM_VENV := .venv-vllm

.PHONY: test-vllm
test-vllm: $(VLLM_VENV)/.ready ## test the vLLM engine against the real vLLM, in an environment of its own (3.9 GB)
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/vllm_engine

$(VLLM_VENV)/.ready: tests/vllm_engine/environment.py pyproject.toml
	$(PYTHON) tests/vllm_engine/environment.py $(VLLM_VENV)
	@touch $@

clean: ## remove the environment, caches and runs
	rm -rf $(VENV) $(VLLM_VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
