"""The examples in the docstrings of core say what happens."""

import doctest
from importlib import import_module

import pytest

OF_EXAMPLES = ("arch", "budget", "estimate", "mask", "precision")


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_examples(name: str) -> None:
    found = doctest.testmod(import_module(f"prunetime.core.{name}"))
    assert found.attempted
    assert not found.failed
