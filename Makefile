# make test | slow-test | test-faults | floor-test | lint | demo | experiments | quality | gpu-study | benchmark-audit | clean
#
# Each target makes the virtual environment it needs (about two minutes, once) from the package registry alone.
#   PYTHON    the interpreter to make it with: Python 3.11 or newer, for which constraints.txt pins every package
#   TORCH     the torch build. The pinned release is the default; another one, say for the CUDA version of a GPU machine:
#             make TORCH=torch==2.12.1 test           (a change of TORCH alone needs `make clean` first)
#   DEMO_OUT, EXPERIMENTS_OUT, QUALITY_OUT
#             where `make demo`, `make experiments` and `make quality` write; what was interrupted there is continued, anything else refused
# The tests of the HTML pages open them in headless Chromium. The test targets install Debian's where they may (root and
# apt-get); elsewhere these tests are skipped, and say so, unless a Chromium or Chrome is on PATH.
# With MACDM_SCREENSHOTS=DIR they keep their pictures there.
PYTHON ?= python3
TORCH ?= $(shell grep '^torch==' constraints.txt)
DEMO_OUT ?= runs/demo
EXPERIMENTS_OUT ?= runs/experiments
QUALITY_OUT ?= runs/quality
GPU_OUT ?= runs/gpu-study
GPU_OPTIONS ?= --data phantom128 --budget-minutes 4 --candidates gpu --skip-copies --segmenter-steps 500
QUALITY_OPTIONS ?= --data phantom48 --budget-minutes 5

VENV := .venv
PIP_INSTALL := bin/python -m pip install -qq --no-input --disable-pip-version-check

.PHONY: browser demo experiments test slow-test test-faults floor-test lint quality gpu-study benchmark-audit clean

demo: $(VENV)/.installed
	$(VENV)/bin/python pipelines/demo.py --output_dir $(DEMO_OUT)

# evaluate, compare and sweep on the phantom, at small sizes: 24 minutes on 2 CPU cores, a third of them beside `make test`.
experiments: $(VENV)/.installed
	$(VENV)/bin/python pipelines/experiments.py --output_dir $(EXPERIMENTS_OUT)

browser:
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get > /dev/null && echo "Installing chromium for the tests of the pages" && \
	  apt-get update -qq > /dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium > /dev/null; } || \
	  echo "No Chromium here: the tests of the pages in a browser will be skipped"

test: $(VENV)/.installed browser
	$(VENV)/bin/python -m pytest -q -n auto --dist loadgroup --no-loadscope-reorder -m "not slow and not faults"

test-faults: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -q -s -m faults

slow-test: $(VENV)/.installed browser
	$(VENV)/bin/python -m pytest -q -m slow

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

# Quality for a budget: each candidate trained for 5 minutes, its pairs measured beside real ones.
quality: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/quality.py $(QUALITY_OUT) $(QUALITY_OPTIONS)

# The same at 128 px, for machines with a GPU: 4 minutes of training, planned to end within 9; no GPU has run it yet.
gpu-study: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/quality.py $(GPU_OUT) $(GPU_OPTIONS)

# Time and memory of the copy audit; about a quarter of an hour on 2 free cores.
benchmark-audit: $(VENV)/.installed
	@mkdir -p runs
	$(VENV)/bin/python benchmarks/audit.py runs/benchmark-audit.json

# torch comes first and under its own name: asked for by range only, pip would take the newest CUDA build (several GB).
# The rest is then constrained by everything but torch, so that TORCH may differ from the pin.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "constraints.txt needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": set PYTHON=, or pip install without the constraints")'
	@echo "Installing into $(VENV) (about two minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@$(VENV)/$(PIP_INSTALL) -c $(VENV)/constraints.txt $(TORCH)
	@$(VENV)/$(PIP_INSTALL) -c $(VENV)/constraints.txt -e '.[train,eval,import,dev]'
	@touch $@

# The oldest versions that pyproject.toml allows: each floor `name>=x` becomes `name==x`. On Linux this torch is a CUDA build.
FLOOR_VENV := build/floor-venv
FLOOR_PYTHON ?= python3.10

floor-test: $(FLOOR_VENV)/.installed
	$(FLOOR_VENV)/bin/python -m pytest -q -n auto --dist loadgroup --no-loadscope-reorder -m "not slow and not faults"

$(FLOOR_VENV)/.installed: pyproject.toml
	@echo "Installing the floors into $(FLOOR_VENV)"
	@$(FLOOR_PYTHON) -m venv $(FLOOR_VENV)
	@sed -nE 's/^.*"([A-Za-z_-]+)>=([0-9.]+)".*$$/\1==\2/p' pyproject.toml > $(FLOOR_VENV)/constraints.txt
	@$(FLOOR_VENV)/$(PIP_INSTALL) -c $(FLOOR_VENV)/constraints.txt -e '.[train,eval,import,dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
