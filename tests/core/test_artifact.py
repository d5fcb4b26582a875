"""An artifact is written whole or not at all, and nothing damaged is read."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from cases import random_config, random_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunetime.core import artifact
from prunetime.core.arch import ArchSpec
from prunetime.core.artifact import MANIFEST, WEIGHTS, Manifest
from prunetime.core.precision import PrecisionPlan
from prunetime.core.task import Task
from prunetime.errors import ArtifactError, InputError

TOKENIZER = b'{"version": "1.0"}'


def make(folder: Path, seed: int = 0) -> tuple[Manifest, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    config = random_config(rng, outputs=2)
    spec = ArchSpec.full(config.dims).with_layer(0, heads=1)
    weights = random_weights(config, spec, rng)
    manifest = Manifest(
        config, spec, PrecisionPlan(), Task("classification", ("0", "1"), ("a", "b"), 8), {"model": "made"}
    )
    artifact.write(folder, manifest, weights, {"tokenizer.json": TOKENIZER})
    return manifest, weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "model")
    return tmp_path / "model"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest, weights = make(tmp_path / "model", seed=3)
    found = artifact.read(tmp_path / "model")
    assert found.manifest == manifest
    assert found.tokenizer == TOKENIZER
    assert {name: array.tobytes() for name, array in found.weights.items()} == {
        name: array.tobytes() for name, array in weights.items()
    }


def test_files_beside_manifest_and_weights_are_passed_on(tmp_path: Path) -> None:
    """As a finished run does with those of its candidate: sentence-transformers needs each of them."""
    manifest, weights = make(tmp_path / "first")
    files = {"tokenizer.json": TOKENIZER, "modules.json": b"[]", "1_Pooling/config.json": b"{}"}
    artifact.write(tmp_path / "candidate", manifest, weights, files)
    assert artifact.other_files(tmp_path / "candidate") == files


@pytest.mark.parametrize(
    ("umask", "file", "below"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0o077, 0o600, 0o700)]
)
def test_every_file_has_the_mode_of_a_new_one(umask: int, file: int, below: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        made = make(tmp_path / "model")[0]
        found = artifact.read(tmp_path / "model")
        more = {"tokenizer.json": TOKENIZER, "1_Pooling/config.json": b"{}"}
        artifact.write(tmp_path / "nested", made, found.weights, more)
        (tmp_path / "model" / WEIGHTS).chmod(0o600)  # as of an older version
        artifact.copy_folder(tmp_path / "model", tmp_path / "copy")
    finally:
        os.umask(before)
    for folder in (tmp_path / "nested", tmp_path / "copy"):
        modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
        folders = {path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*")) if path.is_dir()}
        assert (modes, folders) == ({file}, {below})


def test_format_1_is_read(folder: Path) -> None:
    manifest = artifact.read(folder).manifest

    def as_format_1(data: dict) -> None:
        data["format"] = 1
        data["plan"]["default"] = {"precision": "fp32", "block": None}
        del data["config"]["separator"], data["config"]["rows"]

    edit(folder, as_format_1)
    assert artifact.read(folder).manifest == manifest


def test_the_same_model_is_the_same_bytes(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    for name in (WEIGHTS, MANIFEST, "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def edit(folder: Path, change: Callable[[dict], None]) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    (folder / MANIFEST).write_text(json.dumps(data))


BLOCK = {"matrix": "key", "rows": 32, "columns": 32, "kept": 1}

DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-8]), "truncated"),
    "tampered": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-8] + b"\0\0\0\0\0\0\0\1"),
        "sha256 is not",
    ),
    "missing weights": (lambda f: (f / WEIGHTS).unlink(), "cannot read"),
    "missing manifest": (lambda f: (f / MANIFEST).unlink(), "is no artifact"),
    "newer": (lambda f: edit(f, lambda d: d.update(format=3)), "format 3; this version reads up to 2: upgrade"),
    "no number": (lambda f: edit(f, lambda d: d.update(format="1")), "format '1'"),
    "not JSON": (lambda f: (f / MANIFEST).write_text("{"), "is no manifest"),
    "deep": (lambda f: (f / MANIFEST).write_text("[" * 100_000), "is no manifest"),
    "a list": (lambda f: (f / MANIFEST).write_text("[]"), "is no manifest"),
    "another spec": (lambda f: edit(f, lambda d: d["spec"][0].update(heads=2)), "asks for|outside|0 to 1"),
    "above": (lambda f: edit(f, lambda d: d["files"].update({"a/../x": {}})), "plain files only"),
    "hidden": (lambda f: edit(f, lambda d: d["files"].update({"a/.x": {}})), "plain files only"),
    "two folders down": (lambda f: edit(f, lambda d: d["files"].update({"a/b/x": {}})), "plain files only"),
    "absolute": (lambda f: edit(f, lambda d: d["files"].update({"/etc/passwd": {}})), "plain files only"),
    "outside": (lambda f: edit(f, lambda d: d["files"].update({"../x": {}})), "plain files only"),
    "no config": (lambda f: edit(f, lambda d: d.pop("config")), "config"),
    "unlisted weights": (lambda f: edit(f, lambda d: d["files"].pop(WEIGHTS)), "lists no model.safetensors"),
    "another block": (
        lambda f: edit(f, lambda d: d["spec"][0].update(blocks=[BLOCK])),
        "layers.0.key.blocks",
    ),
    "sizes that are no numbers": (
        lambda f: edit(f, lambda d: d["spec"][0].update(blocks=[{**BLOCK, "rows": "a"}])),
        "no block count",
    ),
    "a plan of more layers": (
        lambda f: edit(
            f, lambda d: d["plan"].update(exceptions=[{"layer": 9, "matrix": "ffn_input", "plan": {"sparse": False}}])
        ),
        "plan names layer 9",
    ),
    "bad task": (lambda f: edit(f, lambda d: d["task"].update(kind="poem")), "poem"),
    "unknown family": (lambda f: edit(f, lambda d: d["config"].update(family="gpt2")), "supported: bert"),
    "files": (lambda f: edit(f, lambda d: d.update(files=[1])), "object of digests"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(folder: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(ArtifactError, match=message):
        artifact.read(folder)


def test_what_was_made_of_changed_weights_is_not_given_out(folder: Path) -> None:
    with artifact.opened(folder) as found:
        assert found.manifest == artifact.read(folder).manifest
    DAMAGE["tampered"][0](folder)
    with pytest.raises(ArtifactError, match="sha256 is not"), artifact.opened(folder):
        pass
    with pytest.raises(ArtifactError, match="sha256 is not"), artifact.opened(folder):
        raise ValueError("a consequence of what was changed")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60, deadline=None
)
@given(st.data())
def test_no_changed_byte_of_a_manifest_gets_another_error_than_ours(folder: Path, data: st.DataObject) -> None:
    content = bytearray((folder / MANIFEST).read_bytes())
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (copy / MANIFEST).write_bytes(bytes(content))
    with suppress(ArtifactError):
        artifact.read(copy)


def test_weights_that_are_not_finite_or_not_the_specs_are_not_written(tmp_path: Path) -> None:
    manifest, weights = make(tmp_path / "model")
    broken = {**weights, "head.output.bias": np.array([np.nan, 0], np.float32)}
    files = {"tokenizer.json": TOKENIZER}
    with pytest.raises(InputError, match=r"head.output.bias holds a number that is not finite"):
        artifact.write(tmp_path / "other", manifest, broken, files)
    with pytest.raises(InputError, match="missing"):
        artifact.write(tmp_path / "other", manifest, {}, files)
    with pytest.raises(InputError, match="needs tokenizer"):
        artifact.write(tmp_path / "other", manifest, weights, {})
    with pytest.raises(InputError, match="exists"):
        artifact.write(tmp_path / "model", manifest, weights, files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    manifest, weights = make(tmp_path / "model")
    files = {"tokenizer.json": TOKENIZER, "big": b"x", "no/where/file": b"no folder: as a disk that fails midway"}
    with pytest.raises(InputError, match=r"cannot write .*; free some space"):
        artifact.write(tmp_path / "other", manifest, weights, files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_folder_that_no_file_system_takes_is_no_artifact() -> None:
    for folder, says in (("x" * 300, "cannot read .*File name too long"), ("a\0b", "is no artifact")):
        with pytest.raises(ArtifactError, match=says):
            artifact.read(folder)
