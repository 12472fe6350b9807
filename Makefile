# Everything a fresh machine needs: `make demo` to see it work, `make test` to test it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Real weights and images, for benchmarks only: weights/<model>, datasets/<name>.
ASSETS ?= ../shared/assets
# The environment is made anew only when what it is made of has changed.
READY  := $(VENV)/.ready

.PHONY: help demo test check format drawing docs soak bench bench-store bench-solvers gpu study pretrain dist clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "toptune needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## install, then extract, train and report on images that need no download
	$(BIN)/toptune demo

test: $(READY) ## the test suite, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: $(READY) ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## put the source into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

drawing: $(READY) ## draw the rooms into ARCHITECTURE.md from the code, and list the pages in llms.txt
	$(BIN)/python tests/house_drawing.py
	$(BIN)/python scripts/llms_txt.py

docs: $(READY) ## build the site into build/site; any warning is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/mkdocs build --strict --quiet

ROUNDS ?= 200
soak: $(READY) ## kill writers of the store, round after round; ROUNDS=200
	TOPTUNE_SOAK_ROUNDS=$(ROUNDS) TOPTUNE_SOAK_EXAMPLES=$(ROUNDS) $(BIN)/python -m pytest -s --timeout 0 tests/store/test_soak.py \
		tests/store/test_state_machine.py tests/store/test_killed_commands.py

bench: $(READY) ## comparisons with named peers on real images in ASSETS; see benchmarks/RESULTS.md
	$(BIN)/python benchmarks/heads.py $(ASSETS)

bench-store: $(READY) ## the store against plain files and its peers; about 4 GB in FOLDER
	$(BIN)/python benchmarks/store.py $(FOLDER)

bench-solvers: $(READY) ## solvers of kernel heads against FalkonML, where installed, and scikit-learn; hours
	$(BIN)/python benchmarks/solvers.py

gpu: $(READY) ## the CUDA path on a machine with a GPU, 6 minutes; GPU_ARGS='--device cpu --tiny' rehearses
	$(BIN)/python benchmarks/gpu.py $(GPU_ARGS)

STUDIES := top-tuning head2toe when-and-how forest
study: $(READY) ## the studies of docs/study.md and their report, study/report.html; hours, goes on where it stopped
	for name in $(STUDIES); do ASSETS=$(abspath $(ASSETS)) $(BIN)/toptune study docs/studies/$$name.yaml || exit; done
	$(BIN)/python scripts/study_summary.py docs/studies/results docs/pictures > docs/studies/results/summary.md
	$(BIN)/toptune report study/runs -o study/report.html --overwrite --title 'Frozen heads and fine-tuning' \
		--data clothing_small=$(ASSETS)/datasets/clothing_small --data trashnet=$(ASSETS)/datasets/trashnet/images

pretrain: $(READY) ## make the embedded backbone's weights again
	$(BIN)/python scripts/pretrain_glyphs.py

dist: $(READY) ## sdist and wheel, dist/
	$(BIN)/python -m build --no-isolation

clean: ## remove the environment and everything made by running
	rm -rf $(VENV) toptune-demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
