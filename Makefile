# Targets for newcomers (demo, test) and for those who change the code (lint, typecheck, test-slow).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# one build of torch for the tests and CI; the demo needs none
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo docs-cli test test-slow lint typecheck paper clean

demo: $(VENV)/.installed
	$(BIN)/dipair-index build
	$(BIN)/dipair-index rerank --compare --top-k 5 \
		--query "why does a honey bee die after stinging someone"

test: $(VENV)/.test-installed
	$(BIN)/pytest -m "not slow"

test-slow: $(VENV)/.test-installed
	$(BIN)/pytest -m slow

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# type checkers cannot see setup.cfg's mapping of folders in the source tree, so check what is installed
typecheck: $(VENV)/.test-installed
	rm -rf build/typecheck
	$(INSTALL) --no-deps --target build/typecheck .
	cd build/typecheck && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p dipair_index

# the reference of the commands, from their help
docs-cli: $(VENV)/.installed
	$(BIN)/python -m dipair_index.cli._reference > docs/cli.md

# the paper's tables and figures: hours on two cores; see benchmarks/paper.py for what these are
paper: $(VENV)/.bench-installed
	$(BIN)/python benchmarks/paper.py --dataset $(DATASET) --labels $(LABELS) --teacher $(TEACHER) \
		--relevance-dataset $(PRODUCTS)

clean:
	rm -rf build dist *.egg-info $(VENV)

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/pip setup.cfg pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(INSTALL) --editable ".[test,lint]"
	touch $@

$(VENV)/.bench-installed: $(VENV)/.installed
	$(INSTALL) --editable ".[bench]"
	touch $@
