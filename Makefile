# Everything a developer or CI types. `make` alone lists the targets.
# Python packages live in .venv, installed by plain pip from the lock files (so pip's own configuration is honoured);
# stamp files in .venv remember what was installed, so the second time is quick.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=
STORE ?= embedded
CLUSTER ?= .cluster

# What mypy looks at: the packages that are there.
CODE := $(patsubst %/__init__.py,%,$(wildcard $(addsuffix /__init__.py,server shards clients bench deploy tests)))

VENV_MADE := $(VENV)/.made
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  ARGS="..." is passed on by run, test, bench, ghz, up, down, ...: make test ARGS="tests/unit -k ring"'

# ------------------------------------------------------------------------------------------------------ use

.PHONY: run
run: $(RUNTIME) ## Start the server on 127.0.0.1:50051; orders in data/, or in what `make up` started (STORE=cassandra)
	@$(PY) -m protos.generate --check-sources
ifeq ($(STORE),cassandra)
	@$(PY) -m deploy.cluster status --brief --dir $(CLUSTER)
	@echo "starting the server (data in the cluster of make up, Ctrl-C drains and stops)"
	@exec $(PY) -m server --config $(CLUSTER)/server.toml $(ARGS)
else
	@echo "starting the server (data in data/, Ctrl-C drains and stops)"
	@exec $(PY) -m server --store $(STORE) --data-dir data $(ARGS)
endif

.PHONY: test
test: $(DEV) ## Run every test suite and print what each took; fetches what they need, or says what is missing
ifeq ($(strip $(ARGS)),)
	@$(PY) -m tests.needs
endif
	@$(PY) -m pytest -q $(ARGS)

.PHONY: check
check: $(DEV) ## Everything below but the tests: lint types imports wire (under a minute)
	@$(MAKE) --keep-going lint types imports wire
	@echo "check: all good"

.PHONY: bench
bench: $(DEV) ## Measure Crest and its peers on a cluster of their own: table, JSON, page (half an hour; QUICK=1: a look)
	@$(PY) -m bench $(ARGS)

.PHONY: bench-large
bench-large: $(DEV) ## The rate with 5 million orders stored against that with 50,000 (15 min)
	@$(PY) -m bench --large $(ARGS)

.PHONY: ghz
ghz: $(DEV) ## Load a server that is running: make ghz ARGS="create-order 127.0.0.1:50051 --shape flash --rate 2000"
	@$(PY) -m bench ghz $(or $(ARGS),create-order)

.PHONY: torture
torture: $(DEV) ## Histories, a million requests, rebalances: all killed, then judged; an hour or more (SECONDS= SEED= STORE= NODE_KILLS=)
	@$(PY) -m tests.torture.history run $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(STORE),--store $(STORE)) $(if $(REPLICAS),--replicas $(REPLICAS))
	@$(PY) -m tests.torture --store $(STORE) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(NODE_KILLS),--node-kills $(NODE_KILLS)) $(if $(COMMITLOG_SYNC),--commit-log-sync $(COMMITLOG_SYNC)) $(ARGS)
	@$(PY) -m tests.torture.rebalance run $(if $(STORE),--store $(STORE)) $(if $(SEED),--seed $(SEED))
	@TORTURE=1 $(PY) -m pytest -q -m torture --timeout 0

# A variable not given leaves what the cluster was made with; a new one has 3 shards of one node.
.PHONY: up
up: $(DEV) ## Start Cassandra shards and a Redis Cluster, or revive them (SHARDS=3 REPLICAS=1 COMMITLOG_SYNC=group)
	@$(PY) -m deploy.cluster up --dir $(CLUSTER) $(if $(SHARDS),--shards $(SHARDS)) \
	  $(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(COMMITLOG_SYNC),--commit-log-sync $(COMMITLOG_SYNC)) $(ARGS)
	@$(PY) -m shards.schema apply --topology-file $(CLUSTER)/topology.toml
	@echo "make run STORE=cassandra serves on it"

.PHONY: down
down: $(DEV) ## End what `make up` started; its data stay (ARGS=--wipe removes them)
	@$(PY) -m deploy.cluster down --dir $(CLUSTER) $(ARGS)

.PHONY: status
status: $(DEV) ## Tell which nodes of the cluster run and serve (ARGS=--json)
	@$(PY) -m deploy.cluster status --dir $(CLUSTER) $(ARGS)

# -------------------------------------------------------------------------------------------------- develop

.PHONY: format
format: $(DEV) ## Format the code and apply the safe fixes of the linter
	@$(PY) -m ruff format --quiet . && $(PY) -m ruff check --quiet --fix .

.PHONY: proto
proto: $(DEV) ## Generate the code beside each .proto again
	@$(PY) -m protos.generate

.PHONY: lint
lint: $(DEV) ## ruff: all rules, and the format
	@echo "lint: ruff check, ruff format"
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --quiet --check . || { echo "not formatted: make format" >&2; exit 1; }

.PHONY: types
types: $(DEV) ## mypy, strict
	@echo "types: mypy $(CODE)"
	@$(PY) -m mypy --no-error-summary $(CODE) protos/generate.py

.PHONY: imports
imports: $(DEV) ## import-linter: the direction of imports
	@echo "imports: import-linter"
	@$(VENV)/bin/lint-imports > $(VENV)/imports.log 2>&1 || { cat $(VENV)/imports.log >&2; exit 1; }

# The wire may not break what was released: against the last release tag, before the first one against the parent
# commit. `git archive`, because it works in a worktree too.
.PHONY: wire
wire: $(DEV) ## buf lint, buf breaking, and whether the generated code is of these protos
	@echo "wire: buf lint"
	@$(VENV)/bin/buf lint
	@old=$$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || git rev-parse --quiet --verify HEAD~1 || true); \
	if [ -z "$$old" ]; then \
	  echo "wire: buf breaking skipped, there is neither a release tag nor a parent commit"; \
	elif ! git ls-tree -r --name-only "$$old" -- protos | grep -q '\.proto$$'; then \
	  echo "wire: buf breaking skipped, $${old:0:12} has no protos"; \
	else \
	  echo "wire: buf breaking against $${old:0:12}"; \
	  scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	  git archive "$$old" protos | tar -x -C "$$scratch"; cp buf.yaml "$$scratch"; \
	  $(VENV)/bin/buf breaking --against "$$scratch"; \
	fi
	@echo "wire: generated code"
	@$(PY) -m protos.generate --check

.PHONY: lock
lock: $(DEV) ## Resolve the ranges of pyproject.toml into the lock files (newest versions)
	@echo "resolving requirements.lock and requirements-dev.lock"
	@lock="$(VENV)/bin/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --custom-compile-command 'make lock'"; \
	eval "$$lock --output-file requirements.lock"; \
	eval "$$lock --group dev --constraints requirements.lock --output-file requirements-dev.lock"

.PHONY: clean
clean: ## Remove the environment and the caches; data/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +

# ---------------------------------------------------------------------------------------------- environment

$(VENV_MADE):
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) is missing. Debian 12: apt-get install python3.11 python3.11-venv" >&2; \
	  echo "A later Python does as well: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv. Debian 12: apt-get install python3.11-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is older than 3.11, which Crest needs. Debian 12: apt-get install python3.11 python3.11-venv" >&2; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(RUNTIME): requirements.lock $(VENV_MADE)
	@echo "installing what the server needs (requirements.lock)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@touch $@

$(DEV): requirements-dev.lock $(VENV_MADE)
	@echo "installing what development needs (requirements-dev.lock)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	@touch $@ $(RUNTIME)
