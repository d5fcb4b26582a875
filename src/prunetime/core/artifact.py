"""The artifact: a folder with a pruned model, all that is needed to run it, and a digest of every byte of it.

Reading one executes nothing from it and believes nothing that it has not checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file as save_safetensors

from prunetime.core.arch import ArchSpec
from prunetime.core.arrays import Weights
from prunetime.core.blocks import INDEX_ARRAYS, check_blocks
from prunetime.core.config import FAMILIES, EncoderConfig
from prunetime.core.positions import BUCKETS
from prunetime.core.precision import PrecisionPlan
from prunetime.core.safetensors import parse
from prunetime.core.task import Task
from prunetime.errors import ArtifactError, InputError

FORMAT = 2
"""The format that is written. Format 1, which had neither blocks nor dropped tokens and ran in fp32, is read too."""

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"

PLAIN_FILE = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")
"""In an artifact, or in a folder of it (`1_Pooling/config.json`)."""

_MAX_MANIFEST_BYTES = 16 * 2**20

_READERS, _PIECE_BYTES = 2, 8 * 2**20
"""One thread copies from the page cache at 1.5 GB/s, far below what memory gives."""


@dataclass(frozen=True)
class Manifest:
    """The description of an artifact. `provenance` is free-form JSON: where the model came from, what was measured."""

    config: EncoderConfig
    spec: ArchSpec
    plan: PrecisionPlan
    task: Task
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config.check(self.spec)
        self.plan.check(self.spec)
        if self.task.outputs not in (None, self.config.outputs):
            raise InputError(f"the model has {self.config.outputs} outputs, its task needs {self.task.outputs}")
        if self.task.max_length > self.config.dims.positions:
            raise InputError(
                f"sequences of {self.task.max_length} tokens; the model has {self.config.dims.positions} positions"
            )

    def to_json(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).to_json() for name in ("config", "spec", "plan", "task")}
        return {"format": FORMAT, **parts, "provenance": dict(self.provenance)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        config, task = EncoderConfig.from_json(data["config"]), Task.from_json(data["task"])
        if task.rows == "embedding" and "embedding" not in data["task"]:
            # Written before manifests said how embeddings are used: they were all scaled to length 1.
            config = replace(config, normalize=True)
        spec = ArchSpec.from_json(data["spec"])
        plan = PrecisionPlan.from_json(data["plan"]) if data["format"] > 1 else PrecisionPlan()
        return cls(config, spec, plan, task, data["provenance"])


@dataclass(frozen=True)
class Artifact:
    """A checked artifact: its `manifest`, its `weights` by name, and its `tokenizer` (the bytes of tokenizer.json).

    `digests` are the SHA-256 of its files by name.
    """

    folder: Path
    manifest: Manifest
    tokenizer: bytes
    digests: Mapping[str, str]
    _content: Future[NDArray[np.uint8]] = field(repr=False)

    @cached_property
    def weights(self) -> Weights:
        """Waits for the file where it is still being read; raises ArtifactError as `read` does."""
        content = self._content.result()
        try:
            weights = parse(content)
        except ValueError as error:
            raise ArtifactError(f"{self.folder / WEIGHTS} is no safetensors file: {error}") from error
        try:
            check_weights(weights, self.manifest.config, self.manifest.spec)
        except InputError as error:
            raise ArtifactError(f"{self.folder / MANIFEST}: {error}") from error
        return weights


def read(folder: str | Path) -> Artifact:
    """Reads and checks an artifact.

    Raises:
        ArtifactError: the folder is no artifact, a file is missing, truncated or changed, the format is newer than
            this version reads, or the weights are not those the manifest's spec asks for.
    """
    with opened(folder) as found:
        _check_finite(found.folder, found.weights)
        return found


@contextmanager
def opened(folder: str | Path) -> Iterator[Artifact]:
    """An artifact whose weights are still being read, and the digests of its files computed.

    What is made of it counts only once the block has ended, which raises as `read` does. That the weights are finite is
    left to who uses them.
    """
    folder = Path(folder)
    data = _read_manifest(folder)
    entries = data["files"]
    for name in (WEIGHTS, TOKENIZER):
        if name not in entries:
            raise ArtifactError(f"{folder / MANIFEST} lists no {name}: write the artifact again")
    with ThreadPoolExecutor(2) as background:  # the largest file, and beside it the others
        names = sorted(entries, key=lambda name: name != WEIGHTS)
        contents = {name: background.submit(_read_file, folder, name, entries[name]) for name in names}
        digests = background.submit(_check_digests, folder, contents, entries)
        try:
            try:
                manifest = Manifest.from_json(data)
            except (InputError, KeyError, TypeError, AttributeError) as error:
                raise ArtifactError(f"{folder / MANIFEST}: {error}") from error
            sha256 = {name: entry["sha256"] for name, entry in entries.items()}
            yield Artifact(folder, manifest, contents[TOKENIZER].result().tobytes(), sha256, contents[WEIGHTS])
        finally:
            digests.result()


def write(folder: str | Path, manifest: Manifest, weights: Weights, files: Mapping[str, bytes]) -> Path:
    """Writes an artifact whole or not at all; `files` are further files by name (`tokenizer.json` is required).

    Raises:
        InputError: the weights do not fit the spec, the folder exists, or the disk is full.
    """
    folder = Path(folder)
    check_weights(weights, manifest.config, manifest.spec)
    _check_finite(folder, weights)
    if TOKENIZER not in files:
        raise InputError(f"an artifact needs {TOKENIZER}")
    if folder.exists():
        raise InputError(f"{folder} exists: choose another folder or remove it")
    with replacing_folder(folder) as temporary:
        arrays = {name: np.ascontiguousarray(weights[name]) for name in sorted(weights)}
        save_safetensors(arrays, temporary / WEIGHTS, metadata={"format": "pt"})
        for name, content in files.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(content)
        entries = {name: _entry(path.read_bytes()) for name, path in _files(temporary).items()}
        write_json(temporary / MANIFEST, manifest.to_json() | {"files": entries})
    return folder


def other_files(folder: Path) -> dict[str, bytes]:
    """The contents of all files of an artifact but its manifest and its weights, by their names."""
    return {name: path.read_bytes() for name, path in _files(folder).items() if name not in (MANIFEST, WEIGHTS)}


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def weight_shapes(config: EncoderConfig, spec: ArchSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of a compact model. Matrices are [output channels, inputs].

    One that is pruned in blocks has the arrays of `prunetime.core.blocks` in place of its weight.
    """
    dims, hidden, embedding = config.dims, config.dims.hidden, config.embedding
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word.weight": (dims.vocabulary, embedding),
        "embeddings.norm.weight": (embedding,),
        "embeddings.norm.bias": (embedding,),
    }
    shapes |= config.head_shapes
    family = FAMILIES[config.family]
    if not family.rotary:
        shapes["embeddings.position.weight"] = (dims.positions, embedding)
    if family.token_types:
        shapes["embeddings.token_type.weight"] = (config.token_types, embedding)
    if config.projects:
        shapes |= {"embeddings.project.weight": (hidden, embedding), "embeddings.project.bias": (hidden,)}
    if family.pre_norm:
        shapes |= {"final_norm.weight": (hidden,), "final_norm.bias": (hidden,)}
    for index, layer in enumerate(spec.layers):
        prefix = f"layers.{index}."
        for matrix, (rows, columns) in layer.matrix_shapes(dims).items():
            block = layer.blocks_of(matrix)
            if block is None:
                shapes[f"{prefix}{matrix}.weight"] = (rows, columns)
            else:
                shapes[f"{prefix}{matrix}.blocks"] = (block.kept, block.rows, block.columns)
                shapes[f"{prefix}{matrix}.block_index"] = (block.kept,)
            shapes[f"{prefix}{matrix}.bias"] = (rows,)
        if layer.has_attention and family.relative_positions:
            shapes[f"{prefix}position_bias"] = (layer.heads, BUCKETS)
        for present, norm, rows_name, rows in (
            (layer.has_attention, "attention_norm", "attention_rows", layer.attention_rows),
            (layer.has_ffn, "ffn_norm", "ffn_rows", layer.ffn_rows),
        ):
            if not present:
                continue
            if config.has_norm(index, norm):
                shapes |= {f"{prefix}{norm}.weight": (hidden,), f"{prefix}{norm}.bias": (hidden,)}
            if rows < hidden:
                shapes[prefix + rows_name] = (rows,)
    return shapes


