# make demo, make test: everything else is made by them. PYTHON chooses the interpreter of the new .venv.
PYTHON ?= python3
SECONDS ?= 60
BIN := .venv/bin
ENGINE := $(shell find engine -type f) pyproject.toml constraints.txt

.PHONY: demo test test-full test-system sanitize fuzz lint clean

demo: .venv/demo
	$(BIN)/prunetime demo

test: .venv/dev
	$(BIN)/python -m pytest

test-full: .venv/dev
	$(BIN)/python -m pytest -m full

test-system: .venv/dev
	$(BIN)/python tests/system_packages.py
	$(BIN)/python -m pytest -m system

sanitize: .venv/dev
	$(BIN)/python tests/sanitizers.py address -m pytest tests/engine tests/runtime/test_engine.py
	$(BIN)/python tests/sanitizers.py thread -m pytest tests/engine tests/runtime/test_engine.py \
		-k "threads or chunks or concurrent"
	$(BIN)/python tests/sanitizers.py fuzz tests/fuzz_engine.py -max_total_time=20

fuzz: .venv/dev
	$(BIN)/python tests/sanitizers.py fuzz tests/fuzz_engine.py -max_total_time=$(SECONDS)

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
