PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help setup demo repro verify pictures test test-quick test-oldest test-newest test-requirements lint bench gpu profile graph notebook
.DEFAULT_GOAL := help

help:  ## List these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'

setup: $(READY)  ## Make .venv with the pinned packages

# With uv, in about a third of the time. pip installs what uv cannot, as where only pip's configuration names an index.
PINNED := --constraint constraints.txt --editable '.[pipeline,export,graph,notebook,plots,search,sharing,tensorboard,test]'
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt uv \
		&& $(VENV)/bin/python -m uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python $(PINNED) \
		|| $(VENV)/bin/python -m pip install --quiet $(PINNED)
	$(VENV)/bin/python -m tools.vega
	touch $@

demo: $(READY)  ## Run every stage on scikit-learn's digits in .demo/: no download, no GPU, a minute or two
	python -m tools.run demo --folder .demo
	@echo; echo 'The pictures are in .demo/plots/images:'; ls .demo/plots/images

repro: $(READY)  ## Run the whole pipeline on MNIST; unchanged stages are skipped
	dvc repro
	python -m tools.card
	python -m tools.show

verify: $(READY)  ## Compare the metrics of a finished run with the committed ones: exit status 0 or 1
	python -m tools.verify

pictures: $(READY)  ## Refresh the pictures and metrics in README.md and docs/ from a finished run
	python -m tools.pictures

# The test processes share the cores, so waiting threads must not spin, as OpenMP's do by default.
test test-quick test-oldest test-newest: export OMP_WAIT_POLICY ?= passive
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder
test: $(READY)  ## Run the tests
	python -m pytest $(PARALLEL)

QUICK := -m 'not slow' $(PARALLEL)

test-quick: $(READY)  ## Run the tests that need neither DVC nor a browser (about five minutes)
	python -m pytest $(QUICK) $(TESTS)

test-oldest:  ## Run the quick tests with the oldest packages that pyproject.toml names (PYTHON=... chooses the Python)
test-newest:  ## Run them with the newest packages that it allows
test-oldest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
# uv, as pip cannot resolve to the oldest versions. Indirect dependencies are the newest ones allowed.
test-oldest test-newest: test-%:
	$(PYTHON) -m venv --clear .venv-$*
	.venv-$*/bin/python -m pip install --quiet uv
	.venv-$*/bin/python -m uv pip install --quiet --compile-bytecode --resolution $(RESOLUTION) \
		--python .venv-$*/bin/python --editable '.[pipeline,export,graph,notebook,plots,search,sharing,tensorboard,test]'
	.venv-$*/bin/python -m pytest $(QUICK)

test-requirements:  ## Install requirements.txt in a fresh environment, and run every stage there on the digits
	$(PYTHON) -m venv --clear .venv-requirements
	.venv-requirements/bin/python -m pip install --quiet --requirement requirements.txt
	.venv-requirements/bin/python -m tools.run demo --folder .runs/requirements

lint: $(READY)  ## Check style and format
	ruff check .
	ruff format --check .

bench: $(READY)  ## Time the trainer against plain Pyro and bare PyTorch (about 15 minutes)
	python -m benchmarks.run

# Without `setup`, as the machine may have no package index: .venv's Python if there is one, otherwise PYTHON.
gpu:  ## Prove on this machine's GPU that all of it works, and how fast (at most 10 minutes)
	$(firstword $(wildcard $(VENV)/bin/python) $(PYTHON)) -m benchmarks.acceptance

profile: $(READY)  ## Show where the time of an epoch goes, and write a trace of it
	python -m benchmarks.profile

graph: $(READY)  ## Draw the graphs of model and guide to docs/pictures (needs Graphviz)
	python -m tools.graph

notebook: $(READY)  ## Execute docs/introduction.py as docs/introduction.ipynb
	python -m tools.notebook
