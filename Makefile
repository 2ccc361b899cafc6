# What a person types. `make` alone says what there is.
# The virtual environment is made from requirements.lock, and made again only when that changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
# A generated district, or the OULAD files of this directory: make run OULAD=../oulad
OULAD ?=

# What `make benchmark` builds and measures, and where its server lies.
SCALE ?= 1/10
DATA ?= .lb/benchmarks

.DEFAULT_GOAL := help
.PHONY: help run test test-dates lint types contracts pytest screenshots benchmark benchmark-kernels format \
	lock clean

help:
	@echo "make run              start everything; the UI's address comes last; Ctrl-C stops it"
	@echo "make run OULAD=DIR    the same on the Open University's data (CSV or Parquet) in DIR"
	@echo "make test             ruff, mypy, import contracts and all tests"
	@echo "make test-dates       the tests that ask what time it is, on other days (libfaketime)"
	@echo "make screenshots      the pictures of docs/, by a Chromium that is driven through the UI"
	@echo "make benchmark        build the district of SCALE=$(SCALE) (1/100, 1/10, 1), measure its day"
	@echo "make benchmark-kernels  the small kernels by themselves"
	@echo "make format           let ruff format and fix"
	@echo "make lock             resolve requirements.lock again from setup.py"
	@echo "make clean            delete the virtual environment, the data in .lb and all caches"

# exec: signals reach Python itself, so that Ctrl-C and SIGTERM stop the same way.
run: $(VENV)/.run
	@exec $(BIN)/python -m lb_pipelines.run $(if $(OULAD),--oulad "$(OULAD)")

test: lint types contracts pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

# Two processes, each with a server of its own and whole files of tests, in the order of their names:
# by their number of tests the longest, which have few, would come last and one process would wait.
pytest: $(VENV)/.dev
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

# On the 1st, the 29th to 31st, leap day, New Year, at changes of the clocks: lb_pipelines_tests/dates.py.
test-dates: $(VENV)/.dev
	$(BIN)/python -m lb_pipelines_tests.dates $(DATES)

# The story of docs/ui.md, which takes a picture of every chapter.
screenshots: $(VENV)/.dev
	LB_REQUIRE_CHROMIUM=1 LB_SCREENSHOTS=docs $(BIN)/pytest lb_pipelines_tests/test_browser_story.py

# The server of each scale lies in a directory of its own and stays, built once.
AT = $(DATA)/$(subst /,-,$(SCALE))
benchmark: $(VENV)/.benchmarks
	$(BIN)/python -m benchmarks.district --data "$(AT)" --scale $(SCALE)
	$(BIN)/python -m benchmarks.day --data "$(AT)" --scratch "$(AT)-scratch" --save day-$(subst /,-,$(SCALE))

benchmark-kernels: $(VENV)/.benchmarks
	@mkdir -p .benchmarks
	$(BIN)/pytest benchmarks/kernels --quiet --benchmark-only --benchmark-group-by=func \
		--benchmark-columns=median,iqr,rounds --benchmark-json=.benchmarks/kernels.json
	$(BIN)/python -m benchmarks.report --kernels .benchmarks/kernels.json

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or later is needed, this is " + sys.version.split()[0] + "; make PYTHON=... names another")'
	$(PYTHON) -m venv $(VENV)

# The lock as constraints: `run` gets what the product needs, `test` what is in [dev] besides.
# PIP_CONSTRAINT rather than --constraint, because it holds for the build of the package too.
$(VENV)/.run: $(LOCK) setup.py | $(VENV)/bin/python
	PIP_CONSTRAINT=$(LOCK) $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	PIP_CONSTRAINT=$(LOCK) $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.benchmarks: $(VENV)/.dev
	PIP_CONSTRAINT=$(LOCK) $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[benchmarks]'
	@touch $@

lock: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --universal --python-version 3.11 --extra dev --extra benchmarks --upgrade --no-header \
		--no-annotate --quiet --output-file $(LOCK) setup.py

clean:
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m lb_pipelines.run --destroy; fi
	rm -rf $(VENV) .lb *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
