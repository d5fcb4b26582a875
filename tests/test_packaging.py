"""What is released: built from source alone, installed where there is nothing else, small and quick to import."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from served import make_artifact

import prunetime

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.system

BROUGHT_BY_OTHERS = ("numpy", "tokenizers", "pip", "setuptools")
"""Whose size is not ours."""


def run(*command: str | Path, **settings: object) -> str:
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, **settings)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return str(ran.stdout)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` makes."""
    folder = tmp_path_factory.mktemp("dist")
    run("make", "dist", f"DIST={folder}", cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def python(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel and what it depends on."""
    venv = tmp_path_factory.mktemp("core") / "venv"
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin" / "pip", "install", "--quiet", *dist.glob("*.whl"))
    return venv / "bin" / "python"


def test_the_source_has_what_a_build_needs_and_no_more(dist: Path) -> None:
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "engine/CMakeLists.txt", "src/prunetime/py.typed"} <= names
    assert not [name for name in names if name.startswith((".ci", "bench/results", "build", "dist", ".venv"))]
    assert source.stat().st_size < 3e6


def test_the_wheel_is_for_any_linux_of_its_age(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    assert "manylinux" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "prunetime/py.typed" in names
    assert any(name.startswith("prunetime/_engine") and name.endswith(".so") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 5e6


def test_the_bill_of_materials_names_what_is_brought_along(dist: Path) -> None:
    bill = json.loads((dist / "sbom.json").read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    components = {each["name"]: each.get("version") for each in bill["components"]}
    assert components["prunetime"] == prunetime.__version__
    assert {"numpy", "tokenizers", "safetensors", "click"} <= components.keys()


def test_the_core_alone_scores(python: Path, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "artifact")
    command = python.parent / "prunetime"
    found = json.loads(run(command, "score", artifact, "--text", "red sofa", "--pair", "a red lamp", "--json"))
    expected = prunetime.load(artifact).score([("red sofa", "a red lamp")])
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-6)
    assert json.loads(run(command, "doctor", "--json"))["isa"]
    needed = subprocess.run(
        [command, "prune", "--model", "x", "--data", "y", "--latency", "1ms", "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
    )
    assert needed.returncode == 2
    assert re.fullmatch(r"error: \w+ is not installed: pip install 'prunetime\[prune\]'\n", needed.stderr)
    refused = subprocess.run([python, "-c", "import prunetime; prunetime.prune"], capture_output=True, text=True)
    assert re.search(r"prunetime.prune needs \w+: pip install 'prunetime\[prune\]'", refused.stderr)


def test_the_core_imports_little_and_is_small(python: Path) -> None:
    script = "import sys, prunetime; print(*{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    imported = {name for name in run(python, "-c", script).split() if not name.startswith("_")}
    assert imported == {"numpy", "prunetime", "safetensors", "tokenizers"}
    listing = (
        "import importlib.metadata as m, json; print(json.dumps({d.metadata['Name']: "
        "[sum(f.locate().stat().st_size for f in d.files if f.locate().is_file()), d.requires or []] "
        "for d in m.distributions() if d.files}))"
    )
    sizes = json.loads(run(python, "-c", listing))
    outside = set(dependencies(sizes, "tokenizers")) | set(BROUGHT_BY_OTHERS)
    ours = {name: size for name, (size, _) in sizes.items() if name not in outside}
    assert {"prunetime", "safetensors", "click"} <= ours.keys()
    assert sum(ours.values()) < 60e6, ours


def dependencies(sizes: dict[str, list], name: str) -> Iterable[str]:
    """What `name` needs, of what is installed."""
    seen, left = set(), [name]
    while left:
        current = left.pop()
        if current in seen or current not in sizes:
            continue
        seen.add(current)
        needed = (requirement.split(";")[0] for requirement in sizes[current][1] if "extra ==" not in requirement)
        left += [
            requirement.strip().split(" ")[0].split("<")[0].split(">")[0].split("=")[0].split("!")[0].split("[")[0]
            for requirement in needed
        ]
    return seen - {"numpy", "click", "safetensors"}
