# Two commands on a fresh machine: `make demo` and `make test`.  Both set up what they need first.
# Needed beforehand: Python 3.10 or newer, make, a C compiler.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
FORK := .venv-mmseg-fork
STAMP := .venv/.ready
EXTRAS := all
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
SYSTEM_UV := $(shell command -v uv 2>/dev/null)
UV := $(or $(SYSTEM_UV),.uv/bin/uv)

# Threads that wait for each other must not spin: on a busy machine that makes it several times slower.
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE

SEED ?= 0
DEMO ?= --data demo --model nano --image-size 64 --eval-size 128 --crop-min 0.2 --blur 0.6 --epochs 8 --warmup-epochs 1 \
  --batch-size 64 --lr 0.008 --momentum 0.95 --hidden 512 --out-dim 128 --workers 1 --knn-every 100 \
  --seed $(SEED) --out runs/demo-$(SEED)
STAGES := lint types house unit contracts parity recipes soak
# In `make test` all tests are one session, so that torch is imported once for each core and not once for each stage.
WHOLE := lint types tests
PYTEST := $(BIN)/python -m pytest --durations=5 --durations-min=5
# A process for each of two cores; each test keeps to one thread.
TWICE := --numprocesses 2 --dist worksteal

.PHONY: help setup demo test tests slow pythons gpu numbers docs links mmseg-fork $(STAGES) constraints clean

help:  ## say what each target does
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP)  ## make .venv with castssl, its plugins and the development tools (no-op when up to date)

.uv/bin/uv:
	@echo "uv is not on PATH: installing it into .uv"
	@$(PYTHON) -m venv .uv || { echo "$(PYTHON) cannot make a virtual environment; install its venv module" \
	  "(on Debian: apt-get install python3-venv) or put uv on PATH"; exit 1; }
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check uv

$(STAMP): pyproject.toml constraints.txt $(addsuffix /pyproject.toml,$(PLUGINS)) $(if $(SYSTEM_UV),,| .uv/bin/uv)
	@echo "setting up .venv (a few minutes the first time)"
	@test -x $(BIN)/python || $(UV) venv --quiet --python '>=3.10' .venv
	@$(UV) pip install --compile-bytecode --python .venv --constraint constraints.txt --group dev --editable . \
	  $(addprefix --editable ,$(PLUGINS))
	@touch $@

demo: setup  ## pretrain a small CAST on generated images and show what it learned
	@$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	  recipes/moco_in1k.py $(DEMO)

test: setup  ## every check that continuous integration runs
	@began=$$SECONDS; failed=; \
	for stage in $(WHOLE); do $(MAKE) $$stage || failed="$$failed $$stage"; done; \
	echo; echo "all stages: $$((SECONDS - began)) s; failed:$${failed:- none}"; test -z "$$failed"

# $(call stage,name,command): say the name, run, say how long it took, keep the exit code.
define stage
@echo; echo "== $(1)"; began=$$SECONDS; code=0; { $(2); } || code=$$?; \
echo "== $(1): $$((SECONDS - began)) s"; exit $$code
endef

lint: setup  ## ruff: style and format of imports
	$(call stage,lint,$(BIN)/ruff check .)

types: setup  ## mypy, strict
	$(call stage,types,$(BIN)/mypy)

tests: setup  ## house to soak, below, in one session
	$(call stage,tests,OMP_NUM_THREADS=1 $(PYTEST) $(TWICE) tests $(wildcard plugins/*/tests))

house: setup  ## who imports whom, lengths, names, what the README promises
	$(call stage,house,$(PYTEST) tests/house)

unit: setup  ## each room's own tests
	$(call stage,unit,OMP_NUM_THREADS=1 $(PYTEST) $(TWICE) tests \
	  $(addprefix --ignore=tests/,house contracts parity recipes slow soak))

contracts: setup  ## the contract checks over every installed plugin, and the plugins' own tests
	$(call stage,contracts,OMP_NUM_THREADS=1 $(PYTEST) $(TWICE) tests/contracts $(wildcard plugins/*/tests))

parity: setup  ## numbers of the published models
	$(call stage,parity,$(PYTEST) tests/parity)

recipes: setup  ## each recipe for a few steps on generated pictures
	$(call stage,recipes,OMP_NUM_THREADS=1 $(PYTEST) $(TWICE) tests/recipes)

