# Two commands on a fresh machine with Python 3.11+, make and git: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_IMAGES := demo-images
DEMO_OUT := demo-out

.PHONY: help demo test lint bench clean

help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "bigcluster needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "setting up $(VENV) (once; about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	@touch $(STAMP)

demo: $(STAMP)  ## draw 600 catalog cuts, cluster them, say where to look
	@rm -rf $(DEMO_IMAGES) $(DEMO_OUT)
	@$(BIN)/bigcluster demo $(DEMO_IMAGES) --images 600
	@$(BIN)/bigcluster run $(DEMO_IMAGES) --out $(DEMO_OUT) -k 12
	@echo
	@echo "Look at $(DEMO_OUT)/clusters/, one folder per cluster, and at $(DEMO_OUT)/labels.csv."
	@echo "Your own pictures: $(BIN)/bigcluster run /path/to/pictures --out out -k 10 --memory 1GiB"

test: $(STAMP)  ## run the whole test suite
	@$(BIN)/python -m pytest -n 2 $(PYTEST)

lint: $(STAMP)  ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean:  ## remove what these commands made
	@rm -rf $(VENV) $(DEMO_IMAGES) $(DEMO_OUT)
