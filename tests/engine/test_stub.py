"""What types say of the engine is what the engine has."""

from pathlib import Path

import pytest
from nanobind import stubgen

from prunetime import _engine

ROOT = Path(__file__).parents[2]


def test_the_stub_is_that_of_this_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NB_STUBGEN", "1")  # which it sets for good
    monkeypatch.syspath_prepend("")
    made = tmp_path / "_engine.pyi"
    pattern = ROOT / "engine" / "bind" / "stub.pat"
    stubgen.main(["--quiet", "--exclude-values", "-p", str(pattern), "-m", _engine.__name__, "-o", str(made)])
    written = ROOT / "src" / "prunetime" / "_engine.pyi"
    assert written.read_text(encoding="utf-8") == made.read_text(encoding="utf-8"), "make stub writes it again"
