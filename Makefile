# The checks need the environment that `make check` makes on its first run (scripts/run_tests.sh).
PYTHON_BIN := .venv/bin/python

.PHONY: check format test test-gpu docs bench

check: ## everything that the continuous integration runs
	bash scripts/run_tests.sh

format: ## mend what ruff can mend
	$(PYTHON_BIN) -m ruff check --fix .
	$(PYTHON_BIN) -m ruff format .

test: ## tests alone
	$(PYTHON_BIN) -m pytest

test-gpu: ## tests that need a CUDA device
	$(PYTHON_BIN) -m pytest -m gpu

docs: ## docs/options.md and the JSON schema, from the option dataclasses
	$(PYTHON_BIN) scripts/make_docs.py

bench: ## timings of the hot paths
	$(PYTHON_BIN) scripts/benchmark.py
