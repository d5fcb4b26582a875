"""Real clients, unpatched, against real servers. `PRUNETIME_WRITE_DOCS=1` writes docs/reference/clients.md."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from world import Call, World

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "clients.md"

NEEDS = {
    "triton": ("tritonclient", "kserve"),
    "triton_grpc": ("tritonclient", "kserve"),
    "openai_client": ("openai",),
    "huggingface": ("huggingface_hub",),
    "rerank": ("cohere", "rerankers", "litellm"),
    "frameworks": ("langchain_openai", "llama_index", "haystack"),
}
"""The packages that each file of calls imports. Those of tests/clients/requirements.txt are all of them; the project's
own environment has some, and these are tested in the gate."""

INSTALLED = [file for file, packages in NEEDS.items() if all(map(find_spec, packages))]
CALLS: list[Call] = [call for file in INSTALLED for call in importlib.import_module(file).CALLS]

INTRODUCTION = """\
# Clients

What clients of other projects get from `prunetime serve`, as they come: `make test-clients` asks every one, in an
environment of their own with the versions below, and compares with this page. Values are those of the loaded model
(`prunetime.load(...)`), numbers to 1e-6. What is refused, the client shows as an error that says the words beside it.

| client | version | call | |
|---|---|---|---|
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    python = os.environ.get("PRUNETIME_PYTHON", sys.executable)
    command = [python, str(Path(__file__).with_name("servers.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as servers:
        assert servers.stdout
        yield World(**json.loads(servers.stdout.readline()))
        servers.communicate()


def names(call: Call) -> str:
    return f"{call.package}: {call.shown}"


@pytest.mark.parametrize("call", CALLS, ids=names)
def test_call(world: World, call: Call) -> None:
    if call.refused:
        with pytest.raises(Exception) as wrong:  # noqa: PT011 (each client has its own)
            call.ask(world)
        assert call.refused in str(wrong.value)
        return
    found = plain(call.ask(world))
    assert close(found, world.expected[call.expected]), found


def plain(found: Any) -> Any:
    """Arrays as lists."""
    return found.tolist() if hasattr(found, "tolist") else found


def close(found: Any, expected: Any) -> bool:
    """Whether both are alike: lists of the same length, numbers to 1e-6, and all else equal."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, map(plain, found), expected))
    if isinstance(expected, float):
        return abs(found - expected) <= 1e-6
    return bool(found == expected)


def row(call: Call) -> str:
    return f"| {call.package} | {version(call.package)} | {call.shown} | {what(call)} |"


def what(call: Call) -> str:
    if call.refused:
        return f"refused: {call.refused}"
    return "as said" if call.expected in ("ready", "both ready", "state", "models") else "the model's own values"


def test_the_page_says_what_happens() -> None:
    if os.environ.get("PRUNETIME_WRITE_DOCS"):
        assert list(NEEDS) == INSTALLED, "the page is of all clients: make test-clients"
        PAGE.write_text(INTRODUCTION + "\n".join(map(row, CALLS)) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8").splitlines()
    if list(NEEDS) == INSTALLED:
        assert page == (INTRODUCTION + "\n".join(map(row, CALLS))).splitlines()
    else:  # of other versions, perhaps
        said = {tuple(line.split(" | ")[2:]) for line in page}
        assert [call for call in CALLS if tuple(row(call).split(" | ")[2:]) not in said] == []
