# Two commands for a newcomer: `make run` and `make test`. Each installs what it needs into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: run test platform lint lock clean soak bench

run: $(VENV)/.run
	@$(BIN)/python -m playground $(if $(ROTATIONS),--rotations $(ROTATIONS))

test: $(VENV)/.dev platform
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Prometheus for the tests that need it, where apt is; no root needed. A group that stays without is named at the end.
platform: $(VENV)/bin/python
	@.ci/platform $(VENV)

# Applications through 600 rotations, twice: on steady servers, and with one killed every 20 (about 20 minutes each);
# the figures go to docs/benchmarks.md.
soak: $(VENV)/.dev
	@mkdir -p .playground && rm -f .playground/soak.jsonl
	SOAK_ROTATIONS=$(or $(ROTATIONS),600) SOAK_SECONDS=$(or $(SECONDS),1.5) SOAK_REPORT=.playground/soak.jsonl \
	  $(BIN)/python -m pytest tests/nats/test_soak.py -s $(PYTEST_ARGS)
	$(BIN)/python -m bench.soak .playground/soak.jsonl

# Measures and writes docs/benchmarks.md, section by section.
bench: $(VENV)/.dev
	$(BIN)/python -m bench $(SUBJECTS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The lock files hold the hash of every file that may be installed, for every platform and Python version at once.
lock: $(VENV)/.dev
	$(BIN)/uv pip compile pyproject.toml $(LOCK) --group playground --output-file requirements/run.lock
	$(BIN)/uv pip compile pyproject.toml $(LOCK) --group dev --output-file requirements/dev.lock
	$(BIN)/uv pip compile $(LOCK) --group agent --constraints requirements/dev.lock --output-file requirements/agent.lock
	$(BIN)/uv pip compile $(LOCK) --group authority --constraints requirements/dev.lock --output-file requirements/authority.lock
LOCK := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --upgrade --quiet --no-header

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11; set PYTHON=python3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "python venv is missing: install python3-venv" >&2; exit 1; }

$(VENV)/.run: requirements/run.lock $(VENV)/bin/python
	@echo "Installing what the playground needs into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/run.lock
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/bin/python
	@echo "Installing what the tests need into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/dev.lock
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) .playground .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
