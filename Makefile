# `make test` on a fresh machine makes .venv, installs into it, lints, and runs the tests. `make help` lists the rest.
#
#   PYTHON  the interpreter .venv is made with
#   TORCH   what is given to pip for torch, word for word, so it may carry an index:
#           make test TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
#   VENV    another environment beside the first: make test VENV=.venv-2.9 TORCH=torch==2.9.0
#   PYTEST_ARGS  more arguments for pytest: make test PYTEST_ARGS="-k window -x"
#   TRAIN_ARGS   more arguments for training: make train TRAIN_ARGS="--seeds 0-4"

PYTHON ?= python3.11
TORCH ?= torch==2.13.0
VENV ?= .venv
PYTEST_ARGS ?=
TRAIN_ARGS ?=

PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip --disable-pip-version-check --quiet install
# torch is installed first and then pinned, local version (+cpu, +cu130) included: no later install can replace it.
CONSTRAINTS := $(VENV)/constraints.txt
INSTALLED := $(VENV)/.stamp-installed

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help install train lint test test-all bench gpu scatter wheel-test clean

help:  ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Makes the environment: torch, then graphattn (editable) with its train, viz, test and dev extras

$(PY):
	@$(PYTHON) -m venv $(VENV)

$(CONSTRAINTS): | $(PY)
	@$(PIP_INSTALL) $(TORCH)
	@$(PY) -c "from importlib.metadata import version; print('torch==' + version('torch'))" > $@

$(INSTALLED): setup.cfg $(CONSTRAINTS)
	@$(PIP_INSTALL) --constraint $(CONSTRAINTS) --editable '.[train,viz,test,dev]'
	@touch $@

train: $(INSTALLED)  ## Trains on ogbg-molesol, which is shipped, prints OGB's metric, draws curve and a test molecule; minutes on a CPU
	@$(PY) -m graphattn.cli train --config ogbg-molesol $(TRAIN_ARGS)

lint: $(INSTALLED)  ## ruff (rules and format) and mypy
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --quiet --check .
	@$(PY) -m mypy --no-error-summary

# One process: the tests are small, and torch and the fused kernels use the cores themselves.
test: lint  ## What every change must pass: lint, tests and doctests, without those marked slow
	@$(PY) -m pytest -q -m "not slow" $(PYTEST_ARGS)

test-all: lint  ## Everything, slow tests included
	@$(PY) -m pytest -q $(PYTEST_ARGS)

bench: $(INSTALLED)  ## Exactness against the specification, then times, into BENCHMARKS.md; wants an idle machine
	@$(PY) benchmarks/exactness.py --out benchmarks/results/exactness.json
	@$(PY) benchmarks/cold_start.py --out benchmarks/results/cold_start.json
	@$(PY) benchmarks/attention.py --out benchmarks/results/attention.json
	@$(PY) benchmarks/terms.py --out benchmarks/results/terms.json
	@$(PY) benchmarks/weights.py --out benchmarks/results/weights.json
	@$(PY) benchmarks/scaling.py --out benchmarks/results/scaling.json
	@$(PY) benchmarks/grid.py --out benchmarks/results/grid.json
	@$(PY) benchmarks/masks.py --out benchmarks/results/masks.json
	@$(PY) benchmarks/training_step.py --out benchmarks/results/training_step.json
	@$(PY) benchmarks/recording.py --out benchmarks/results/recording.json
	@$(PY) benchmarks/pathways.py --out benchmarks/results/pathways.json
	@$(PY) benchmarks/ssa.py --out benchmarks/results/ssa.json
	@$(PY) benchmarks/topk.py --out benchmarks/results/topk.json
	@$(PY) benchmarks/egt.py --out benchmarks/results/egt.json
	@$(PY) benchmarks/combiner.py --out benchmarks/results/combiner.json
	@$(PY) benchmarks/scores.py --out benchmarks/results/scores.json
	@$(PY) benchmarks/heads.py --out benchmarks/results/heads.json
	@$(PY) benchmarks/report.py

# For a machine that is lent for minutes: nothing is installed, the interpreter is taken with what it has. One that is
# named (GPU_PYTHON=…) goes before that of the environment, and this before the machine's own.
GPU_PYTHON ?= $(if $(wildcard $(PY)),$(PY),python3)
GPU_RESULTS ?= benchmarks/results/gpu
gpu:  ## On a machine with a CUDA GPU: tests, benchmarks, a short training, into benchmarks/results/gpu; nine minutes
	@$(GPU_PYTHON) benchmarks/gpu.py --out $(GPU_RESULTS)

# torch-scatter has no wheel for every torch: this compiles it (needs a C++ compiler, and some minutes) against the
# torch in .venv, which its build imports, hence --no-build-isolation. Nothing else here requires it.
scatter: $(INSTALLED)  ## Builds torch-scatter from source into the environment; needs a C++ compiler
	@$(PIP_INSTALL) --constraint $(CONSTRAINTS) --no-build-isolation --use-pep517 --editable '.[scatter]'

# The wheel is built from the sdist, so both are tested. The scratch environment sees the packages of .venv through a
# .pth line, which brings in torch without installing it again but not the editable graphattn: .pth files of a
# directory named in a .pth file are not read. It lives outside the clone, or pytest would find the clone's settings.
wheel-test: $(INSTALLED)  ## Builds sdist and wheel, installs the wheel outside the clone, runs its doctests there
	@rm -rf build dist
	@set -eu; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	$(PY) -m build --no-isolation --outdir dist . > "$$scratch/log" 2>&1 || { cat "$$scratch/log"; exit 1; }; \
	$(PY) -m venv --without-pip "$$scratch"; \
	site=$$("$$scratch/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
	$(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$$site/parent.pth"; \
	$(PY) -m pip --disable-pip-version-check --quiet --python "$$scratch/bin/python" install --no-deps dist/*.whl; \
	cd "$$scratch"; \
	./bin/python -c "import graphattn, sys; sys.exit(not graphattn.__file__.startswith(sys.prefix))"; \
	./bin/python -m pytest -q -p no:cacheprovider --doctest-modules -o doctest_optionflags='NORMALIZE_WHITESPACE ELLIPSIS' \
		--pyargs graphattn

clean:  ## Removes builds and caches; the environment and runs stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find graphattn tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2> /dev/null || true
