# Two commands on a fresh machine with Python 3.10+ and make:  make run  and  make test.
PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb)

.PHONY: run test lab format lint notebooks figures table bench clean

run: .venv/installed        ## the main job: distil the tiny pair with the main methods
	$(BIN)/python -m minidistill run

test: .venv/installed       ## every test, the notebooks and a browser among them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --nbval-lax tests notebooks

lab: .venv/installed        ## JupyterLab on the first notebook
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: .venv/installed  ## execute every notebook in place, ready to commit
	$(BIN)/python tests/notebooks/execute.py $(NOTEBOOKS)

bench: .venv/installed      ## speed and memory; printed, never asserted
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only

clean:
	rm -rf .venv out

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[course,scale,test]'
	touch $@
