# What people and CI do, one target each. PYTHON makes the virtual environment VENV.
PYTHON ?= python3.11
VENV ?= .venv
ARGS ?=
EXAMPLES ?= .hypothesis
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
BUILT := $(VENV)/built
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile
BUILD := $(BIN)/python setup.py --quiet build_ext --inplace
# DGL has no wheels for Python 3.12 and later; emorec-train says so where it is left to choose.
BACKEND = $(shell $(BIN)/python -c 'from emorec.data.graph import import_dgl; import_dgl()' 2>/dev/null && echo dgl || echo auto)

.DEFAULT_GOAL := help
.PHONY: help install build wheel train test fuzz coverage sanitize matrix lint typecheck format docs bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Install EmoRec and its tools into VENV (.venv)

$(STAMP): setup.py pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "no $(PYTHON) here; name a Python 3.11 or later: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is too old: EmoRec needs Python 3.11 or later"; exit 1; }
	@echo "Installing into $(VENV), once; PyTorch is large, so this takes minutes."
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

$(BUILT): $(STAMP) $(wildcard csrc/* csrc/*/*)
	@echo "Compiling the operators, where there is a compiler."
	@$(BUILD) >$(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	@grep '^emorec:' $(VENV)/build.log || true
	@touch $@

build: $(STAMP) ## Compile the operators in place, where there is a compiler
	$(BUILD)

wheel: ## Build a wheel with compiled operators into dist, and try it in a bare environment
	PYTHON="$(PYTHON)" .ci/wheel

train: $(BUILT) ## Train the flagship on the embedded data set, e.g. ARGS="--dataset ml-1m"
	$(BIN)/emorec-train --backend $(BACKEND) $(ARGS)

test: $(BUILT) ## Run the tests, on up to four cores, e.g. ARGS="--run-slow"; ARGS="-n 0 --pdb" on one
	$(PYTEST) $(ARGS)

fuzz: $(BUILT) ## Try a hundred times as many random inputs, e.g. ARGS="-k logs"; what fails is kept in EXAMPLES
	HYPOTHESIS_STORAGE_DIRECTORY=$(EXAMPLES) $(BIN)/python -m pytest --hypothesis-profile fuzz tests/fuzz $(ARGS)

coverage: $(BUILT) ## Run the tests and list the branches that none takes, e.g. ARGS=tests/data
	@mkdir -p build
	@rm -f build/coverage.*
	COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml COVERAGE_FILE=$(CURDIR)/build/coverage $(PYTEST) $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

sanitize: $(STAMP) ## Run the operators' tests under AddressSanitizer, UBSan and ThreadSanitizer, e.g. ARGS="--isa avx2"
	$(BIN)/python .ci/sanitize address thread $(ARGS)

matrix: ## Run the tests with each Python, the lowest and the newest versions, and without DGL and others
	"$(PYTHON)" .ci/matrix $(ARGS)

lint: $(STAMP) ## Check style and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

typecheck: $(STAMP) ## Check types
	$(BIN)/mypy

format: $(STAMP) ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

docs: $(STAMP) ## Write the documentation to build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "The documentation is in build/site; for the search, serve it: $(BIN)/python -m http.server -d build/site"

bench: $(BUILT) ## Run the benchmarks that need neither data nor a trained run
	@set -e; for name in attention graph train; do \
		echo "== $$name"; $(BIN)/python benchmarks/$${name}_bench.py $(ARGS); done

clean: ## Remove caches and build products; VENV and runs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find emorec tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