def check_weights(weights: Weights, config: EncoderConfig, spec: ArchSpec) -> None:
    """Raises InputError where names, shapes, types or indices are not those of a compact model of `spec`."""
    expected = weight_shapes(config, spec)
    missing, unexpected = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unexpected:
        raise InputError(f"weights do not fit the spec: missing {missing[:3]}, unexpected {unexpected[:3]}")
    for name, shape in expected.items():
        array = weights[name]
        dtype = np.int32 if name.endswith(INDEX_ARRAYS) else np.float32
        if array.shape != shape or array.dtype != dtype:
            raise InputError(f"{name} is {array.dtype} {array.shape}; the spec asks for {np.dtype(dtype)} {shape}")
        if name.endswith("_rows") and (np.any(np.diff(array) <= 0) or array[0] < 0 or array[-1] >= config.dims.hidden):
            raise InputError(f"{name} must be ascending row numbers from 0 to {config.dims.hidden - 1}")
    for index, layer in enumerate(spec.layers):
        matrices = layer.matrix_shapes(config.dims)
        for block in layer.blocks:
            name = f"layers.{index}.{block.matrix}"
            check_blocks(name, weights[f"{name}.blocks"], weights[f"{name}.block_index"], matrices[block.matrix])


def _check_finite(folder: Path, weights: Weights) -> None:
    for name, array in weights.items():
        if array.dtype != np.float32:
            continue
        with np.errstate(invalid="ignore"):  # 0 times what is not finite is NaN
            if np.isnan(array @ np.zeros(array.shape[-1:], array.dtype)).any():
                raise ArtifactError(f"{folder / WEIGHTS}: {name} holds a number that is not finite")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that becomes it when the block ends well, and vanishes when it does not.

    Raises InputError where the disk is full or cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}") from error
    try:
        yield temporary
        _open_to_readers(temporary)
        temporary.replace(folder)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {folder}: {error}; free some space or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open_to_readers(folder: Path) -> None:
    """Gives `folder` and all in it the modes that the umask gives new ones.

    `mkdtemp` and `safetensors` let nobody but the owner read, so that a server of another user could not load a model.
    """
    new = folder / ".new"
    new.touch()
    of_file = new.stat().st_mode & 0o777
    new.unlink()
    of_folder = of_file | (of_file & 0o444) >> 2  # who may read a folder may enter it
    for path in (folder, *folder.rglob("*")):
        path.chmod(of_folder if path.is_dir() else of_file)


