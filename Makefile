# Every verb sets up what it needs first (.ci/setup), on any Debian or Ubuntu with make and Python 3.11.
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test check bench soak docs install uninstall clean

export PYTHON ?= python3
PREFIX ?= /opt/dasfs
BINDIR ?= /usr/local/bin
# mount(8) looks for its helpers there and nowhere else.
MOUNT_HELPERS ?= /sbin
# All goes below this folder. For a look and for tests: the scripts in PREFIX name the folder they were made in.
DESTDIR ?=
TESTS ?= tests
CASE ?=
BENCH ?=
BIN := .venv/bin

help:  ## print this list
	@echo 'usage: make VERB'
	@sed -n 's/^\([a-z]*\):.*## */  \1\t/p' $(MAKEFILE_LIST) | expand -t 14
	@echo
	@echo 'PYTHON=$(PYTHON) PREFIX=$(PREFIX) TESTS="$(TESTS)" CASE="$(CASE)" BENCH="$(BENCH)"'

demo:  ## drop 20,000 real files into a directory, find them in a mount, compare them; about a minute; STORE=s3://...
	@.ci/setup
	@$(BIN)/python docs/demo.py $(STORE)

test:  ## run the tests: TESTS=tests/unit for a part, PYTEST_ADDOPTS for pytest's options
	@.ci/setup test
	@$(BIN)/python -m pytest $(TESTS)

check:  ## lint, format, types, layers, systemd's own checks of the units
	@.ci/setup check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_layers.py
	@BINDIR=$(CURDIR)/$(BIN) systemd/setup check

bench:  ## measure against every peer (root), half an hour: CASE="cold-order one", BENCH=--quick
	@.ci/setup test
	@$(BIN)/python -m bench.run $(CASE) $(BENCH)

soak:  ## half an hour of writers, readers, aggregation and collection; what must stay flat: SOAK='mount --minutes 5'
	@.ci/setup test
	@$(BIN)/python -m bench.soak$(if $(filter mount,$(SOAK)),_mount) $(filter-out mount,$(SOAK))

bench/fuse_memory: bench/fuse_memory.c
	@.ci/setup test
	@$(BIN)/python -m bench.programs fuse_memory

docs:  ## build the documentation into site/
	@.ci/setup docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo 'the documentation is in site/index.html'

install:  ## into PREFIX, with `dasfs` on the path, `mount -t fuse.dasfs` and units for systemd (root)
	@VENV=$(DESTDIR)$(PREFIX) .ci/setup install
	@mkdir -p $(DESTDIR)$(BINDIR) $(DESTDIR)$(MOUNT_HELPERS)
	@ln -sfn $(PREFIX)/bin/dasfs $(DESTDIR)$(BINDIR)/dasfs
	@ln -sfn $(PREFIX)/bin/mount.fuse.dasfs $(DESTDIR)$(MOUNT_HELPERS)/mount.fuse.dasfs
	@DESTDIR=$(DESTDIR) BINDIR=$(BINDIR) systemd/setup install
	@$(DESTDIR)$(PREFIX)/bin/python -I -m dasfs --version

uninstall:  ## remove what `make install` installed; your configuration and your data stay (root)
	@DESTDIR=$(DESTDIR) BINDIR=$(BINDIR) systemd/setup uninstall
	@rm -f $(DESTDIR)$(BINDIR)/dasfs $(DESTDIR)$(MOUNT_HELPERS)/mount.fuse.dasfs
	@test ! -e $(DESTDIR)$(PREFIX)/pyvenv.cfg || rm -rf $(DESTDIR)$(PREFIX)

clean:  ## remove everything that the verbs above made in this folder
	@rm -rf .venv site build dist dasfs.egg-info daemon/*.egg-info bench/out bench/.venv bench/fuse_memory bench/delay_proxy
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
