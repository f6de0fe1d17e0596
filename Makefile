# Each target sets itself up: nothing but Python (>= 3.10) and make has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test parity lint

demo: $(VENV)/.serve-train
	$(BIN)/python export/demo.py --output_dir=demo_output

test: $(VENV)/.test
	KERAS_BACKEND=tensorflow $(BIN)/pytest -n 2 --dist loadfile -rs --durations=10
	KERAS_BACKEND=jax $(BIN)/pytest -n 2 tests/test_layers.py tests/test_models.py

parity: $(VENV)/.parity
	$(BIN)/pytest tests/test_parity_torch.py

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A stamp file says which extras the environment holds, and since when.
$(VENV)/.serve-train: setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[train,serve]'
	@touch $@

$(VENV)/.test: setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

$(VENV)/.parity: setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[parity]'
	@touch $@

$(VENV)/.lint: | $(BIN)/python
	$(BIN)/pip install --quiet 'ruff>=0.12,<1'
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
