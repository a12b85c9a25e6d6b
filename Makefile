# `make` lists the targets. Everything installs into $(VENV) by itself, with the versions of constraints.txt.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.SUFFIXES:

VENV   ?= .venv
PYTHON ?= python3
EXP    ?= tiny
ARGS   ?=
CLAIM  ?= $(filter-out real,$(sort $(basename $(notdir $(wildcard conf/experiment/claims/*.yaml)))))
LAUNCHER ?= local
SEARCHES ?= tiny_lr mitigations_lr

BIN   := $(VENV)/bin
# One stamp a checkout: an environment shared by two holds the one that was installed last.
STAMP := $(VENV)/.installed-$(shell pwd | cksum | cut -d ' ' -f 1)

.PHONY: claims claims-real help setup check sweep plan status table report smoke search-lr bench-eval bench-sweep bench-training calibrate nursery bench-report reference test unit chaos test-browser test-claims test-cluster test-contract test-examples fuzz test-install test-ray test-trainers test-exact lint imports types format wheel clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile
	@printf '\nvariables:\n'
	@printf '  EXP=tiny        experiment of sweep, plan, status, table and report\n'
	@printf '  LAUNCHER=local  who carries a sweep: local, slurm (conf/launcher/)\n'
	@printf '  ARGS=           more arguments for sweep, plan, table and test, such as ARGS="seed=1" or ARGS="-k replay"\n'
	@printf '  VENV=.venv      where to install     PYTHON=python3   what to install with (3.11 or newer)\n'

setup: $(STAMP) ## make the virtual environment and install into it, once

# The stamp is written last, so an interrupted installation is continued.
$(STAMP): pyproject.toml constraints.txt
	@python="$(BIN)/python"; test -x "$$python" || python="$(PYTHON)"; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make: got $$python ($$("$$python" -V 2>&1)); allowed: Python 3.11 or newer; fix: make setup PYTHON=python3.11, or another VENV" >&2; \
	  exit 1; }
	@"$(BIN)/python" -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv "$(VENV)"
	@rm -f "$(VENV)"/.installed-*
	@echo "installing into $(VENV), once; this takes a few minutes ..." >&2
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	@touch "$@"

sweep: $(STAMP) ## the main job: every point of experiment EXP, here or on a cluster (LAUNCHER=slurm), then its table and report
	@"$(BIN)/harness" sweep experiment=$(EXP) launcher=$(LAUNCHER) $(ARGS)

plan: $(STAMP) ## what sweep would do, and what it would take, before anything starts
	@"$(BIN)/harness" plan experiment=$(EXP) launcher=$(LAUNCHER) $(ARGS)

status: $(STAMP) ## progress of EXP's last sweep, read from disk
	@"$(BIN)/harness" status $(EXP) $(ARGS)

table: $(STAMP) ## the tidy table of EXP, as csv
	@"$(BIN)/harness" table $(EXP) $(ARGS)

report: $(STAMP) ## the page of EXP, its figures and tables, in results/EXP/report/
	@"$(BIN)/harness" report $(EXP)

smoke: $(STAMP) ## the whole way within 90 seconds: 2 sizes, full and LoRA, 2 volumes, 3 seeds, and the report
	@"$(BIN)/harness" sweep experiment=smoke
	@"$(BIN)/harness" report smoke

search-lr: $(STAMP) ## search the learning rates that ship, on items that are not reported (SEARCHES=tiny_lr: this one alone)
	@for search in $(SEARCHES); do \
	  "$(BIN)/harness" sweep experiment=$$search && "$(BIN)/harness" learning-rates $$search --write conf/learning_rates.yaml || exit 1; \
	done

bench-eval: $(STAMP) ## speed and scores of evaluation=prefix compared with lm-eval's own class; takes a model on disk (ARGS="--model NAME")
	@"$(BIN)/python" benchmarks/speed/evaluation.py $(ARGS)

bench-sweep: $(STAMP) ## cost of `tiny` compared with a shell loop of Trainer and lm_eval; about 10 minutes (ARGS="--points all", "--case real")
	@"$(BIN)/python" benchmarks/speed/sweep.py $(ARGS)

calibrate: $(STAMP) ## planted experiments: how often intervals and verdicts are right, into benchmarks/METHOD.md; minutes
	@"$(BIN)/python" -m benchmarks.calibration.run $(ARGS)

bench-training: $(STAMP) ## overhead of training over a bare torch loop (ARGS="--model NAME" for a model of the hub or a folder)
	@"$(BIN)/python" benchmarks/speed/training.py $(ARGS)

claims: $(STAMP) ## the claims of docs/CLAIMS.md on the shipped models, each a sweep of minutes, then document and page (CLAIM=own_words: this one)
	@for claim in $(CLAIM); do \
	  "$(BIN)/harness" sweep experiment=claims/$$claim $(ARGS) && "$(BIN)/harness" claims --collect results/claims-$$claim || exit 1; \
	done

claims-real: $(STAMP) ## the claim on SmolLM2-135M and Chinese poems; three hours, resumes; skipped, with the reason, without the poems
	@"$(BIN)/python" -m benchmarks.claims_real $(ARGS)

test-claims: $(STAMP) ## the smallest claim again, its verdicts compared with the committed ones; a minute
	@"$(BIN)/python" -m pytest --quiet tests/exact/test_claims.py -rs $(ARGS)

reference: $(STAMP) ## the default sweep again, its findings compared with the committed ones in results/reference/ (ARGS=--write replaces them)
	@"$(BIN)/python" benchmarks/reference.py $(ARGS)

nursery: $(STAMP) ## pretrain the shipped models anew, and say how far they score from the shipped ones; under an hour, resumes (ARGS=--write replaces them)
	@"$(BIN)/python" benchmarks/nursery.py $(ARGS)

bench-report: $(STAMP) ## time and memory of table and report on 10,000 fabricated runs; about 10 minutes (ARGS="--runs 500")
	@"$(BIN)/python" benchmarks/speed/report.py $(ARGS)

check: lint imports types ## the inner loop, under 90 seconds: lint, import contracts, types, and the tests that run no model
	@"$(BIN)/python" -m pytest --quiet -n 2 --dist worksteal -m "not model" $(ARGS)

test: lint imports types unit ## lint, import contracts, types, then all tests

# Two processes, each with whole files, since fixtures of a file are costly; ARGS="-n 0" runs them in one.
unit: $(STAMP) ## the tests alone
	@"$(BIN)/python" -m pytest --quiet -n 2 --dist loadfile $(ARGS)

chaos: $(STAMP) ## a sweep killed, stopped and damaged at random, on a full disk, next to another sweep: the same records in the end; 8 minutes
	@"$(BIN)/python" -m pytest --quiet tests/chaos -rA $(ARGS)

fuzz: $(STAMP) ## mutated copies of input files to commands that read them, until one fails or Ctrl-C (ARGS="logs points": these kinds)
	@"$(BIN)/python" -m tests.support.mutations $(ARGS)

test-contract: $(STAMP) ## every pair of methods on two-layer models: two steps, off is none, seeds, costs, rejections; a minute
	@"$(BIN)/python" -m pytest --quiet tests/contract $(ARGS)

test-browser: $(STAMP) ## the page of a report in headless Chromium: it fetches nothing, searches, sorts, prints; skipped without a Chromium
	@"$(BIN)/python" -m pytest --quiet tests/browser -rs $(ARGS)

test-cluster: $(STAMP) ## sweeps on a real Slurm of two nodes on this machine, which die on the way; needs root, installs Slurm where it is missing
	@"$(BIN)/python" -m pytest --quiet tests/cluster -rs $(ARGS)

test-ray: .venv-ray/.installed ## a sweep carried by Ray, in an environment of its own: its launcher needs older packages
	@.venv-ray/bin/python -m pytest --quiet tests/ray $(ARGS)

.venv-ray/.installed: pyproject.toml constraints-ray.txt
	@test -x .venv-ray/bin/python || "$(PYTHON)" -m venv .venv-ray
	@echo "installing into .venv-ray, once; this takes a few minutes ..." >&2
	@.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-ray.txt -e '.[ray]' pytest
	@touch "$@"

# Environments of their own, with the wheel: what pip chooses by itself, the oldest versions that pyproject.toml allows, and those of the
# extra `measure`. The oldest have no wheels for Python after 3.11.
INSTALLED := .venv-install/newest .venv-install/lowest .venv-install/measure
LOWEST    ?= python3.11
READERS   := tests/analysis tests/cli/test_laws.py tests/golden/test_small.py tests/records tests/report tests/sweep/test_status.py \
             $(addprefix tests/external/test_,clusters.py compare.py gate.py gate_files.py gate_mean.py inspect_logs.py logs.py rejections.py)
MEASURERS := tests/external/test_models.py tests/evaluation/prefix/test_exactness.py tests/evaluation/prefix/test_generation.py

test-install: $(addsuffix /.installed,$(INSTALLED)) $(STAMP) ## the wheel in new environments, base and `measure`, newest and oldest versions; 10 minutes
	@rm -rf .venv-install/dist .venv-install/full
	@"$(BIN)/python" -m build --wheel --no-isolation --outdir .venv-install/dist >/dev/null
	@mkdir .venv-install/full
	@cd .venv-install/full && "$(abspath $(BIN))/harness" run name=full model=nursery-smoke-a "data.volumes=[8]" >/dev/null
	@cd .venv-install/full && "$(abspath $(BIN))/harness" table full --output full.csv
	@for venv in $(INSTALLED); do \
	  $$venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .venv-install/dist/*.whl || exit 1; \
	  echo "$$venv: tests/install" >&2; \
	  HARNESS_TEST_RESULTS="$(CURDIR)/.venv-install/full" $$venv/bin/python -m pytest --quiet tests/install $(ARGS) || exit 1; \
	done
	@echo ".venv-install/lowest: tests of what reads results" >&2
	@.venv-install/lowest/bin/python -m pytest --quiet -o filterwarnings= --disable-warnings $(READERS) -k "not without_torch" $(ARGS)
	@echo ".venv-install/measure: tests of what measures" >&2
	@.venv-install/measure/bin/python -m pytest --quiet -o filterwarnings= --disable-warnings $(MEASURERS) $(ARGS)

.venv-install/newest/.installed: pyproject.toml
	@$(call fresh,$(@D),$(PYTHON),'.')

.venv-install/lowest/.installed: pyproject.toml constraints-lowest.txt
	@$(call fresh,$(@D),$(LOWEST),-c constraints-lowest.txt '.')

.venv-install/measure/.installed: pyproject.toml constraints-lowest.txt
	@$(call fresh,$(@D),$(LOWEST),-c constraints-lowest.txt "$$(grep ^torch== constraints.txt)" '.[measure]')

# Releases of transformers and TRL that people train with: transformers 4, an earlier 5, and the one that the tests run with.
TRAINERS      ?= .venv-trainers
RELEASES      := 4.57.6 5.14.1 5.23.0
TRL_4.57.6    := 0.25.1
TRL_5.14.1    := 1.8.0
TRL_5.23.0    := 1.16.0
CALLBACK      := tests/test_callback.py tests/test_callback_records.py tests/test_callback_trl.py

test-trainers: $(foreach release,$(RELEASES),$(TRAINERS)/$(release)/.installed) ## the callback in three releases of transformers and TRL, each in a new environment; 15 minutes
	@for release in $(RELEASES); do \
	  echo "transformers $$release: the callback" >&2; \
	  PYTHONPATH="$(CURDIR)" $(TRAINERS)/$$release/bin/python -m pytest --quiet -o filterwarnings= --disable-warnings $(CALLBACK) $(ARGS) || exit 1; \
	done

# torch first: transformers and TRL would take any.
$(TRAINERS)/%/.installed: pyproject.toml
	@rm -rf $(@D); "$(PYTHON)" -m venv $(@D) && echo "installing into $(@D), once; this takes a few minutes ..." >&2 && \
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep ^torch== constraints.txt)" && \
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check transformers==$* trl==$(TRL_$*) pytest '.[measure]' && \
	$(@D)/bin/python -m pip uninstall --quiet --yes forgetting-harness && touch $@

# A new environment in $(1), of Python $(2), with pytest and $(3).
define fresh
	rm -rf $(1); "$(2)" -m venv $(1) && echo "installing into $(1), once; this takes a minute ..." >&2 && \
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check pytest $(3) && touch $(1)/.installed
endef

# Without torch: reading results needs none.
test-examples: .venv-examples/.installed $(STAMP) ## the notebook of examples/ on a sweep of its own, in an environment without torch; a minute
	@rm -rf .venv-examples/work && mkdir .venv-examples/work && cp examples/read_results/read_results.ipynb .venv-examples/work
	@cd .venv-examples/work && HARNESS_PATH="$(CURDIR)/examples/own_sweep" "$(abspath $(BIN))/harness" sweep experiment=own_sweep --quiet
	@cd .venv-examples/work && ../bin/jupyter execute read_results.ipynb

.venv-examples/.installed: pyproject.toml
	@$(call fresh,$(@D),$(PYTHON),-c constraints.txt nbclient ipykernel -e '.')

test-exact: $(STAMP) ## scores of evaluation=prefix compared with lm-eval's own class on a real model; 15 minutes, needs HARNESS_TEST_HUB
	@"$(BIN)/python" -m pytest --quiet tests/exact $(ARGS)

lint: $(STAMP) ## ruff
	@"$(BIN)/ruff" check --quiet .
	@"$(BIN)/ruff" format --check --quiet . || { echo "lint: not formatted; fix: make format" >&2; exit 1; }

imports: $(STAMP) ## the layers of harness/, by import-linter
	@"$(BIN)/lint-imports" --no-logo

types: $(STAMP) ## mypy, strict
	@"$(BIN)/mypy" --no-error-summary

format: $(STAMP) ## rewrite what ruff can
	@"$(BIN)/ruff" check --fix --quiet .
	@"$(BIN)/ruff" format --quiet .

wheel: $(STAMP) ## build the wheel into dist/
	@"$(BIN)/python" -m build --wheel --no-isolation --outdir dist >/dev/null
	@ls dist/*.whl

clean: ## remove what make, tests and tools made; results/ and the model cache stay
	@rm -rf .venv-ray .venv-install .venv-trainers .venv-examples .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist $(if $(filter .venv,$(VENV)),.venv)
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
