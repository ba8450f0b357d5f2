# Set-up and checks. Needs Python 3.11 or newer, make and a package index; everything goes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.wsikit-env
MINORS := 311 312 313

BENCH_ENVS := benchmarks/envs

.PHONY: env demo test test-slow test-faults test-oldest bench bench-env bench-inputs bench-page bench-growth check docs constraints clean

env: $(STAMP)

# redone only when what is to be installed changes
$(STAMP): pyproject.toml $(wildcard constraints/*.txt)
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "wsikit needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	    "name another: make $(firstword $(MAKECMDGOALS) env) PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@minor=$$($(BIN)/python -c 'import sys; print("%d%d" % sys.version_info[:2])'); \
	  pins=constraints/py$$minor.txt; \
	  test -f $$pins || { echo "there is no $$pins: take a Python of $(MINORS) (PYTHON=...) or write it with" \
	    "'make constraints MINORS=$$minor'" >&2; exit 1; }; \
	  set -ex; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; \
	  $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c $$pins -e '.[nn,dev]'
	@touch $@

demo: env
	$(BIN)/wsikit samples -o samples --pyramid 6144
	$(BIN)/wsikit run -i samples -o demo-out -m nuclei

test: env
	$(BIN)/python -m pytest

test-slow: env
	$(BIN)/python -m pytest -m slow

# with the oldest versions that pyproject.toml allows, in an environment of their own
test-oldest: env
	test -x $(VENV)-oldest/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(VENV)-oldest
	$(BIN)/uv pip install --quiet --python $(VENV)-oldest/bin/python --resolution lowest-direct -e '.[nn,dev]'
	$(VENV)-oldest/bin/python -m pytest

# all of docs/reliability.md, 20 to 30 minutes; WSIKIT_SOAK_MINUTES=60 makes an hour of its last case
test-faults: env
	$(BIN)/python -m pytest -m '' tests/faults tests/conformance/test_workers.py tests/slides/test_bad_files.py \
	  tests/slides/test_fuzz.py tests/slides/test_hostile.py tests/slides/test_isolated.py \
	  $(addprefix tests/pipeline/test_,$(addsuffix .py,children cluster edges ledger lease lost_workers resume stamps))

# beside the peers of bench-env; BENCH='--quick' for a look, see benchmarks/bench.py --help
bench: env
	$(BIN)/python benchmarks/bench.py $(BENCH)

# peers in environments of their own; the toolkits, which do not fit beside each other, take 6 GB each, and the bench goes on without them
bench-env: env
	for name in readers lazyslide tiatoolbox; do \
	  test -x $(BENCH_ENVS)/$$name/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(BENCH_ENVS)/$$name; \
	done
	$(BIN)/uv pip install --quiet --python $(BENCH_ENVS)/readers/bin/python -r benchmarks/peers/readers.txt
	$(BIN)/uv pip install --quiet --python $(BENCH_ENVS)/readers/bin/python --no-deps -r benchmarks/peers/readers-nodeps.txt
	for name in lazyslide tiatoolbox; do \
	  $(BIN)/uv pip install --quiet --python $(BENCH_ENVS)/$$name/bin/python -r benchmarks/peers/$$name.txt || \
	    echo "$$name cannot be installed here: R6 and T1 go without it, and say so" >&2; \
	done

bench-inputs: env
	$(BIN)/python benchmarks/inputs.py

# docs/benchmarks.md from the newest result
bench-page: env
	$(BIN)/python benchmarks/page.py

bench-growth: env
	$(BIN)/python benchmarks/growth.py

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layout.py

docs: env
	$(BIN)/python docs/make_cli.py

# name==version lines only: no addresses, no hashes. pydantic: ome-zarr-models 1.7 fails with 2.13
constraints:
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	for minor in $(MINORS); do \
	  echo 'pydantic<2.13' | $(BIN)/uv pip compile --quiet --upgrade --no-annotate --no-header \
	    --no-emit-index-url --extra nn --extra dev --python-version 3.$${minor#3} \
	    pyproject.toml - -o constraints/py$$minor.txt || exit 1; \
	done

clean:
	rm -rf $(VENV) $(VENV)-oldest build dist *.egg-info samples demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis
