# make demo   fit KernelRidge to 262,000 flights, compare with other models, write demo.png
# make test   ruff, pyright, pytest
# Both create .venv on first use and install into it; later calls only run.

PYTHON ?= python3
VENV   ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo demo-short test lint format bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python benchmarks/flights.py

demo-short: $(VENV)/.demo
	$(BIN)/python benchmarks/flights.py --rows 40000 --picture demo-short.png

# SCIPY_ARRAY_API lets scikit-learn check the estimators with arrays of other libraries too.
test: lint
	SCIPY_ARRAY_API=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

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

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kerngp needs Python 3.11 or later; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@