soak: setup  ## kill a small run at random moments; ROUNDS=200 is the long form (50 minutes)
	$(call stage,soak,$(if $(ROUNDS),$(BIN)/python -m tests.soak.soak --rounds $(ROUNDS) --seed $(SEED),$(PYTEST) tests/soak))

slow: setup  ## what takes minutes: published sizes, SLURM, spawn, installs into bare environments (downloads)
	$(call stage,slow,OMP_NUM_THREADS=1 $(PYTEST) --timeout 3600 -o tmp_path_retention_policy=failed \
	  --numprocesses 2 --dist loadfile tests/slow $(wildcard plugins/*/tests/slow))

gpu: setup  ## what needs a GPU, in ten minutes: prints one table to paste
	@$(BIN)/python recipes/benchmarks/device.py

numbers: setup  ## write docs/numbers.md and docs/cards, and the papers' figures in other documents
	@$(BIN)/python docs/write_numbers.py
	@$(BIN)/python docs/write_cards.py

docs: setup  ## build the site into build/docs, without network and without a warning, and check its links
	@rm -rf build/docs
	@$(BIN)/python -m sphinx -q -b html -c docs -d build/doctrees -W --keep-going . build/docs
	@$(BIN)/python -m tests.built_pages build/docs

links: setup  ## visit the external links of all documents (needs a network)
	@$(BIN)/python -m sphinx -q -b linkcheck -c docs -d build/doctrees-links --keep-going . build/links

# Of the two halves of the tests: neither whole runs nor what is the same on each interpreter.
FAST := --ignore=tests/recipes --ignore=tests/acceptance --ignore=tests/contracts --ignore=tests/ablations \
  --ignore=tests/parity --ignore=tests/soak --ignore=tests/house -m "not recipe and not distributed"
PYTHONS ?= $(foreach minor,10 11 12 13 14,$(if $(shell python3.$(minor) --version 2>/dev/null),3.$(minor)))
pythons: $(if $(SYSTEM_UV),,.uv/bin/uv)  ## the fast half of the tests on each Python at hand, in .venv-3.N (downloads)
	@failed=; for python in $(PYTHONS); do echo "== $$python"; \
	  { test -x .venv-$$python/bin/python || $(UV) venv --quiet --python $$python .venv-$$python; } && \
	  $(UV) pip install --quiet --python .venv-$$python --constraint constraints.txt --group dev --editable . \
	    $(addprefix --editable ,$(PLUGINS)) && \
	  OMP_NUM_THREADS=1 .venv-$$python/bin/python -m pytest $(TWICE) $(FAST) tests || failed="$$failed $$python"; \
	done; echo "ran: $(PYTHONS); not at hand: $(filter-out $(PYTHONS),3.10 3.11 3.12 3.13 3.14); failed:$${failed:- none}"; \
	test -z "$$failed"

mmseg-fork: setup  ## the tests of castssl-mmseg with the fork of mmsegmentation, in .venv-mmseg-fork (downloads)
	@test -x $(FORK)/bin/python || $(UV) venv --quiet --python '>=3.10' $(FORK)
	@$(UV) pip install --python $(FORK) --constraint constraints.txt --group dev --editable . \
	  $(addprefix --editable ,$(filter-out plugins/castssl-mmseg,$(PLUGINS))) \
	  onedl-mmsegmentation==1.4.2 onedl-mmengine==0.10.12 onedl-mmcv==2.3.6
	@$(UV) pip install --python $(FORK) --no-deps --editable plugins/castssl-mmseg
	$(call stage,mmseg-fork,OMP_NUM_THREADS=1 $(FORK)/bin/python -m pytest --durations=5 plugins/castssl-mmseg/tests)

constraints: $(if $(SYSTEM_UV),,.uv/bin/uv)  ## resolve all versions anew into constraints.txt
	@printf -- '-e %s\n' './.[$(EXTRAS)]' $(addprefix ./,$(PLUGINS)) | $(UV) pip compile --quiet --universal --upgrade \
	  --python-version 3.10 --group pyproject.toml:dev --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links - | grep -v '^-e ' > constraints.new
	@mv constraints.new constraints.txt

clean:  ## remove what was built; keeps runs/ and the demo pictures in the cache
	@rm -rf .venv .venv-* .uv dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
