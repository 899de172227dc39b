# Two commands for a fresh machine: `make demo` runs the main job, `make test` the tests.
# Both set up .venv from requirements.lock first. Another PyTorch build (CPU only, another CUDA):
#   make setup TORCH_INDEX=<address of the wheel index that pytorch.org names for it>
# With LOCKED=1 every file must have a hash of requirements.hashes; torch of a TORCH_INDEX has none.

PYTHON ?= python3
TORCH_INDEX ?=
LOCKED ?=
MINUTES ?= 30
SEED ?= 0
TESTS ?=
BIN := .venv/bin

.PHONY: setup demo test test-long test-shuffled test-oldest test-newest docs fuzz chaos check format dist clean

setup: .venv/.ready

ifneq ($(TORCH_INDEX),)
.PHONY: .venv/.ready
endif

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "speechft needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(BIN)/pip install --quiet --force-reinstall --no-deps --index-url $(TORCH_INDEX) $(shell grep '^torch==' requirements.lock))
ifneq ($(LOCKED),)
	$(if $(TORCH_INDEX),grep -vE '^(torch|triton|nvidia-|cuda-)',cat) requirements.hashes > .venv/hashes
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement .venv/hashes
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
endif
	touch $@

demo: setup
	$(BIN)/speechft demo --out runs/demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

fuzz: setup
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz --minutes $(MINUTES) --found build/fuzz

test-long: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m long

test-shuffled: setup
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/pytest -n 0 -p shuffled --order $(SEED) $(TESTS)

# Both ends of what pyproject.toml allows, each in an environment of its own; TESTS="tests/merging ..."
# runs some. They take what an index has today, so they are not for continuous integration.
test-oldest:
	$(PYTHON) -m venv build/oldest
	$(PYTHON) tools/supply.py oldest > build/oldest/constraints.txt
	build/oldest/bin/pip install --quiet --constraint build/oldest/constraints.txt --editable '.[dev]'
	OMP_NUM_THREADS=1 build/oldest/bin/pytest -n 2 --dist loadfile $(TESTS)

test-newest:
	$(PYTHON) -m venv build/newest
	build/newest/bin/pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
	OMP_NUM_THREADS=1 build/newest/bin/pytest -n 2 --dist loadfile $(TESTS)

chaos: setup
	OMP_NUM_THREADS=1 nice $(BIN)/python tests/chaos --kills 500 --typed 50

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: setup
	$(BIN)/python tools/supply.py build

docs:
	$(PYTHON) -m venv build/docs
	build/docs/bin/pip install --quiet --requirement requirements.docs.lock
	PYTHONPATH=src build/docs/bin/mkdocs build --strict

clean:
	rm -rf .venv build dist
