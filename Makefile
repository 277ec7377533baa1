# `make demo`: the whole path on a small synthesised archive.  `make demo DATA=folder`: on your own sounds.
# `make test`, `make check` (ruff, mypy), `make bench`. Each installs what it needs into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
TEST_PROCESSES ?= 2

.PHONY: demo test test-avex test-slurm check bench install lock wheelhouse
.DEFAULT_GOAL := help

help:
	@sed -n '1,2s/^# //p' Makefile

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dawnchorus needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@echo "installing into .venv (about 5 GB, a few minutes the first time) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

install: $(STAMP)

# The exact versions and hashes of everything, for Python 3.11 to 3.13 (after a change of pyproject.toml).
lock:
	$(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet 'uv>=0.8,<0.14'
	build/lock/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --no-emit-index-url --quiet -o requirements.lock

# All wheels for nodes without a network: `pip install --no-index --find-links wheelhouse dawnchorus` there.
wheelhouse: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --require-hashes -r requirements.lock --wheel-dir wheelhouse
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --no-index . --wheel-dir wheelhouse

demo: $(STAMP)
	$(BIN)/python -m scripts.demo $(if $(DATA),--data "$(DATA)")

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slurm" -n $(TEST_PROCESSES) --dist worksteal

# The live comparisons with the avex package, in an environment of its own.
test-avex: $(STAMP)
	bash scripts/avex_env.sh
	REQUIRE_AVEX=1 $(BIN)/python -m pytest -m avex

# Faults on a real SLURM of two nodes, started in a temporary folder (Debian's packages).
test-slurm: $(STAMP)
	bash scripts/slurm_packages.sh
	REQUIRE_SLURM=1 $(BIN)/python -m pytest -m slurm tests/slurm -n $(TEST_PROCESSES) --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/typed/dawnchorus
	@for folder in trainer data_prep slurm; do ln -sfn ../../../$$folder build/typed/dawnchorus/$$folder; done
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m scripts.bench
