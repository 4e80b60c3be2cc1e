# Two commands on a fresh machine with Python 3.10+ and make:  make run  and  make test.
# Without a GPU, `make run TORCH=cpu` installs the small torch build the first time.
PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb))

# uv where it is there and pip else. Only uv can choose a torch build, so TORCH brings it along.
TORCH ?=
UV ?= $(shell command -v uv 2>/dev/null)
PIP := $(BIN)/python -m pip
ifneq ($(UV)$(TORCH),)
INSTALLER := $(if $(UV),,$(PIP) install --quiet --constraint constraints.txt uv)
INSTALL := $(or $(UV),$(BIN)/uv) pip install --python $(BIN)/python $(if $(TORCH),--torch-backend $(TORCH))
else
INSTALLER := $(PIP) install --quiet --upgrade pip
INSTALL := $(PIP) install
endif

# A worker a core, four at most: each holds torch and may run a notebook beside it. The cells of a notebook
# stay together, as a file's tests do (tests/conftest.py); what takes longest comes first.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 8
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=600

.PHONY: help run test test-fast test-slow test-all lint lab format notebooks table bench clean

help:                       ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/installed        ## the main job: distil the tiny pair with the main methods
	$(BIN)/python -m minidistill run

# Offline on purpose: what the course ships is all that its tests may need.
test test-fast test-slow: export HF_HUB_OFFLINE = 1

test: lint                  ## all but the slow tests: the lessons and two of them in a browser too
	$(PYTEST) $(NBVAL) -m "not slow" notebooks tests

test-fast: lint             ## the core, tasks and sandbox: the loop while working
	$(PYTEST) -m "not slow" tests/core tests/tasks tests/sandbox tests/test_boundaries.py tests/test_tags.py

test-slow: .venv/installed  ## what `make test` leaves out: solutions, all lessons in a browser, hostile programs
	$(PYTEST) $(NBVAL) -m slow notebooks tests

test-all: test test-slow    ## everything

lint: .venv/installed       ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: .venv/installed        ## JupyterLab on the first notebook
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

format: .venv/installed     ## let ruff repair and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: .venv/installed  ## execute every notebook in place, ready to commit
	$(BIN)/python tests/notebooks/execute.py $(NOTEBOOKS)

table: .venv/installed      ## write the README's tables from the shipped logs
	$(BIN)/python -m minidistill table

bench: .venv/installed      ## speed and memory; printed, never asserted
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only
	$(BIN)/python -m tests.benchmarks.losses --tokens 1024 4096
	$(BIN)/python -m tests.benchmarks.steps
	$(BIN)/python -m tests.benchmarks.epochs

clean:                      ## remove the environment and all output
	rm -rf .venv out

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	found=$$($(PYTHON) --version 2>&1) || found="not there"; \
	echo "minidistill needs Python 3.10 or newer, but '$(PYTHON)' is $$found;" \
	"name another: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALLER)
	$(INSTALL) --quiet --constraint constraints.txt --editable '.[adapt,course,scale,test]'
	@touch $@
