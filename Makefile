# Everything that the project does, a line each. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help up down status env preview test unit engine local bench lint format
STACK ?= dev
RUN := .venv/bin/

help: ## List the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-13s %s\n", $$1, $$2}'

up: .venv/.synced ## Start the local cloud, deploy both targets to it, send each an inference
	@$(RUN)triton-stack up

down: .venv/.synced ## Destroy the local stack and stop the local cloud
	@$(RUN)triton-stack down

status: .venv/.synced ## Show what runs and what it serves
	@$(RUN)triton-stack status

env: .venv/.synced ## Print the local stack's environment: eval "$$(make -s env)"
	@$(RUN)triton-stack env

preview: .venv/.synced ## Preview a real stack offline: make preview STACK=prod
	@$(RUN)triton-stack preview $(STACK)

test: .venv/.synced ## Run every test
	@$(RUN)pytest -n 2 --dist loadfile

unit: .venv/.synced ## Run the tests that need no server
	@$(RUN)pytest tests/unit -n 2 --dist worksteal

engine: .venv/.synced ## Run the tests of the real Pulumi engine
	@$(RUN)pytest tests/engine

local: .venv/.synced ## Run the tests of real servers
	@$(RUN)pytest tests/local

bench: .venv/.synced ## Measure, into bench/results.json
	@$(RUN)python -m bench

lint: .venv/.synced ## Check format, rules, types and import order
	@$(RUN)ruff format --check && $(RUN)ruff check && $(RUN)basedpyright && $(RUN)lint-imports

format: .venv/.synced ## Format, and mend what can be mended
	@$(RUN)ruff format && $(RUN)ruff check --fix

.venv/.synced: pyproject.toml uv.lock
	@tools/uv sync --frozen --quiet --compile-bytecode && touch $@
