"""What the real clients are asked to do, and what they should get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

QUERY = "red sofa"
DOCUMENTS = ["lamp for the bath", "a sofa with red legs", "sofa"]
TEXTS = ["red sofa", "a lamp for the bath, \u00fcber", "sofa"]
QUESTION, CONTEXT = "which legs", "a sofa with red legs stands beside a lamp for the bath"
SENTENCE = "a sofa with red legs"
TOP = 2


@dataclass(frozen=True)
class World:
    """Servers by the name of their default model (`urls`, and `grpc` as HOST:PORT), and what the models say without a
    server (`expected`)."""

    urls: dict[str, str]
    grpc: dict[str, str]
    expected: dict[str, Any]


@dataclass(frozen=True)
class Call:
    """What is asked of a client of a `package`, as the page shows it.

    `ask` gives numbers or texts, which should be those of `expected` by name, or raises an error that says `refused`.
    """

    package: str
    shown: str
    ask: Callable[[World], Any]
    expected: str = ""
    refused: str = ""
