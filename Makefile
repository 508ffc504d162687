PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help setup demo repro test lint bench profile graph
.DEFAULT_GOAL := help

help:  ## List these targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

setup: $(READY)  ## Make .venv with the pinned packages

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[graph,plots,test]'
	$(VENV)/bin/python -m experiments.vega
	touch $@

demo: $(READY)  ## Run every stage on scikit-learn's digits in .demo/: no download, no GPU, about a minute
	python -m experiments.run demo --folder .demo
	@echo; echo 'The pictures are in .demo/plots/images:'; ls .demo/plots/images

repro: $(READY)  ## Run the whole pipeline on MNIST, as far as something changed
	dvc repro
	python -m experiments.show

# The tests' processes share the cores: a thread that waits must not spin, as OpenMP's do by default.
test: export OMP_WAIT_POLICY ?= passive
test: $(READY)  ## Run the tests
	python -m pytest --numprocesses auto --dist loadfile

lint: $(READY)  ## Check style and format
	ruff check .
	ruff format --check .

bench: $(READY)  ## Time the trainer beside plain Pyro and bare PyTorch (about 10 minutes)
	python -m benchmarks.run

profile: $(READY)  ## Show where the time of an epoch goes, and write a trace of it
	python -m benchmarks.profile

graph: $(READY)  ## Draw the graphs of model and guide to docs/pictures (needs Graphviz)
	python -m experiments.graph
