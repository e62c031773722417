# Two commands on a fresh machine with Python 3.11+, make and git: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
BENCH ?= --small
DEMO_IMAGES := demo-images
DEMO_OUT := demo-out

.PHONY: help demo test lint bench stress clean

help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

NATIVE := $(wildcard bigcluster/kernels/linalg/native/*.c) bigcluster/kernels/linalg/native/build.py

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "bigcluster needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@command -v "$${CC:-cc}" >/dev/null || { \
	  echo "bigcluster is built with a C compiler, and there is no '$${CC:-cc}'; on Debian and Ubuntu: apt-get install gcc"; exit 1; }
	@echo "setting up $(VENV) (once; about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	@touch $(STAMP)

demo: $(STAMP)  ## draw 600 catalog cuts, cluster them, say where to look
	@rm -rf $(DEMO_IMAGES) $(DEMO_OUT)
	@$(BIN)/bigcluster demo $(DEMO_IMAGES) --images 600
	@$(BIN)/bigcluster run $(DEMO_IMAGES) --out $(DEMO_OUT) -k 12
	@echo
	@echo "Look at $(DEMO_OUT)/report/index.html in a browser, and at $(DEMO_OUT)/clusters/, one folder per cluster."
	@echo "Your own pictures: $(BIN)/bigcluster run /path/to/pictures --out out -k 10 --memory 1GiB"

test: $(STAMP)  ## run the whole test suite; browsers are installed where that is possible
	@sh tests/install-browsers.sh
	@$(BIN)/python -m pytest -n 2 $(PYTEST)

lint: $(STAMP)  ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Peers in an environment of their own: what they depend on must not decide what the tests see.
$(BENCH_STAMP): pyproject.toml constraints.txt $(NATIVE) | $(STAMP)
	@echo "setting up $(BENCH_VENV) (once; about two minutes)"
	@$(PYTHON) -m venv $(BENCH_VENV)
	@echo '*' > $(BENCH_VENV)/.gitignore
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $(BENCH_STAMP)

bench: $(BENCH_STAMP)  ## peers and ourselves side by side; BENCH="--full --repeat 3" for the real sizes
	@$(BENCH_VENV)/bin/python -m benchmarks $(BENCH)

stress: $(STAMP)  ## kill runs, fill disks, flip bytes: the promises in numbers (an hour); STRESS=--small for a minute
	@$(BIN)/python -m benchmarks.stress $(STRESS)

clean:  ## remove what these commands made; tables measured stay
	@rm -rf $(VENV) $(BENCH_VENV) $(DEMO_IMAGES) $(DEMO_OUT) $(addprefix benchmarks/results/,data work logs)
