"""Which kernels run: what docs/reference/instruction-sets.md says of them is what the tables say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sanitizers import run_tool

from prunetime import _engine
from prunetime.errors import EngineError
from prunetime.inference.engine import chosen_isa, supported_isas

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "engine"
PAGE = ROOT / "docs" / "reference" / "instruction-sets.md"


def test_the_page_has_every_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    tables = [(name, ", ".join(needs) or "nothing", cpus) for name, cpus, needs in _engine.isa_tables()]
    assert rows[: len(tables)] == tables, "those of another kind of CPU come after `portable`"
    assert len(tables) in (1, len(rows))


def test_a_table_runs_where_all_that_it_needs_is_there() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    can = [name for name, _, needs in _engine.isa_tables() if set(needs) <= flags]
    assert supported_isas() == can


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRUNETIME_ISA", raising=False)
    assert chosen_isa() == supported_isas()[-1]
    monkeypatch.setenv("PRUNETIME_ISA", "portable")
    assert chosen_isa() == "portable"
    monkeypatch.setenv("PRUNETIME_ISA", "sse9")
    with pytest.raises(EngineError, match="PRUNETIME_ISA is 'sse9'; this CPU runs portable"):
        chosen_isa()


@pytest.mark.full
def test_no_table_has_a_function_that_others_might_be_linked_to(tmp_path: Path) -> None:
    """A weak symbol of an object compiled for some CPUs could be the copy that the linker keeps for all of them."""
    run_tool("cmake", "-S", str(ENGINE), "-B", str(tmp_path), f"-DPython_EXECUTABLE={sys.executable}")
    run_tool("cmake", "--build", str(tmp_path), "--target", "engine", "--parallel", str(os.cpu_count()))
    objects = [path for path in tmp_path.rglob("kernels/*.o") if path.stem != "dispatch.cpp"]
    assert len(objects) >= len(_engine.isa_tables())
    for path in objects:
        symbols = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
        assert not re.findall(r" [uVvWw] \w+", symbols), path
