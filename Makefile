# make demo · make test · make stress · make check: each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# Bounded threads: two test processes share two cores.
TEST_ENV := OMP_NUM_THREADS=1 MPLBACKEND=Agg

.PHONY: demo test stress check format types reference wheel clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(RUN)/faster demo

# worksteal keeps neighbours together, as loadfile does, and hands on the tests of a worker that died. The modes that keep
# files or groups whole (loadfile, loadscope, loadgroup) can wait for ever after that: pytest-xdist issues 784, 1323, 1378.
test: $(VENV)/.installed
	$(TEST_ENV) $(RUN)/python -m pytest -n 2 --dist worksteal -m 'not stress'

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
