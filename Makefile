# make demo · make test · make stress · make check · make docs: each sets up .venv by itself.
# Beside it: make test PYTHON=python3.13 VENV=build/py313. Other Pythons' PyTorch is some GB to download.
# ISA=avx2 has oneDNN and ATen compute as on a processor with AVX2 and no more; THREADS=2 gives each test process two threads.
PYTHON ?= python3
ISA ?= native
THREADS ?= 1
VENV := .venv
CONSTRAINTS := constraints.txt
RUN := $(VENV)/bin
CAP_native :=
CAP_avx2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
$(if $(filter native avx2,$(ISA)),,$(error ISA is '$(ISA)'; native and avx2 are known))
$(if $(filter 1 2,$(THREADS)),,$(error THREADS is '$(THREADS)'; 1 and 2 are known))
# Bounded threads: the test processes share two cores.
# Passive: a thread that waits leaves its core to the others, also where other programs run.
TEST_ENV := OMP_NUM_THREADS=$(THREADS) OMP_WAIT_POLICY=PASSIVE MPLBACKEND=Agg $(CAP_$(ISA))
PROCESSES_1 := 2
PROCESSES_2 := 1
# worksteal keeps neighbours together, as loadfile does, and hands on the tests of a worker that died. The modes that keep
# files or groups whole (loadfile, loadscope, loadgroup) can wait for ever after that: pytest-xdist issues 784, 1323, 1378.
PYTEST := $(TEST_ENV) $(RUN)/python -m pytest -n $(PROCESSES_$(THREADS)) --dist worksteal -m 'not stress'
# What the processor and the number of threads can change: backbones, frozen ones, stage one, aggregators, precision.
NUMERIC := tests/extract/backbones tests/extract/train_backbone tests/aggregate/models

.PHONY: demo test test-numeric lowest newest stress check format types reference docs wheel clean

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(RUN)/faster demo

test: $(VENV)/.installed
	$(PYTEST)

test-numeric: $(VENV)/.installed
	$(PYTEST) $(NUMERIC)

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
	MYPYPATH=build/types $(RUN)/python -m mypy -p faster --exclude 'faster/(tests|benchmarks|examples|build|\.venv)/'
	# Of the benchmarks, only that what they name is still there.
	MYPYPATH=build/types:benchmarks $(RUN)/python -m mypy --config-file= --ignore-missing-imports --implicit-reexport \
		--explicit-package-bases $(addprefix --disable-error-code=,misc arg-type union-attr func-returns-value name-defined list-item) \
		benchmarks/*.py benchmarks/ucf6/*.py

reference: $(VENV)/.installed
	$(RUN)/python tests/support/reference.py > docs/commands.md

$(VENV)/.docs: $(VENV)/.installed
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[docs]'
	touch $@

# A broken link, an anchor that no heading has, or a docstring that does not parse is an error. Built anew each time, as a
# page that did not change can link to one that did.
docs: $(VENV)/.docs
	OMP_NUM_THREADS=$(THREADS) $(RUN)/python -m sphinx -W --keep-going --fresh-env -q -b html -d build/doctrees docs build/docs
	@echo build/docs/index.html

wheel: $(VENV)/.installed
	$(RUN)/python -m build --outdir dist

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
