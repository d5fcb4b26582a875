"""What pyproject.toml has installed is what is imported."""

from __future__ import annotations

import ast
import re
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FOR_OTHERS = {
    "accelerate": "transformers' Trainer",
    "uvloop": "uvicorn, by its name",
    "httptools": "uvicorn",
}
"""Distributions that a library of ours needs for what we have it do."""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def extras() -> dict[str, set[str]]:
    """Distributions by extra; "" is what is always installed. Not with a TOML parser: Python 3.10 has none."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = re.findall(r"^([a-z-]+) = (\[.*?\])$", text, re.MULTILINE | re.DOTALL)
    found = {name: ast.literal_eval(items) for name, items in lists if name in ("dependencies", *NAMES)}
    return {
        name: {normalised(re.match(r"[\w.-]+", item)[0]) for item in items} - {"prunetime"}
        for name, items in found.items()
    }


NAMES = ("prune", "ray", "serve", "grpc", "client", "export", "bench", "demo")


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """Distributions of which the package imports a module."""
    modules = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    owners = packages_distributions()
    return {normalised(owner) for module in modules for owner in owners.get(module, ())}


@pytest.mark.parametrize("extra", ["dependencies", *NAMES])
def test_every_dependency_is_imported(extra: str, imported: set[str]) -> None:
    assert extras()[extra] - imported - FOR_OTHERS.keys() == set()


def test_exceptions_are_declared() -> None:
    assert FOR_OTHERS.keys() <= set().union(*extras().values())
