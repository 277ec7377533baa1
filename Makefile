# `make demo`: the whole path on a small synthesised archive.  `make demo DATA=folder`: on your own sounds.
# `make test`, `make check` (ruff, mypy), `make bench`. Each installs what it needs into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
TEST_PROCESSES ?= 2

.PHONY: demo test test-avex test-slurm check bench install clean-demo
.DEFAULT_GOAL := help

help:
	@sed -n '1,2s/^# //p' Makefile

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dawnchorus needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing into .venv (about 5 GB, a few minutes the first time) ..."
	$(BIN)/python -m pip install --quiet torch==2.11.0 torchaudio==2.11.0 torchvision==0.26.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

install: $(STAMP)

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
