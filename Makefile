# make demo      download a small mirror from a loopback server and read it back
# make test      run the tests, on all processors
# make acceptance  take all real data through everything that a user does: some minutes
# make quick     run those that fail when something central breaks: a minute or two
# make search    look for new examples that break a property, where the other commands repeat the known: an hour
# make kills     kill every verb that changes something at every file that it opens, makes, renames or removes: an hour
# make faults    let each call on the disk fail under each command: some hours
# make mutants   make every known fault in the release of resources, and see the tests notice: a minute
# make mutations  take many more mutants of archives, segments, listings and answers than `make test` does: minutes
# make coverage  run the tests, and show which lines none of them reaches
# make lowest    run `make quick` on the lowest version of each package that pyproject.toml allows
# make lint      check types, for Linux and macOS, and style
# make bench     run the benchmarks (installs the peers)
#
# All of them make an environment of their own first. PYTHON chooses the interpreter, VENV the folder, and TESTS what
# pytest is told beside: make test TESTS='tests/cache -k packing'.

PYTHON ?= $(shell for name in python3 python3.15 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$name && break; done)
VENV ?= .venv
RUN := $(VENV)/bin/python
# A worker for each processor; one that has nothing left to do takes tests from the others.
PYTEST := -m pytest --numprocesses auto --dist worksteal
TESTS ?=
# The tests start some hundred processes. Each would compile the package again where nobody may keep what is compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test acceptance quick search kills faults mutants mutations coverage lowest lint bench clean

demo: $(VENV)/installed
	$(RUN) data/demo.py

test: $(VENV)/installed-test
	$(RUN) $(PYTEST) $(TESTS)

acceptance: $(VENV)/installed-test
	CKVD_ACCEPTANCE=whole $(RUN) $(PYTEST) -o faulthandler_timeout=1800 \
		tests/acceptance tests/api/vision_data_client/test_real_archives.py tests/decode/test_decode.py \
		tests/maintenance/export/test_csv_text.py tests/maintenance/test_verification.py \
		tests/api/vision_data_client/test_child_processes.py \
		tests/api/crypto_kline_vision_data/test_update.py $(TESTS)

quick: $(VENV)/installed-test
	$(RUN) $(PYTEST) --quiet -m 'not long' @tests/quick.txt

search: $(VENV)/installed-test
	CKVD_TEST_SEARCH=1 $(RUN) $(PYTEST) $(TESTS)

kills: $(VENV)/installed-test
	CKVD_KILLS=whole $(RUN) $(PYTEST) -o faulthandler_timeout=7200 \
		tests/cli/test_kills.py tests/cli/test_stop_signals.py tests/cache/test_stress.py $(TESTS)

faults: $(VENV)/installed-test
	CKVD_FAULTS=whole $(RUN) $(PYTEST) -o faulthandler_timeout=7200 tests/cli/test_faulty_disk.py $(TESTS)

mutants: $(VENV)/installed-test
	CKVD_TEST_MUTANTS=1 $(RUN) -m pytest tests/utils/test_mutations.py

mutations: $(VENV)/installed-test
	CKVD_MUTATIONS=whole $(RUN) $(PYTEST) -o faulthandler_timeout=1800 tests/hostile $(TESTS)

coverage: $(VENV)/installed-test
	rm -rf .coverage
	$(RUN) -m coverage run $(PYTEST) $(TESTS)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

lowest: .venv-lowest/constraints.txt
	PIP_CONSTRAINT=$< $(MAKE) quick VENV=.venv-lowest

.venv-lowest/constraints.txt: pyproject.toml
	$(MAKE) .venv-lowest/created VENV=.venv-lowest
	.venv-lowest/bin/python .ci/lowest.py >$@

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy --platform linux
	$(RUN) -m mypy --platform darwin
	$(RUN) data/make_samples.py --check

bench: $(VENV)/installed-bench
	$(RUN) -m benchmarks

$(VENV)/created:
	@test -n "$(PYTHON)" || { echo "ckvd needs Python 3.11 or newer: make PYTHON=/path/to/python3.13" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# What is needed for the tests is installed with any of these.
$(VENV)/installed-%: $(VENV)/created pyproject.toml
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[test,$*]'
	@touch $@ $(VENV)/installed $(VENV)/installed-test

clean:
	rm -rf .venv .venv-* .demo .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
