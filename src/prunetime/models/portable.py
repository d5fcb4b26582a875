"""The code of our transformers classes, which folders bring along that are loaded where prunetime is not installed."""

from __future__ import annotations

import re
from pathlib import Path

_OURS = re.compile(r"^from prunetime\.([\w.]+) import", re.MULTILINE)
_PACKAGE = Path(__file__).parents[1]


def modules_of(module: str) -> dict[str, str]:
    """Returns the code of `module` and of every module of ours that it imports, by file name: the last part of the
    module's name, by which they import each other."""
    found: dict[str, str] = {}
    left = [module.removeprefix("prunetime.")]
    while left:
        path = left.pop()
        name = path.rpartition(".")[2]
        if f"{name}.py" in found:
            continue
        code = (_PACKAGE / f"{path.replace('.', '/')}.py").read_text(encoding="utf-8")
        left += _OURS.findall(code)
        found[f"{name}.py"] = _OURS.sub(lambda match: f"from .{match[1].rpartition('.')[2]} import", code)
    return found
