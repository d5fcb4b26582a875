"""Which kernels run: what docs/reference/instruction-sets.md says of them is what the tables say."""

import re
from pathlib import Path

import pytest

from prunetime import _engine
from prunetime.errors import EngineError
from prunetime.inference.engine import chosen_isa, supported_isas

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "instruction-sets.md"


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
