# weft: make demo | make test | make env | make lint
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS := 1
export NUMBA_NUM_THREADS := 1

.PHONY: demo test env lint docs clean

demo: env
	@snakemake --workflow-profile profiles/local --quiet rules --configfile config/demo.yaml
	@python -m weft accuracy results/demo/accuracy.json
	@echo "Report: $(CURDIR)/results/demo/report.html"

test: env
	@python -m pytest tests

env: .venv/weft-environment

.venv/weft-environment: requirements.txt requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "weft needs Python 3.11 or newer; found no python3 on the PATH." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "weft needs Python 3.11 or newer; found $$($(PYTHON) --version)." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "weft needs Python's venv module (Debian: apt-get install python3-venv)." >&2; exit 1; }
	@echo "Making the environment in .venv (once; about two minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@$(BIN)/python -m weft warm
	@touch $@

lint: env
	@ruff check .
	@ruff format --check .
	@mypy weft
	@snakefmt --check Snakefile workflow/Snakefile rules
	@snakemake --lint --configfile config/demo.yaml

docs: env
	@python -m weft docs

clean:
	@rm -rf results .snakemake
