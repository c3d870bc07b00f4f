# make run     serve the demo at http://127.0.0.1:8080 (PORT= to change)
# make test    lint, types and all tests, as CI runs them
# make bench-late DATASET=FOLDER    late interaction beside FastPlaid and XTR-WARP (minutes; the peers bring 3 GB of PyTorch)
# make bench-bm25 DATASET=FOLDER    BM25 beside rank-bm25 and bm25s
# make bench-kernels DATASET=FOLDER   MaxSim alone, beside PyTorch and NumKong
# make bench-encode DATASET=FOLDER  encoding beside Sentence Transformers, its backends, and the model's own engine
# make bench-build DATASET=FOLDER   building, killed and not: speed, memory, the same bytes (an hour with 60,000 passages)
# make bench-scale DATASET=FOLDER   how late interaction grows with jittered copies (some minutes, 4 GB)
# make bench-dense DATASET=FOLDER   the dense view beside FAISS's flat index, a million vectors (some minutes, 6 GB)

PYTHON ?= python3
PORT ?= 8080
BIN := .venv/bin
# PyTorch's Linux builds in the ordinary registry bring some 4 GB of CUDA libraries that a CPU never uses. The CPU build
# has the local version +cpu: an index or folder that pip is set up with may have it, else it is on PyTorch's own index.
# Where neither answers (no network, a platform without such a build), the ordinary package is taken.
TORCH_CPU := torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: run test lint format bench-late bench-bm25 bench-build bench-dense bench-encode bench-kernels bench-scale clean

run: .venv/installed
	$(BIN)/polyseek demo --port $(PORT)

# Two processes, files whole, for what a file shares it makes once. One thread each for PyTorch: two that wait in a loop
# for one another in both processes made tests of training take 165 s instead of 57.
test: .venv/tested lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/tested
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-late: .venv/benched .peers/installed
	$(BIN)/python -m eval.bench.late $(DATASET) --peers .peers/bin/python
	$(BIN)/python -m eval.bench.plot

bench-bm25: .venv/benched
	$(BIN)/python -m eval.bench.bm25 $(DATASET)

bench-kernels: .venv/benched
	$(BIN)/python -m eval.bench.kernels $(DATASET)

bench-scale: .venv/installed
	$(BIN)/python -m eval.bench.scale $(DATASET)

bench-build: .venv/installed
	$(BIN)/python -m eval.bench.build $(DATASET)

bench-encode: .venv/benched .backends/installed
	$(BIN)/python -m eval.bench.encode $(DATASET) --peers .backends/bin/python

bench-dense: .venv/installed
	$(BIN)/python -m eval.bench.dense $(DATASET)

# In an environment of their own: their wheels are built for one release of PyTorch.
.peers/installed:
	$(PYTHON) -m venv .peers
	.peers/bin/pip install --quiet fast-plaid xtr-warp-rs
	touch $@

# Sentence Transformers 5: what its ONNX backend needs wants Transformers 4.
.backends/installed:
	$(PYTHON) -m venv .backends
	.backends/bin/pip install --quiet "$(TORCH_CPU)" || true
	.backends/bin/pip install --quiet "sentence-transformers[onnx,openvino]>=5,<6"
	touch $@

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

.venv/benched: pyproject.toml .venv/installed
	$(BIN)/pip install --quiet --editable ".[bench]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
