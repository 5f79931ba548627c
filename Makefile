# `make help` lists the targets. Each creates the environment in .venv first if it is missing or older than
# pyproject.toml.
#
#   PYTHON=python3.12      Python to create .venv with (3.11 or later)
#   TORCH=auto|cpu|cuda    torch build; auto keeps the build in .venv, else selects CUDA if there is an NVIDIA GPU, else CPU
#   STEPS=20               for quickstart: number of training steps; uses a separate run folder
#   TESTS_AT_ONCE=2        for test: number of pytest workers; many tests start two or more processes
#   PYTEST_ARGS="-x"       for test: additional pytest arguments
#   GPU_CHECK_ARGS=        for gpu-check: arguments, such as --dry-run

PYTHON ?= python3
TORCH ?= auto
STEPS ?=
TESTS_AT_ONCE ?= 2
PYTEST_ARGS ?=
GPU_CHECK_ARGS ?=

BIN := .venv/bin
READY := .venv/ready-$(TORCH)

.DEFAULT_GOAL := help
.PHONY: help quickstart test setup lint format typecheck doctor gpu-check clean-quickstart

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

quickstart: $(READY) ## Build shards of the bundled genome and pretrain a small model on it (a few minutes on 2 cores)
	@launch/quickstart.sh $(if $(STEPS),training.steps=$(STEPS) run.dir=runs/quickstart-$(STEPS)-steps)

test: $(READY) ## Run all tests, fast and slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" -n $(TESTS_AT_ONCE) --dist worksteal $(PYTEST_ARGS)

setup: $(READY) ## Create or update the environment in .venv

$(READY): pyproject.toml launch/setup_env.sh
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" launch/setup_env.sh

lint: $(READY) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## Fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(READY) ## Check types
	$(BIN)/pyrefly check

doctor: $(READY) ## Report installed packages, devices and kernels; suggest fixes
	@$(BIN)/ldarnet doctor

gpu-check: $(READY) ## Check and measure everything on one GPU in 12 minutes; resumes; results in runs/gpu-check
	@$(BIN)/python -m benchmarks.gpu_check $(GPU_CHECK_ARGS)

clean-quickstart: ## Remove the shards and runs of the quickstart
	rm -rf runs/quickstart runs/quickstart-shards runs/quickstart-*-steps
