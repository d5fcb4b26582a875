"""One name, one type: no class or type alias of `src` has the name of another (generated modules apart); and a check is
hushed only for a reason that is said."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import prunetime

ROOT = Path(prunetime.__file__).parent


def types_of(source: str) -> set[str]:
    """The classes and the type aliases at the top of a module: names in CamelCase that a class or a value is given."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {each.id for each in targets if isinstance(each, ast.Name) and each.id[0].isupper()}
    return {name for name in found if not name.isupper()}


def defined_twice(sources: dict[str, str]) -> dict[str, list[str]]:
    modules = defaultdict(list)
    for module, source in sources.items():
        for name in types_of(source):
            modules[name].append(module)
    return {name: where for name, where in modules.items() if len(where) > 1}


def test_no_type_name_is_defined_twice() -> None:
    paths = [path for path in sorted(ROOT.rglob("*.py")) if not path.name.endswith("_pb2.py")]
    found = defined_twice({str(path.relative_to(ROOT)): path.read_text() for path in paths})
    assert found == {}


def test_a_planted_second_definition_is_found() -> None:
    planted = {
        "a": "class Batch: ...\nBATCH = 1",
        "b": "Batch = dict[str, int]\nBATCH = 1",
        "c": "Row: object = list[int]",
    }
    assert defined_twice(planted) == {"Batch": ["a", "b"]}
    assert types_of(planted["c"]) == {"Row"}


SUPPRESSED = re.compile(r"# (noqa\b|type: ignore)")
WITH_REASON = re.compile(r"# noqa: [A-Z0-9, ]+ \(\S.*\)$|# type: ignore\[[a-z-]+\]  # \S")


def without_reason(source: str) -> list[str]:
    """The lines that hush ruff or mypy, and do not say why."""
    return [line for line in source.splitlines() if SUPPRESSED.search(line) and not WITH_REASON.search(line)]


def test_what_hushes_a_check_says_why() -> None:
    for path in ROOT.rglob("*.py"):
        assert without_reason(path.read_text()) == [], path
    planted = ["import a  # noqa", "b()  # noqa: B018", "c()  # type: ignore[misc]"]
    assert (
        without_reason("\n".join([*planted, "d()  # noqa: B018 (why)", "e()  # type: ignore[misc]  # why"])) == planted
    )
