# make demo: set everything up, distill, say how to chat.   make test: set everything up, run the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyPI's torch for Linux brings several GB of CUDA. From here comes torch alone: as PIP_EXTRA_INDEX_URL this would replace
# the extra indexes of pip's settings and, where it can't be reached, be waited for at every package.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: demo test check bench clean

demo: $(VENV)/.ready
	$(BIN)/potstill run recipes/demo.toml --run runs/demo
	@echo 'So that "potstill" is found:  . $(BIN)/activate'

test: $(VENV)/.ready
	$(BIN)/python -m pytest

check: $(VENV)/.ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/signals_throughput.py
	$(BIN)/python benchmarks/train_throughput.py

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"potstill needs Python 3.11 or newer, this is {v[0]}.{v[1]}; try: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing potstill and its libraries into $(VENV) (about 1.8 GB, a minute or two) ..."
	@test -z '$(TORCH_INDEX)' || $(BIN)/python -m pip install --quiet --timeout 10 --retries 1 --constraint constraints.txt --no-deps --index-url '$(TORCH_INDEX)' torch 2> /dev/null \
		|| echo "No torch from $(TORCH_INDEX): taking PyPI's, on Linux several GB more ..."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist
