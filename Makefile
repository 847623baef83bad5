# The checks need the environment that `make check` makes on its first run (scripts/run_tests.sh).
PYTHON_BIN := .venv/bin/python

.PHONY: check format test test-gpu test-long gpu docs bench bench-all

check: ## everything that the continuous integration runs
	bash scripts/run_tests.sh

format: ## fix what ruff can fix
	$(PYTHON_BIN) -m ruff check --fix .
	$(PYTHON_BIN) -m ruff format .

test: ## tests alone
	$(PYTHON_BIN) -m pytest

test-gpu: ## tests that need a CUDA device
	$(PYTHON_BIN) -m pytest -m gpu

test-long: ## tests that take half a minute and more each
	$(PYTHON_BIN) -m pytest -m long

gpu: ## everything that needs a CUDA device: tests, figures, compute-sanitizer, profiles
	bash scripts/run_gpu.sh $(ARGS)

docs: ## docs/options.md and the JSON schema, from the option dataclasses
	$(PYTHON_BIN) scripts/make_docs.py

bench: ## ratios of the hot paths, minutes
	$(PYTHON_BIN) scripts/benchmark.py

bench-all: ## docs/performance.md: published sizes, kernels, profiles; hours
	$(PYTHON_BIN) scripts/benchmark.py all kernels profile --all --markdown docs/performance.md
