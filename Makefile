# `make help` lists what can be made. Every target makes the environment in .venv first, when there is none or when
# pyproject.toml has changed since.
#
#   PYTHON=python3.12      the Python to make .venv from (3.11 or later)
#   TORCH=auto|cpu|cuda    which build of torch; auto is the one in .venv, or else looks for an NVIDIA GPU
#   STEPS=20               quickstart: stop after so many steps, in a folder of its own
#   TESTS_AT_ONCE=2        test: so many at a time; many of them start two processes or more
#   PYTEST_ARGS="-x"       test: more arguments for pytest

PYTHON ?= python3
TORCH ?= auto
STEPS ?=
TESTS_AT_ONCE ?= 2
PYTEST_ARGS ?=

BIN := .venv/bin
READY := .venv/ready-$(TORCH)

.DEFAULT_GOAL := help
.PHONY: help quickstart test setup lint format typecheck doctor clean-quickstart

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

quickstart: $(READY) ## Set up, shard the bundled genome, pretrain a small model on it (about 7 minutes on 2 cores)
	@launch/quickstart.sh $(if $(STEPS),training.steps=$(STEPS) run.dir=runs/quickstart-$(STEPS)-steps)

test: $(READY) ## Set up, then run every test, fast and slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" -n $(TESTS_AT_ONCE) $(PYTEST_ARGS)

setup: $(READY) ## Make the environment in .venv, when there is none or pyproject.toml has changed

$(READY): pyproject.toml launch/setup_env.sh
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" launch/setup_env.sh

lint: $(READY) ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## Mend style and format where that can be done by machine
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(READY) ## Check the types
	$(BIN)/pyrefly check

doctor: $(READY) ## Say what is installed, what each operation would use here, and how to install what is missing
	@$(BIN)/ldarnet doctor

clean-quickstart: ## Remove what the quickstart made, to run it afresh
	rm -rf runs/quickstart runs/quickstart-shards runs/quickstart-*-steps
