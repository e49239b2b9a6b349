# Every verb sets up what it needs first (.ci/setup), on any Debian or Ubuntu with make and Python 3.11.
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test check bench docs install uninstall clean

export PYTHON ?= python3
PREFIX ?= /opt/dasfs
BINDIR ?= /usr/local/bin
# mount(8) looks for its helpers there and nowhere else.
MOUNT_HELPERS ?= /sbin
TESTS ?= tests
CASE ?=
BENCH ?=
BIN := .venv/bin

help:  ## print this list
	@echo 'usage: make VERB'
	@sed -n 's/^\([a-z]*\):.*## */  \1\t/p' $(MAKEFILE_LIST) | expand -t 14
	@echo
	@echo 'PYTHON=$(PYTHON) PREFIX=$(PREFIX) TESTS="$(TESTS)" CASE="$(CASE)" BENCH="$(BENCH)"'

demo:  ## put a few thousand real files into a store, mount it, read them back; under a minute
	@.ci/setup
	@$(BIN)/python docs/demo.py

test:  ## run the tests: TESTS=tests/unit for a part, PYTEST_ADDOPTS for pytest's options
	@.ci/setup test
	@$(BIN)/python -m pytest $(TESTS)

check:  ## lint, format, types, layers
	@.ci/setup check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_layers.py

bench:  ## measure against every peer (root), half an hour: CASE="cold-order one", BENCH=--quick
	@.ci/setup test
	@$(BIN)/python -m bench.run $(CASE) $(BENCH)

bench/fuse_memory: bench/fuse_memory.c
	@.ci/setup
	@$(BIN)/python -m bench.programs fuse_memory

docs:  ## build the documentation into site/
	@.ci/setup docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo 'the documentation is in site/index.html'

install:  ## install into PREFIX, with `dasfs` on the path and `mount -t fuse.dasfs` (root)
	@VENV=$(PREFIX) .ci/setup install
	@mkdir -p $(BINDIR) $(MOUNT_HELPERS)
	@ln -sfn $(PREFIX)/bin/dasfs $(BINDIR)/dasfs
	@ln -sfn $(PREFIX)/bin/mount.fuse.dasfs $(MOUNT_HELPERS)/mount.fuse.dasfs
	@$(BINDIR)/dasfs --version

uninstall:  ## remove what `make install` installed (root)
	@rm -f $(BINDIR)/dasfs $(MOUNT_HELPERS)/mount.fuse.dasfs
	@test ! -e $(PREFIX)/pyvenv.cfg || rm -rf $(PREFIX)

clean:  ## remove everything that the verbs above made in this folder
	@rm -rf .venv site build dist dasfs.egg-info daemon/*.egg-info bench/out bench/.venv bench/fuse_memory bench/delay_proxy
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
