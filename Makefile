# make demo    download a small mirror from a loopback server and read it back
# make test    run the tests
# make lint    check types and style
# make bench   run the benchmarks (installs the peers)
#
# All of them make an environment of their own first. PYTHON chooses the interpreter, VENV the folder.

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$name && break; done)
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint bench clean

demo: $(VENV)/installed
	$(RUN) data/demo.py

test: $(VENV)/installed-test
	$(RUN) -m pytest

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) data/make_samples.py --check

bench: $(VENV)/installed-bench
	$(RUN) -m benchmarks

$(VENV)/created:
	@test -n "$(PYTHON)" || { echo "ckvd needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.13" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-%: $(VENV)/created pyproject.toml
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[test,$*]'
	@touch $@

clean:
	rm -rf .venv .venv-* .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
