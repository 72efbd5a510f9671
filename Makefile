# The front door. Every target does its own set-up, and that is quick when nothing is missing.
.PHONY: help setup demo test test-fast fuzz lint templates bench clean
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
# Tests start hundreds of processes: compiling our modules in each is a tenth of their start.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := $(PYTHON) -m pytest
# Files side by side, as most tests wait rather than compute; in the order of `testpaths`, so that the long ones do not
# come last. `make test PARALLEL=` runs one after the other.
PARALLEL ?= -n 3 --dist loadfile --no-loadscope-reorder
RUN = $(PYTEST) $(PARALLEL)
AGAIN = || { echo 'Once more, what failed: a shared machine may have been slow. What passes only now wants mending.'; \
	$(PYTEST) --last-failed --last-failed-no-failures none; }

help:            ## show this
	@sed -n 's/^\([a-z-]*\): *.*## /    make \1|/p' Makefile | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

setup:           ## system packages, the Python environment, the built templates (root)
	@scripts/setup.sh

demo: setup      ## run an agent in a fresh sandbox and show everything (root)
	@.venv/bin/hutch demo

test: setup lint ## lint, then all tests, with real sandboxes; what CI runs (root)
	$(RUN) $(AGAIN)

test-fast:       ## unit tests
	@scripts/setup.sh python
	$(RUN) tests/unit $(AGAIN)

fuzz:            ## the parsers that hostile bytes reach, against other implementations, for long
	@scripts/setup.sh python
	HUTCH_FUZZ_EXAMPLES=$(or $(EXAMPLES),20000) $(PYTEST) $(PARALLEL) --timeout=0 tests/unit/fuzz

lint:            ## ruff, mypy, the import rule
	@scripts/setup.sh python
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTHON) scripts/generate_sync.py --check
	$(PYTHON) scripts/generate_cli_docs.py --check
	$(PYTHON) scripts/generate_reference.py --check

templates: setup ## build the built-in templates anew, with today's packages (root)
	$(PYTHON) -m hutch.images build --force standard claude-code codex python-data code-interpreter

bench: setup     ## every benchmark, one after the other (root)
	@for file in bench/*.py; do \
		case $$file in */harness.py | */floor.py | */steady.py) continue ;; esac; \
		echo "== $$file"; $(PYTHON) $$file || exit 1; \
	done

clean:           ## remove the Python environment and all caches of the checkout
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
