# `make fit` and `make test` are all a fresh machine needs: each makes .venv first.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: fit test lint bench clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

fit: .venv/installed  ## fit SimVE on the built-in digits; ARGS="--data cifar10" for more
	$(BIN)/python -m pp_simve.fit $(ARGS)

test: .venv/installed  ## run the tests; ARGS="-k guide" for some
	$(BIN)/python -m pytest -n auto $(ARGS)

lint: .venv/installed  ## ruff, and mypy on an installed wheel (it cannot follow the editable layout)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/site build/wheel/*.whl
	cd build/site && ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml -p pp_simve

bench: .venv/installed  ## speed, as ratios measured side by side
	$(BIN)/python benchmarks/throughput.py $(ARGS)

clean:  ## remove what the other targets made, runs apart
	rm -rf .venv build *.egg-info
