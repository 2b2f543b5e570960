# The workbench in one word each.  `make` alone lists them.

PYTHON ?= python3
BIN    := .venv/bin
UV     := $(or $(shell uv --version >/dev/null 2>&1 && command -v uv),.uv/bin/uv)
RECENT  = @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
          { echo "The workbench needs Python 3.11 or newer; name one, as in: make env PYTHON=python3.12"; exit 1; }
LEARN  := $(wildcard notebooks/learn/*.ipynb)
NBVAL  := --nbval --nbval-current-env --nbval-cell-timeout=600 \
          $(addprefix --nbval-sanitize-with ,$(wildcard notebooks/sanitize.cfg))

.PHONY: help env demo test slow soak check lab app docs lock clean

help:  ## list these targets
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1\t/p' Makefile | expand -t 14

env: .venv/current  ## the pinned environment in .venv (PYTHON=python3.12 chooses the Python of a new one)

demo: env  ## reproduce a published table at smoke size
	$(BIN)/workbench reproduce cra-4 --budget smoke

test: check  ## check, then the tests (all but the slow ones), then the learning notebooks
	$(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not slow and not soak"
	$(if $(LEARN),$(BIN)/pytest $(NBVAL) $(LEARN))

slow: env  ## the tests that `make test` leaves out, but for those of `make soak`
	$(BIN)/pytest -q -m slow tests

soak: env  ## kill runs at 200 random moments (KILLS=1000 for more), and compare what they come to
	$(BIN)/pytest -q -m soak tests/faults

check: env  ## lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

lab: env  ## JupyterLab on the notebooks
	$(BIN)/workbench lab

app: env  ## the explorer in a browser
	$(BIN)/workbench app

docs: env  ## the documentation as pages in build/docs/html, which need no network
	$(BIN)/python notebooks/docs/make.py build/docs

lock: | $(UV)  ## pin today's newest versions in requirements.lock
	$(UV) pip compile pyproject.toml --output-file requirements.lock --upgrade --quiet \
	    --universal --python-version 3.11 --all-extras --no-header --no-annotate --no-emit-index-url

clean:  ## remove caches and builds; runs/, data/ and .venv stay
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find workbench app tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

.venv/current: requirements.lock pyproject.toml | $(UV) $(BIN)/python
	$(UV) pip sync --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/python: | $(UV)
	$(RECENT)
	$(UV) venv --quiet --clear --python $(PYTHON) .venv

.uv/bin/uv:
	$(RECENT)
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet uv