def copy_folder(source: Path, folder: Path, *, link: bool = False) -> None:
    """Makes `folder`, in place of what was there, a copy of `source`; raises InputError as `replacing_folder` does.

    With `link` the files of both are the same, and need no more of the disk, where the file system can do that: nothing
    may change them but by replacing them.
    """
    with replacing_folder(folder) as temporary:
        shutil.copytree(source, temporary, copy_function=_link if link else shutil.copy2, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _link(source: str, path: str) -> None:
    try:
        os.link(source, path)
    except OSError:  # file systems of other machines, and of removable disks, have no links
        shutil.copy2(source, path)


def write_json(path: Path, data: Any) -> None:
    """Writes JSON whole or not at all; raises InputError where it cannot."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file whole or not at all; raises InputError where it cannot."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all (through a temporary file beside it); raises InputError where it cannot."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        size = path.stat().st_size if path.is_file() else None
        content = b"" if size is None or size > _MAX_MANIFEST_BYTES else path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    if size is None:
        raise ArtifactError(f"{folder} is no artifact: it has no {MANIFEST}")
    if size > _MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{path} has {size} bytes; at most {_MAX_MANIFEST_BYTES} are read")
    try:
        data = json.loads(content.decode("utf-8"))
        found = data["format"]
        files = data["files"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} is no manifest: {error!r}") from error
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise ArtifactError(f"{folder} has format {found!r}; this version reads up to {FORMAT}: upgrade prunetime")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise ArtifactError(f"{path}: files must be an object of digests")
    return dict(data)


def _read_file(folder: Path, name: str, entry: Mapping[str, Any]) -> NDArray[np.uint8]:
    if not PLAIN_FILE.fullmatch(name) or name == MANIFEST:
        raise ArtifactError(f"{folder / MANIFEST} names the file {name!r}: artifacts hold plain files only")
    path = folder / name
    try:
        size = path.stat().st_size
        if size != entry.get("bytes"):
            raise ArtifactError(f"{path} has {size} bytes, the manifest says {entry.get('bytes')}: it is truncated")
        content = np.empty(size, np.uint8)  # on huge pages, which bytes are not
        with path.open("rb") as file, ThreadPoolExecutor(_READERS) as readers:
            starts = range(0, size, _PIECE_BYTES)
            pieces = [[content.data[start : start + _PIECE_BYTES]] for start in starts]
            read_bytes = sum(readers.map(partial(os.preadv, file.fileno()), pieces, starts))
            if read_bytes != size or os.fstat(file.fileno()).st_size != size:
                raise ArtifactError(f"{path} changes while it is read")
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    return content


def _check_digests(
    folder: Path, contents: Mapping[str, Future[NDArray[np.uint8]]], entries: Mapping[str, Mapping[str, Any]]
) -> None:
    for name, content in contents.items():
        if _entry(content.result().data) != entries[name]:
            raise ArtifactError(f"{folder / name} was changed after it was written: its sha256 is not the manifest's")


def _entry(content: bytes | memoryview) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
