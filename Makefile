# Needs python3 (3.11 or newer) with venv and pip; everything else goes into .venv.
# Of another Python: make PYTHON=python3.13 …

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTS ?=
PYTEST_FLAGS ?=
SOAK_REQUESTS ?= 10000000
# What the benchmark compares with; nothing in it is younger than two weeks at the time of choice.
LITELLM := 1.106.2
LITELLM_BY := 2026-11-07
# The newest that Python 3.11 can run.
CONTEXTFORGE := 1.0.7.post20260921

.PHONY: setup run test lint format unit unit-first unit-second bench bench-llm bench-mcp soak protos lock clean

setup: $(READY)

$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo 'error: $(PYTHON) is missing or older than 3.11; set PYTHON=…' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo 'error: $(PYTHON) cannot make a virtual environment;' \
	            'on Debian: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# A gateway on deploy/examples/quickstart.yaml and its upstream; Ctrl+C ends both.
run: $(READY)
	@$(BIN)/agentgateway-sidecar demo --gateway

test: lint unit

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The Python of istio's messages; tests/istio/test_protos.py says when it is due.
# `-I a=b`: a file in b is called as if it stood in a, which is where its Python goes.
protos: $(READY)
	$(BIN)/python -m grpc_tools.protoc -I istio/xds/_pb=istio/xds/protos \
	  -I istio/ca/_pb=istio/ca/protos --python_out=. --pyi_out=. \
	  istio/xds/protos/*.proto istio/ca/protos/*.proto

# Two halves side by side, of about the same length. Not by pytest-xdist: its runners have threads,
# and many tests fork.
unit: $(READY)
ifeq ($(strip $(TESTS)),)
	@$(MAKE) --no-print-directory --jobs=2 --keep-going unit-first unit-second
else
	$(BIN)/python -m pytest $(PYTEST_FLAGS) $(TESTS)
endif

FIRST_HALF := $(wildcard tests/integration/test_[j-z]*.py) tests/test_examples.py tests/shm tests/hbone
unit-first: $(READY)
	TEST_PORTS=10000-20999 $(BIN)/python -m pytest $(PYTEST_FLAGS) $(FIRST_HALF)

unit-second: $(READY)
	TEST_PORTS=21000-31999 $(BIN)/python -m pytest $(PYTEST_FLAGS) tests \
	  $(addprefix --ignore=,$(FIRST_HALF))

bench: $(READY)
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench.shm_bench
	$(BIN)/python -m tests.bench.llm_bench
	$(BIN)/python -m tests.bench.mcp_bench
	$(BIN)/python -m tests.bench.policy_bench
	$(BIN)/python -m tests.bench.hbone_bench
	$(BIN)/python -m tests.bench.waypoint_bench
	$(BIN)/python -m tests.bench.mesh_bench
	$(BIN)/python -m tests.bench.istio_bench
	$(BIN)/python -m tests.bench.mesh_gateway_bench

# With its section of docs/benchmarks.md; installs LiteLLM into .venv-litellm.
bench-llm: $(READY)
	$(BIN)/python -m tests.bench.llm_bench --write

# The same for MCP; installs ContextForge into .venv-contextforge.
bench-mcp: $(READY)
	$(BIN)/python -m tests.bench.mcp_bench --write

# Half an hour and more; fails when memory, files or threads grow.
soak: $(READY)
	SOAK_REQUESTS=$(SOAK_REQUESTS) $(BIN)/python -m pytest $(PYTEST_FLAGS) -m soak tests

# Versions and hashes of all that is installed, newest that pyproject.toml allows.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --custom-compile-command 'make lock'
lock:
	@command -v uv >/dev/null || { echo 'error: make lock needs uv' >&2; exit 1; }
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
	echo 'litellm[proxy]==$(LITELLM)' | $(LOCK) --exclude-newer $(LITELLM_BY) - -o requirements-litellm.lock
	echo 'mcp-contextforge-gateway==$(CONTEXTFORGE)' | $(LOCK) --exclude-newer $(LITELLM_BY) - \
	  -o requirements-contextforge.lock
	$(LOCK) --group build -c requirements-dev.lock -o requirements-build.lock

clean:
	rm -rf $(VENV) .venv-litellm .venv-contextforge tests/conformance/node/node_modules build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
