# make run     serve the demo at http://127.0.0.1:8080 (PORT= to change)
# make test    lint, types and all tests, as CI runs them

PYTHON ?= python3
PORT ?= 8080
BIN := .venv/bin
# PyTorch's Linux builds in the ordinary registry bring some 4 GB of CUDA libraries that a CPU never uses. The CPU build
# has the local version +cpu: an index or folder that pip is set up with may have it, else it is on PyTorch's own index.
# Where neither answers (no network, a platform without such a build), the ordinary package is taken.
TORCH_CPU := torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: run test lint format clean

run: .venv/installed
	$(BIN)/polyseek demo --port $(PORT)

test: .venv/tested lint
	$(BIN)/python -m pytest

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/tested
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/torch:
	$(PYTHON) -m venv .venv
	$(BIN)/python -c "import torch" 2>/dev/null \
		|| $(BIN)/pip install --quiet "$(TORCH_CPU)" 2>/dev/null \
		|| $(BIN)/pip install --quiet "torch>=2.4" --index-url $(TORCH_INDEX) \
		|| $(BIN)/pip install --quiet "torch>=2.4"
	touch $@

.venv/installed: pyproject.toml .venv/torch
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/tested: pyproject.toml .venv/installed
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
