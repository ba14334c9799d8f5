# Two commands do all set-up on a fresh machine: `make test` and `make demo`. Both use one virtual environment of their own and are quick the second time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: test test-slow demo lint install clean
install: $(VENV)/installed

# pip respects its own variables; PIP_EXTRA_INDEX_URL is the place for an index with CPU-only builds of torch.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf,lora,test]'
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One worker a core, each test file whole in one of them; torch's threads would only spin beside each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test: lint
	$(PYTEST) -m "not slow"

# Tests that train, start processes, kill them or run whole pages of documentation.
test-slow: install
	$(PYTEST) -m slow

demo: install
	$(BIN)/python tools/demo.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
