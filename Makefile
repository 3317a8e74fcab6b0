# `make fit` and `make test` are all a fresh machine needs: each makes .venv first.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

# ArviZ 1.x needs a later Python than ArviZ 0.23; the tests that ask either for anything pass under both.
PYTHON312 ?= python3.12
ARVIZ1_TESTS = $(shell grep -rlE 'evaluation\.diagnostics|pp_simve\.diagnose' tests)

.PHONY: fit test test-arviz1 lint docs bench clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

fit: .venv/installed  ## fit SimVE on the built-in digits; ARGS="--data cifar10" for more
	$(BIN)/python -m pp_simve.fit $(ARGS)

test: .venv/installed  ## run the tests; ARGS="-k guide" for some
	$(BIN)/python -m pytest -n auto $(ARGS)

.venv-arviz1/installed: pyproject.toml
	@$(PYTHON312) -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null || \
		{ echo "ArviZ 1.x needs Python 3.12 or later, and $(PYTHON312) is not: name one with PYTHON312=PATH"; exit 1; }
	$(PYTHON312) -m venv .venv-arviz1
	.venv-arviz1/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

test-arviz1: .venv-arviz1/installed  ## the tests of the diagnostics once more, under ArviZ 1.x; PYTHON312=PATH names a Python
	.venv-arviz1/bin/python -m pytest -n auto $(ARVIZ1_TESTS) $(ARGS)

# What mypy and the API reference read: neither can follow the editable layout.
define installed_wheel
rm -rf build
$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/site build/wheel/*.whl
endef

lint: .venv/installed  ## ruff, and mypy on an installed wheel (it cannot follow the editable layout)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(installed_wheel)
	cd build/site && ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml -p pp_simve

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

docs: .venv/docs  ## build the site into site/; its tutorials run
	$(installed_wheel)
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m mkdocs build --strict $(ARGS)

bench: .venv/installed  ## speed, as ratios measured side by side
	$(BIN)/python benchmarks/throughput.py $(ARGS)

clean:  ## remove what the other targets made, runs apart
	rm -rf .venv .venv-arviz1 build site *.egg-info
