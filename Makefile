# make demo · make test · make stress · make check: each sets up .venv by itself.
# Beside it: make test PYTHON=python3.13 VENV=build/py313. Other Pythons' PyTorch is some GB to download.
PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
RUN := $(VENV)/bin
# Bounded threads: two test processes share two cores.
TEST_ENV := OMP_NUM_THREADS=1 MPLBACKEND=Agg

.PHONY: demo test lowest newest stress check format types reference wheel clean

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(RUN)/faster demo

test: $(VENV)/.installed
	$(TEST_ENV) $(RUN)/python -m pytest -n 2 --dist loadfile -m 'not stress'

# The tests with the lowest versions that pyproject.toml allows, and with the newest: in environments of their own.
lowest: build/lowest.txt
	$(MAKE) test VENV=build/lowest CONSTRAINTS=build/lowest.txt

newest: build/newest.txt
	$(MAKE) test VENV=build/newest CONSTRAINTS=build/newest.txt

build/lowest.txt: pyproject.toml tests/support/lowest.py
	mkdir -p build && $(PYTHON) tests/support/lowest.py > $@

build/newest.txt: pyproject.toml
	mkdir -p build && rm -rf build/newest && touch $@

stress: $(VENV)/.installed
	$(TEST_ENV) $(RUN)/python -m pytest -m stress -s

check: $(VENV)/.installed types
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .

format: $(VENV)/.installed
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

# The root is the package, which mypy cannot see by itself: it checks through a link of the package's name.
types: $(VENV)/.installed
	mkdir -p build/types && ln -sfn ../.. build/types/faster
	MYPYPATH=build/types $(RUN)/python -m mypy -p faster --exclude 'faster/(tests|benchmarks|build|\.venv)/'

reference: $(VENV)/.installed
	$(RUN)/python tests/support/reference.py > docs/commands.md

wheel: $(VENV)/.installed
	$(RUN)/python -m build --outdir dist

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
