# make demo, make test: everything else is made by them. PYTHON chooses the interpreter of the new .venv.
PYTHON ?= python3
SECONDS ?= 60
BIN := .venv/bin
SANITIZED := $(BIN)/python tests/sanitizers.py
ENGINE := $(shell find engine -type f) pyproject.toml constraints.txt

.PHONY: demo test test-full test-system lint clean sanitize sanitize-address sanitize-thread sanitize-fuzz fuzz

demo: .venv/demo
	$(BIN)/prunetime demo

test: .venv/dev
	$(BIN)/python -m pytest

test-full: .venv/dev
	$(BIN)/python -m pytest -m full

test-system: .venv/dev
	$(BIN)/python tests/system_packages.py
	$(BIN)/python -m pytest -m system

sanitize: sanitize-address sanitize-thread sanitize-fuzz

sanitize-address: .venv/dev
	$(SANITIZED) address -m pytest tests/engine tests/runtime/test_engine.py -k "not long_and_many"

sanitize-thread: .venv/dev
	$(SANITIZED) thread -m pytest tests/engine tests/runtime/test_engine.py -k "threads or chunks or concurrent"

sanitize-fuzz: .venv/dev
	$(SANITIZED) fuzz tests/fuzz_engine.py -max_total_time=20

fuzz: .venv/dev
	$(SANITIZED) fuzz tests/fuzz_engine.py -max_total_time=$(SECONDS)

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/pip $(ENGINE)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

.venv/dev: .venv/bin/pip $(ENGINE)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ .venv/demo
