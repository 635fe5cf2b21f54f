# Targets for newcomers (demo, test) and for those who change the code (lint, format, typecheck,
# coverage; test-slow, test-lowest and test-clients are parts of
# nightly).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# resolves versions, where pip has no way to: for all Pythons at once, and the lowest
UV := build/uv/bin/uv
# what test-lowest installs beside the lowest versions: "torch==2.13.0+cpu" where an old torch
# cannot be had
LOWEST_WITH ?=
# CI and developers install the versions of constraints.txt, users the ranges of setup.cfg
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo docs docs-cli test test-kernels test-slow test-lowest test-clients nightly coverage lint format typecheck lock paper clean

demo: $(VENV)/.installed
	$(BIN)/dipair-index build
	$(BIN)/dipair-index rerank --compare --top-k 5 \
		--query "why does a honey bee die after stinging someone"

test: $(VENV)/.test-installed
	$(BIN)/pytest -m "not slow" -n 2

test-slow: $(VENV)/.test-installed
	$(BIN)/pytest -m slow

# numeric tests under the kernels of OpenBLAS; those that this processor lacks are skipped in words
test-kernels: $(VENV)/.test-installed
	$(BIN)/python .ci/kernels

# the lowest versions that setup.cfg declares
test-lowest: $(UV)
	rm -rf build/lowest
	$(PYTHON) -m venv build/lowest
	$(UV) pip install --quiet --python build/lowest/bin/python --resolution lowest-direct \
		--editable ".[test]" $(LOWEST_WITH)
	build/lowest/bin/python -m pytest -m "not slow"

# the clients of other packages, unmodified, each in an environment of its own
test-clients: $(VENV)/.test-installed
	$(BIN)/python .ci/clients

# what would take .ci/run over its 20 minutes
nightly: test-kernels test-slow test-lowest test-clients

coverage: $(VENV)/.test-installed
	$(BIN)/coverage run -m pytest -m "not slow"
	$(BIN)/coverage report

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# type checkers cannot see setup.cfg's mapping of folders in the source tree, so check what is installed
typecheck: $(VENV)/.test-installed
	rm -rf build/typecheck
	$(INSTALL) --no-deps --target build/typecheck .
	cd build/typecheck && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p dipair_index

# the site in site/: a page, a link or a heading that is missing fails, and so does anything that
# a page would load from elsewhere (with --quiet, mkdocs would count no warnings)
docs: $(VENV)/.docs-installed
	rm -rf build/docs
	$(INSTALL) --no-deps --target build/docs .
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	! grep -rE --include=*.html '<(script|link|img|iframe)[^>]+(src|href)="?(https?:)?//' site
	! grep -rE --include=*.css '(url\(|@import )["'"'"']?(https?:)?//' site

# the reference of the commands, from their help
docs-cli: $(VENV)/.installed
	$(BIN)/python -m dipair_index.cli._reference > docs/cli.md

# writes constraints.txt anew, with as few changes as setup.cfg asks for; UPGRADE=--upgrade for all
lock: $(UV)
	cp constraints.txt build/constraints.txt
	$(UV) pip compile setup.cfg --all-extras --universal --python-version 3.10 --quiet \
		--no-annotate --no-header $(UPGRADE) --output-file build/constraints.txt
	(grep '^#' constraints.txt; grep -vE '^(#|nvidia|cuda|triton)' build/constraints.txt) \
		> build/locked.txt
	mv build/locked.txt constraints.txt

# the paper's tables and figures: hours on two cores; see benchmarks/paper.py for what these are
paper: $(VENV)/.bench-installed
	$(BIN)/python benchmarks/paper.py --dataset $(DATASET) --labels $(LABELS) --teacher $(TEACHER) \
		--relevance-dataset $(PRODUCTS)

clean:
	rm -rf build dist site *.egg-info .coverage $(VENV)

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/pip setup.cfg pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(INSTALL) --editable ".[test,lint]"
	touch $@

$(VENV)/.docs-installed: $(VENV)/.installed
	$(INSTALL) --editable ".[docs]"
	touch $@

$(VENV)/.bench-installed: $(VENV)/.installed
	$(INSTALL) --editable ".[bench]"
	touch $@

$(UV):
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
