# Two commands do all set-up on a fresh machine: `make test` and `make demo`. Both use one virtual environment of their own and are quick the second time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: test demo lint install clean
install: $(VENV)/installed

# pip respects its own variables; PIP_EXTRA_INDEX_URL is the place for an index with CPU-only builds of torch.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf,lora,test]'
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

demo: install
	$(BIN)/python tools/demo.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
