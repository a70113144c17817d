# Every command of the project. `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
TRAIN_VENV := .venv-train
CONFIG ?= training/configs/mini.yaml

# llama-cpp-python is compiled for this machine; its image and audio part is not used.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install run test test-all test-training check fmt eval bench train train-mini alarm train-smoke lock clean

help: ## List the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

install: $(VENV)/.serve ## Create .venv and install the service (compiles llama-cpp-python, about 5 minutes on 2 cores)

run: install ## Serve on http://127.0.0.1:8000 with the embedded model
	$(VENV)/bin/python -m backend

test: $(VENV)/.dev ## Run the tests (the embedded model included)
	$(VENV)/bin/python -m pytest -m "not slow and not training"

test-all: $(VENV)/.dev ## The same, with ten times as many generated cases
	$(VENV)/bin/python -m pytest -m "not training"

test-training: $(TRAIN_VENV)/.train ## Run the tests of training/ that need PyTorch
	$(TRAIN_VENV)/bin/python -m pytest -m training

check: $(VENV)/.dev ## Format, lint, types, and the knowledge base
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m backend.core.lint

fmt: $(VENV)/.dev ## Format the code and the data
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/python -m backend.core.canonical

eval: $(VENV)/.dev ## Measure understanding, ranking, urgency and replies; CASES=folder adds cases from elsewhere
	$(VENV)/bin/python -m benchmarks.evaluate --ablation $(if $(CASES),--cases $(CASES))

bench: install ## Measure start-up, memory and latency of a real server
	$(VENV)/bin/python -m benchmarks.server

train: $(TRAIN_VENV)/.train ## Run every stage of CONFIG (default: the embedded model); an interrupted run goes on
	$(TRAIN_VENV)/bin/python -m training --config $(CONFIG) --list
	$(TRAIN_VENV)/bin/python -m training --config $(CONFIG)

train-mini: ## Make the embedded model again
	$(MAKE) train CONFIG=training/configs/mini.yaml

alarm: $(TRAIN_VENV)/.train ## Learn again how urgent words sound (data/alarm.json), from training/triage
	$(TRAIN_VENV)/bin/python -m training.alarm
	$(MAKE) $(VENV)/.dev
	$(VENV)/bin/python -m backend.core.lookalikes

train-smoke: ## The whole training chain in a few minutes (not a useful model)
	$(MAKE) train CONFIG=training/configs/smoke.yaml

lock: $(VENV)/.dev ## Renew requirements*.txt from pyproject.toml
	$(VENV)/bin/python -m pip install --quiet pip-tools
	for part in "" dev train; do \
	  $(VENV)/bin/python -m piptools compile --quiet --upgrade --strip-extras --no-header --no-annotate \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host $${part:+--extra dev} \
	    $$([ "$$part" = train ] && echo --extra train --extra train-test) -o requirements$${part:+-$$part}.txt pyproject.toml; \
	done
	sed -i -e 's/+cpu$$//' -e '/^#/d' -e '/^$$/d' requirements.txt requirements-dev.txt requirements-train.txt

clean: ## Remove the environments and caches; models and training runs stay
	rm -rf $(VENV) $(TRAIN_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.serve: requirements.txt
	@$(call check_tools)
	$(PYTHON) -m venv $(VENV)
	@echo "Installing; llama-cpp-python is compiled, which takes about 5 minutes on 2 cores."
	$(VENV)/bin/python -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.serve
	$(VENV)/bin/python -m pip install --quiet -r requirements-dev.txt
	@touch $@

$(TRAIN_VENV)/.train: requirements-train.txt
	@$(call check_tools)
	$(PYTHON) -m venv $(TRAIN_VENV)
	$(TRAIN_VENV)/bin/python -m pip install --quiet -r requirements-train.txt
	@touch $@

define check_tools
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..." >&2; exit 1; }; \
command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null \
  || { echo "A C++ compiler is needed to build llama-cpp-python. Debian and Ubuntu: sudo apt install build-essential" \
     "python3-venv; Fedora: sudo dnf install gcc-c++ make; macOS: xcode-select --install" >&2; exit 1; }
endef
