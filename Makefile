# `make demo` from a fresh checkout is all it takes; `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
DEMO_STAMP := .venv/.installed-demo
DOCS_STAMP := .venv/.installed-docs
FILM := docs/_static/before-after.gif
BOOKS ?= notebooks/*.ipynb
EXTRAS := train,robot,test,adroit,lerobot,rlds,zarr,umi,bags,hub,rerun,gamepad,notebooks,export
WITH_DOCS := $(EXTRAS),docs

.PHONY: help setup demo docs film notebooks test fast-tests test-slow lint clean
.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE # or every process of the tests and of the demo compiles all modules again

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install o2o and all its tools into .venv, at the versions of constraints.txt
	@:

define install
@echo "installing o2o[$(1)] into .venv, a few minutes the first time"
@$(BIN)/pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e ".[$(1)]"
@$(BIN)/python -c 'import ctypes.util, sys; sys.exit(not ctypes.util.find_library("EGL"))' \
  || echo "libEGL is missing, cameras will not draw; on Debian: apt-get install libegl1 libgl1-mesa-dri"
endef

$(STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	$(call install,$(EXTRAS))
	@touch $@ $(DEMO_STAMP)

$(DEMO_STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	$(call install,train)
	@touch $@

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "o2o needs Python 3.11 or newer; give PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -m venv .venv \
	  || { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }

demo: $(DEMO_STAMP) ## install what it needs; pretrain, fine-tune and evaluate a simulated robot, start to end
	@$(BIN)/o2o demo

$(DOCS_STAMP): pyproject.toml constraints.txt | $(STAMP)
	$(call install,$(WITH_DOCS))
	@touch $@

docs: $(DOCS_STAMP) ## install what it needs; build the manual into docs/_build/html
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "the manual is docs/_build/html/index.html"

film: $(DEMO_STAMP) ## the picture at the head of the manual, from the film of DEMO=runs/demo-...
	@test -f "$(DEMO)/before_after.mp4" || { echo "run o2o demo first, and give its folder: make film DEMO=runs/demo-..."; exit 2; }
	@"$$($(BIN)/python -c 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())')" -v error -y -i "$(DEMO)/before_after.mp4" \
	  -vf "fps=8,scale=480:-1:flags=lanczos,split[a][b];[a]palettegen=max_colors=64[p];[b][p]paletteuse=dither=none" $(FILM)

notebooks: setup ## run the notebooks, or BOOKS=notebooks/1-*, and store them with their outputs; some minutes each
	@$(BIN)/python docs/run_notebooks.py $(BOOKS)

test: setup ## what must pass before a commit: lint and the fast tests
	@$(MAKE) --no-print-directory -j2 lint fast-tests

fast-tests: setup | tests/__pycache__
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist worksteal

tests/__pycache__: | $(STAMP) # compiles the modules once, or in a new checkout every worker would
	@$(BIN)/pytest -q --collect-only >/dev/null || true

test-slow: setup ## the longer checks
	@$(BIN)/pytest -q -m slow

lint: setup ## style, types and the Dockerfile
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/hadolint docs/docker/Dockerfile

clean: ## remove what can be made again: .venv, build outputs and caches (never runs/)
	@rm -rf .venv build dist docs/_build .pytest_cache .ruff_cache
	@find o2o robots datasets tests -name __pycache__ -type d -prune -exec rm -rf {} +
