# Every target a user needs. Fingerprints decide what is run again, not times.
PYTHON ?= python3
BIN := .venv/bin

# What is given is a value and never a command: make does not expand it, and
# recipes read it from their environment.
ifdef JOBS
override JOBS := $(value JOBS)
else
override JOBS := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
endif
ifdef RESULTS
override RESULTS := $(value RESULTS)
else
override RESULTS := results
endif
# PRECISION=mixed_bfloat16 trains in it; its results have a folder of their own.
ifdef PRECISION
override PRECISION := $(value PRECISION)
else
override PRECISION := float32
endif
export JOBS RESULTS PRECISION
# QUICK=1 runs an experiment at its small size, on the embedded data.
override QUICK := $(value QUICK)
SIZE := $(if $(QUICK),--quick)
OPTIONS := --jobs="$$JOBS" --precision="$$PRECISION" --results="$$RESULTS"

EXPERIMENTS := finetune robust-ft adapt predict-transfer

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: bench help docs install quick cifar10-mnist $(EXPERIMENTS) list report test test-slow test-wheel lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(BIN)/.core ## create .venv and install the package
$(BIN)/.core: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(BIN)/.data: $(BIN)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[data]'
	touch $@

$(BIN)/.dev: $(BIN)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

quick: $(BIN)/.core ## every method, embedded data, offline
	$(BIN)/ktransfer run quick $(OPTIONS)

cifar10-mnist: $(BIN)/.core ## the headline: CIFAR-10 to MNIST, about two hours
	$(BIN)/ktransfer run cifar10-mnist $(OPTIONS)

finetune: ## which fine-tuning recipe at my label budget?
robust-ft: ## does fine-tuning destroy what was known of other conditions?
adapt: ## can unlabelled target images close the gap?
predict-transfer: ## can I pick the checkpoint without training?
adapt: $(BIN)/.data
$(EXPERIMENTS): $(BIN)/.core
	$(BIN)/ktransfer run $@ $(SIZE) $(OPTIONS)

# One by one: a peer that cannot be had is skipped, and the others are there.
.venv/bench/.peers: bench/peers.txt
	$(PYTHON) -m venv .venv/bench
	grep -v '^#' $< | xargs -n 1 .venv/bench/bin/python -m pip install --quiet --disable-pip-version-check && touch $@ || echo 'some peers are absent'

bench: $(BIN)/.core .venv/bench/.peers ## speed beside Keras, ADAPT, PyTorch and scikit-learn
	$(BIN)/python bench/run.py --peers .venv/bench/bin/python --results="$$RESULTS"

list: $(BIN)/.core ## the methods, with the paper of each
	$(BIN)/ktransfer list methods

docs: $(BIN)/.core ## put the methods and the headline's table into docs/
	$(BIN)/ktransfer list methods --into docs/methods.md
	$(BIN)/ktransfer report cifar10-mnist --partial --into docs/results.md

report: $(BIN)/.core ## draw the headline again from its committed records
	$(BIN)/ktransfer report cifar10-mnist --partial --results="$$RESULTS"

test: $(BIN)/.dev ## the tests, without network
	$(BIN)/python -m pytest --numprocesses="$$JOBS" -m 'not slow'

test-slow: $(BIN)/.dev ## the tests that take minutes
	$(BIN)/python -m pytest --numprocesses="$$JOBS" -m slow

# The wheel in an environment of its own, away from the checkout.
WHEEL := .venv/wheel
test-wheel: $(BIN)/.core ## the wheel, installed and run outside of the checkout
	rm -rf $(WHEEL) && $(PYTHON) -m venv $(WHEEL)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(WHEEL)/dist .
	$(WHEEL)/bin/python -m pip install --quiet --disable-pip-version-check $(WHEEL)/dist/*.whl
	cd $(WHEEL) && env -u PYTHONPATH bin/ktransfer list methods | grep -q fine_tuning
	cd $(WHEEL) && env -u PYTHONPATH bin/ktransfer run --method fine_tuning --source letters --target digits --labels-per-class 2 --steps 5 --source-steps 5
	cd $(WHEEL) && env -u PYTHONPATH bin/ktransfer run predict-transfer --quick --jobs="$$JOBS"

lint: $(BIN)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/.dev ## rewrite the code in its one style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment and what quick wrote
	rm -rf -- .venv "$$RESULTS"/quick "$$RESULTS"/single "$$RESULTS"/*_quick
