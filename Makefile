# make demo   fit KernelRidge to 262,000 flights, compare with other models, write demo.png
# make test   ruff, pyright, pytest; CUDA kernels run on an emulated device, no GPU is needed
# make gpu    on a machine with an NVIDIA GPU: its tests, compute-sanitizer, the benchmark
# All create .venv on first use and install into it; later calls only run.

PYTHON ?= python3
VENV   ?= .venv
PYTEST_ARGS ?= -n auto

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo demo-short test test-cuda lint format bench gpu clean

# What the suite knows of results, run on the CUDA backend
CUDA_SUITE := tests/engine/test_cpu_backend.py tests/engine/test_entries.py tests/engine/test_mapreduce.py \
  tests/engine/test_ops.py tests/engine/test_ranges.py tests/engine/test_reductions.py \
  tests/engine/test_folds.py tests/engine/test_define.py \
  tests/test_lazytensor_keops_style.py tests/test_lazytensor_ops.py tests/test_lazytensor_pairs.py \
  tests/test_lazytensor_reductions.py tests/test_complex.py tests/test_lookup.py
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python benchmarks/flights.py

demo-short: $(VENV)/.demo
	$(BIN)/python benchmarks/flights.py --rows 40000 --picture demo-short.png

# Workers share the cores: threads of each, waiting for their like, make small matrices ten times slower.
test: export OMP_NUM_THREADS ?= 1
test: lint $(VENV)/.pycuda
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	KERNGP_TEST_BACKEND=cuda $(BIN)/python -m pytest $(CUDA_SUITE) $(PYTEST_ARGS)

# PYTHON_GPU is the Python whose torch sees the GPU; it needs pytest too.
PYTHON_GPU ?= python3
gpu:
	$(PYTHON_GPU) -c "import pycuda" 2>/dev/null || $(PYTHON_GPU) -m kerngp install-cuda
	$(PYTHON_GPU) -m kerngp doctor
	$(PYTHON_GPU) -m pytest -m gpu tests
	KERNGP_TEST_BACKEND=cuda $(PYTHON_GPU) -m pytest $(CUDA_SUITE)
	compute-sanitizer --tool memcheck --error-exitcode 1 $(PYTHON_GPU) -m kerngp doctor
	compute-sanitizer --tool racecheck --error-exitcode 1 $(PYTHON_GPU) -m kerngp doctor
	$(PYTHON_GPU) benchmarks/gpu.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.demo
	$(BIN)/python benchmarks/cpu.py

clean:
	rm -rf $(VENV) demo.png demo-short.png .pytest_cache .ruff_cache

# A stamp per set of extras: made again only when the requirements change.
$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/.created
	$(PIP) -e ".[demo]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/.created
	$(PIP) -e ".[test]"
	touch $@

# PyCUDA is published as source: a minute or two, once for each Python; the wheel is kept
$(VENV)/.pycuda: $(VENV)/.test
	$(BIN)/python -m kerngp install-cuda
	touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kerngp needs Python 3.11 or later; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@
