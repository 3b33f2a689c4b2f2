# make demo    a forecast from nothing: environment, server, answer
# make serve   the server in the foreground (Ctrl-C stops it)
# make test    everything that must hold: ruff, mypy, pytest
# make lock    recompile the pins of every environment (LOCK_FLAGS=--upgrade for newer versions)
# make docs    renew what the docs take from the code: tables, the API reference, openapi.json
# make test-hub  every model of the registry against the real hub, and one real forecast (needs the network)
# make clean   remove everything that the others made
#
# Needs GNU make and any Python 3 with pip. uv is fetched into .tools, Python 3.11 too if the machine has none.

PYTHON ?= python3
UV ?= .tools/bin/uv
UV_READY := $(filter .tools/bin/uv,$(UV))
BIN := .venv/bin
FAMILIES := $(basename $(notdir $(wildcard runtime_envs/*.in)))

# uv takes what pip is told about a folder of wheels; UV_TORCH_BACKEND chooses torch's build (cpu, cu130, auto).
empty :=
comma := ,
UV_FIND_LINKS ?= $(subst $(empty) $(empty),$(comma),$(strip $(PIP_FIND_LINKS)))
ifneq ($(UV_FIND_LINKS),)
export UV_FIND_LINKS
endif
# The tests' environments are the checkout's own; a server's are in its home.
test: export TOLLAMA_RUNTIMES_DIR ?= $(CURDIR)/.runtimes

.PHONY: demo serve test test-hub setup docs lock clean
.DEFAULT_GOAL := setup

setup: .venv/.base
	$(BIN)/tollama runtime install baseline

demo: setup
	$(BIN)/python examples/demo.py

serve: setup
	$(BIN)/tollama serve

test: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	for family in $(FAMILIES); do $(BIN)/tollama runtime install $$family || exit 1; done
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -q

test-hub: .venv/.dev
	$(BIN)/pytest -q -m hub tests/families/test_real_hub.py

docs: .venv/.dev
	$(BIN)/python -m docs.generate

.tools/bin/uv:
	$(PYTHON) -m pip install --quiet --target .tools "$$(grep '^uv==' runtime_envs/base.txt)" || { \
	  echo "Error: uv could not be fetched. Use a Python 3 with pip (make PYTHON=...) or your own uv (make UV=uv)."; exit 1; }

.venv/.python: | $(UV_READY)
	$(UV) venv --quiet --clear --no-project --python 3.11 .venv
	touch $@

.venv/.base: .venv/.python pyproject.toml runtime_envs/base.txt | $(UV_READY)
	$(UV) pip install --quiet --compile-bytecode --python .venv --constraints runtime_envs/base.txt --editable .
	touch $@

.venv/.dev: .venv/.base | $(UV_READY)
	$(UV) pip install --quiet --compile-bytecode --python .venv --constraints runtime_envs/base.txt --editable '.[dev]'
	touch $@

COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url $(LOCK_FLAGS)

lock: | $(UV_READY)
	$(COMPILE) --extra dev pyproject.toml --output-file runtime_envs/base.txt
	for family in $(FAMILIES); do \
	  $(COMPILE) --excludes runtime_envs/excludes.txt runtime_envs/$$family.in --output-file runtime_envs/$$family.txt || exit 1; \
	done

clean:
	rm -rf .venv .tools .runtimes .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
