# Everything one does here. Only Python >= 3.11, a C compiler and make are needed beforehand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE := $(wildcard native/*.c native/*.h native/*.py) setup.py

.PHONY: help setup demo test check bench deep integration clean

help: ## what there is
	@grep -hE '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/'

setup: $(STAMP) ## .venv with the package, its extras and the tools
$(STAMP): pyproject.toml $(NATIVE)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install -q --group dev
	@$(BIN)/python -W ignore -m pip install -q --no-build-isolation -e ".[cli,lz4,snappy]" 2>$(VENV)/install.log \
		|| { cat $(VENV)/install.log; exit 1; }
	@touch $(STAMP)

demo: $(STAMP) ## see it work: a real history in, replayed, a writer killed, nothing lost
	@$(BIN)/eventlog demo

test: $(STAMP) ## the tests, under three minutes
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4 tests --ignore=tests/integration

check: $(STAMP) ## formatting, lint, types, layers, C warnings, guarantees
	$(BIN)/ruff format --check eventlog tests tools benchmarks examples native setup.py
	$(BIN)/ruff check eventlog tests tools benchmarks examples native setup.py
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_c.py
	$(BIN)/python tools/check_guarantees.py

bench: $(STAMP) ## measure, beside alternatives and the machine's limit
	@$(BIN)/python benchmarks/run.py

deep: $(STAMP) ## long properties, sanitizers, fuzzing, kill loops
	@$(BIN)/python tools/deep.py

integration: $(STAMP) ## real Kafka as judge (fetches it from Maven Central)
	@$(BIN)/python -m pip install -q --group integration
	@$(BIN)/python -m pytest -q tests/integration

clean: ## forget what was built
	rm -rf $(VENV) build dist *.egg-info .cache eventlog/_native/_core*.so eventlog/_native/_core.c
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
