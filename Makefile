# `make` alone lists the targets. Needs Python 3.11 to 3.13 (another one: `make setup PYTHON=python3.12`).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
SPREAD := --numprocesses auto --dist worksteal
# Every package: numbers by hand, formats, words of the commands, and one tiny world from end to end.
QUICK := house documents cli cli_words cache_files cache_reader cache_statistics cache_text \
	corruptions_sensor corruptions_weather models_segment models_sparse_tables models_voxels \
	pipeline_compose pipeline_label_types pipeline_projection pipeline_semkitti pipeline_stages pipeline_synth_shapes \
	pipeline_voxels train_batch train_losses train_metric train_optim points points_binary points_formats \
	train_predict train_recipe train_stream train_tta
.DEFAULT_GOAL := help
.PHONY: help setup demo quick test lint test-scatter bench gpu clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"pass2d needs Python 3.11 to 3.13, found {v.major}.{v.minor}: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(VENV)/installed  ## Create .venv and install pass2d with the tested versions
	@echo "Installed. Next: source $(VENV)/bin/activate && pass2d --help"

demo: $(VENV)/installed  ## Synthetic world -> cache -> training -> evaluation -> pictures (minutes on 2 cores)
	rm -rf $(DEMO)
	$(BIN)/pass2d prepare synth --out $(DEMO)/raw --preset demo
	$(BIN)/pass2d prepare semkitti --root $(DEMO)/raw --cache $(DEMO)/cache
	$(BIN)/pass2d stats --cache $(DEMO)/cache --html $(DEMO)/stats.html
	$(BIN)/pass2d train --cache $(DEMO)/cache --recipe demo --run $(DEMO)/run
	$(BIN)/pass2d predict $(DEMO)/raw/sequences/11/velodyne --checkpoint $(DEMO)/run/checkpoints/best.safetensors --out $(DEMO)/predictions --png
	$(BIN)/pass2d eval --cache $(DEMO)/cache --checkpoint $(DEMO)/run/checkpoints/best.safetensors --pictures $(DEMO)/pictures
	@echo
	@echo "cache:        $(DEMO)/cache/semkitti"
	@echo "checkpoint:   $(DEMO)/run/checkpoints/best.safetensors"
	@echo "pictures:     $(DEMO)/pictures, $(DEMO)/predictions (labels and PNG), $(DEMO)/stats.html"
	@echo "learning:     $(BIN)/tensorboard --logdir $(DEMO)/run"
	@echo "What next, with your own SemanticKITTI:"
	@echo "  source $(VENV)/bin/activate"
	@echo "  export PASS2D_SEMKITTI=/path/to/SemanticKITTI"
	@echo "  pass2d prepare semkitti --check"
	@echo "  pass2d prepare semkitti"
	@echo "  pass2d train --cache cache/"

lint: $(VENV)/installed  ## Format check, ruff and strict mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

quick: $(VENV)/installed  ## A part of the tests that takes less than a minute
	$(BIN)/python -m pytest $(SPREAD) -m "not slow and not ray and not browser" $(QUICK:%=tests/test_%.py)

test: lint  ## Install, lint, type-check, run all tests, one process per core
	$(BIN)/python -m pytest $(SPREAD)

test-scatter: $(VENV)/installed  ## Compile torch-scatter for the CPU (5 minutes) and run what uses it
	$(BIN)/python -c 'import torch_scatter' 2>/dev/null || \
		( $(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel && \
		  FORCE_ONLY_CPU=1 $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation 'torch-scatter>=2.1.2' )
	$(BIN)/python -m pytest tests/test_models_segment.py tests/test_models_twodpass.py  # with the marker `scatter`

bench: $(VENV)/installed  ## Run the benchmarks; each states ratios measured in one run
	@for file in bench/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

gpu: $(VENV)/installed  ## On a machine with a GPU: tests, speed, memory, learning as one table, in 9 minutes
	$(BIN)/python -m bench.gpu

clean:  ## Remove the virtual environment, the demo and tool caches (no data, no runs)
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis
