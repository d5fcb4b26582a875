"""The registry of models: by name and version, loaded and unloaded while others answer."""

from __future__ import annotations

import logging
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from msgspec import Struct

from prunetime.errors import InputError, PrunetimeError
from prunetime.inference.engine import Engine
from prunetime.inference.inputs import Inputs
from prunetime.inference.model import Model, load, load_token_engine
from prunetime.inference.ragged import Ragged
from prunetime.inference.reading import prompted
from prunetime.inference.tokenize import Texts, Tokenizer, digest_of
from prunetime.serve.core.speed import Speed
from prunetime.serve.core.texts import TextCache
from prunetime.serve.errors import RefusedError

LOG = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

WARM_UPS = 5

CHARACTERS, CHARACTERS_PER_TOKEN = 1 << 16, 64
"""A text is tokenised up to the larger of `CHARACTERS` and `CHARACTERS_PER_TOKEN` for each token that the model
reads."""

LEAST_US = 1.0
"""The least microseconds that a batch, and its tokens, are taken to cost: an estimate of 0 could never be corrected
upwards."""

Replaced = Literal["all", "newest", "none"]
"""The versions of a model that a new one replaces."""


class Entry(Struct, frozen=True):
    """An entry of the registry's catalogue: a version of a model, and the folder it was loaded from."""

    name: str
    version: str
    folder: str

    @property
    def label(self) -> str:
        return f"{self.name}/{self.version}"


class TimedEngine(NamedTuple):
    """An engine with the estimate of its speed."""

    engine: Engine
    speed: Speed


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A version of a model that is ready to score requests."""

    name: str
    version: str
    folder: Path
    model: Model
    speed: Speed
    cache: TextCache | None
    loaded_at: float = field(default_factory=time.time)
    _of_tokens: list[TimedEngine] = field(default_factory=list)
    _loading: Lock = field(default_factory=Lock)

    @property
    def timed(self) -> TimedEngine:
        return TimedEngine(self.model.engine, self.speed)

    def timed_of_tokens(self) -> TimedEngine:
        """Returns the engine of token embeddings, [tokens, hidden], and loads it at the first call.

        Raises RefusedError where it cannot be loaded.
        """
        with self._loading:
            if not self._of_tokens:
                try:
                    engine = load_token_engine(self.folder, self.model)
                except PrunetimeError as error:
                    LOG.error("the engine for single tokens of %s is not loaded: %s", self.label, error)
                    message = _without_folder(str(error), self.folder)
                    raise RefusedError("unusable", f"{self.name} gives no embeddings of tokens: {message}") from None
                self._of_tokens.append(TimedEngine(engine, measured_speed(engine, self.model.manifest.task.max_length)))
            return self._of_tokens[0]

    @property
    def label(self) -> str:
        return self.entry.label

    @property
    def entry(self) -> Entry:
        return Entry(self.name, self.version, str(self.folder))

    def reads_as(self, other: LoadedModel) -> bool:
        """Whether both models have the same task and make the same tokens of a text."""
        own, its = self.model, other.model
        return own.manifest.task == its.manifest.task and own.tokenizer.digest == its.tokenizer.digest

    def read(self, rows: Sequence[str | Texts], *, cut: bool = True) -> Inputs:
        """The rows that the model reads of texts.

        Raises InputError where it cannot, and for texts that are too long, unless they may be `cut`.
        """
        if not cut:
            self.model.check_lengths(self.model.checked(rows))
        if self.cache is None or self.model.manifest.task.rows != "pooled":
            return self.model.read(rows)
        task = self.model.manifest.task
        return Inputs(task, self.cache.encode(prompted(self.model.checked(rows), task.prompts.resolve())))

    def read_single(self, texts: Sequence[str], prompt_name: str | None = None, *, cut: bool = True) -> Inputs:
        """The rows that the model reads of texts to be embedded, after a prompt of the model's.

        Raises InputError where it cannot, and for texts that are too long, unless they may be `cut`.
        """
        if not cut:
            self.model.check_lengths(texts, prompt_name)
        return self.model.read_single(texts, prompt_name)


class ModelRegistry:
    """The models that are served, by name and version. Any thread may read it; one thread at a time may change it.

    A request that names no model is for `default`, which is the first one registered unless it is given; while that one
    is not loaded, such a request is refused. Folders must be under `root`, or have been named by the operator.
    Each model has a cache of tokenised texts of `cache_bytes`.
    """

    def __init__(self, threads: int, cache_bytes: int, root: Path | None = None, default: str | None = None) -> None:
        self.default = default
        self._threads, self._cache_bytes = threads, cache_bytes
        self._root = root.resolve() if root else None
        self._given: set[Path] = set()
        self._tokenizers: WeakValueDictionary[str, Tokenizer] = WeakValueDictionary()
        self._folders: dict[str, Path] = {}
        self._versions: dict[str, dict[str, LoadedModel]] = {}

    def __iter__(self) -> Iterator[LoadedModel]:
        for versions in list(self._versions.values()):
            yield from versions.values()

    @property
    def names(self) -> list[str]:
        return list(self._versions)

    def versions(self, name: str) -> Mapping[str, LoadedModel]:
        """The versions of a model, the oldest first. Raises RefusedError where there is none of the name."""
        found = self._versions.get(name)
        if not found:
            known = ", ".join(self._versions) or "none"
            raise RefusedError("not_found", f"no model {name[:80]!r} is loaded; there is {known}")
        return found

    def get(self, name: str | None = None, version: str | None = None) -> LoadedModel:
        """Returns a version of a model: of the default model where no name is given, the newest where no version is."""
        if name is None:
            self.check_ready()
            name = self.default
            if name not in self._versions:
                known = ", ".join(self._versions)
                message = f"requests without a model's name are for {name}, which is not loaded; there is {known}"
                raise RefusedError("not_found", message)
        versions = self.versions(name)
        if version is None:
            return list(versions.values())[-1]
        if version not in versions:
            raise RefusedError("not_found", f"{name} has no version {version[:80]!r}; it has {', '.join(versions)}")
        return versions[version]

    def check_ready(self) -> None:
        """Raises RefusedError where no model is loaded."""
        if not self._versions:
            raise RefusedError("not_ready", "no model is loaded", 1.0)

    def folder(self, name: str) -> Path:
        """The folder that the newest version of a model was loaded from, unloaded or not. Raises RefusedError for a
        name that was never loaded."""
        if name not in self._folders:
            self.versions(name)
        return self._folders[name]

    @property
    def unloaded(self) -> list[str]:
        """The names of models that have been unloaded, and can be loaded again from their `folder`."""
        return [name for name in self._folders if name not in self._versions]

    def allow(self, name: str, folder: Path) -> None:
        """Permits loading from a folder that the operator named, wherever it is."""
        self._given.add(folder.resolve())
        self._folders.setdefault(name, folder)

    def register(self, name: str, folder: Path, version: str | None = None) -> LoadedModel:
        """Loads and publishes a model that the operator named. Raises InputError where it cannot be used."""
        self.allow(name, folder)
        self.default = self.default or name
        try:
            return self.publish(self._open(name, folder.resolve(), version), "none")
        except PrunetimeError as error:
            raise InputError(f"model {name}: {error}") from None

    def load(self, name: str, folder: Path, version: str | None = None) -> LoadedModel:
        """Loads a version of `name` that answers once it is published; until then the older ones answer.

        Raises RefusedError where the artifact is refused, or is outside of the root. The error does not name the
        folder; the log does.
        """
        whole = self._checked(folder)
        try:
            return self._open(name, whole, version)
        except RefusedError:
            raise
        except PrunetimeError as error:
            LOG.error("model %s is not loaded: %s", name, error)
            traceback.clear_frames(error.__traceback__)  # which hold the files that were read, and one another
            raise RefusedError("unusable", f"{whole.name[:80]}: {_without_folder(str(error), whole)}") from None

    def publish(self, loaded: LoadedModel, replaced: Replaced) -> LoadedModel:
        """Makes a loaded version answer, in the place of older ones or beside them. This step cannot fail."""
        older = list(self._versions.get(loaded.name, {}).values())
        kept = {"all": [], "newest": older[:-1], "none": older}[replaced]
        versions = {each.version: each for each in (*kept, loaded)}
        self._versions = {**self._versions, loaded.name: versions}
        self._folders[loaded.name] = loaded.folder
        return loaded

    def unload(self, name: str, version: str | None = None) -> list[LoadedModel]:
        """Unloads one version of a model, or all of them. Requests that they are answering are still answered."""
        versions = self.versions(name)
        gone = [self.get(name, version)] if version else list(versions.values())
        left = {key: loaded for key, loaded in versions.items() if loaded not in gone}
        every = {key: left if key == name else value for key, value in self._versions.items()}
        self._versions = {key: value for key, value in every.items() if value}
        return gone

    def _checked(self, folder: Path) -> Path:
        try:
            whole = (self._root / folder if self._root else folder).resolve()
        except (OSError, ValueError, RuntimeError):  # a zero byte; links in a circle
            raise RefusedError(
                "unusable", f"{str(folder)[:80]!r} is no path: give a folder of the model root"
            ) from None
        if whole not in self._given and not (self._root and whole.is_relative_to(self._root)):
            where = (
                "the model root" if self._root else "a model root, which the server was started without: --model-root"
            )
            raise RefusedError("forbidden", f"models are loaded from under {where} only")
        return whole

    def _open(self, name: str, folder: Path, version: str | None) -> LoadedModel:
        if not NAME.fullmatch(name):
            raise RefusedError("bad_request", f"{name[:80]!r} is no name of a model: letters, digits, dots, - and _")
        version = version or str(1 + max(map(int, self._versions.get(name, {})), default=0))
        model = load(folder, self._threads, self._tokenizer)
        cache = TextCache(model.tokenizer, self._cache_bytes) if self._cache_bytes else None
        speed = measured_speed(model.engine, model.manifest.task.max_length)
        return LoadedModel(name, version, folder, model, speed, cache)

    def _tokenizer(self, content: bytes, max_length: int) -> Tokenizer:
        """Returns one tokenizer for all models with the same content and length, such as versions of one model."""
        digest = digest_of(content, max_length)
        characters = max(CHARACTERS, CHARACTERS_PER_TOKEN * max_length)
        made = self._tokenizers.get(digest) or Tokenizer(content, max_length, characters)
        self._tokenizers[digest] = made
        return made


def _without_folder(message: str, folder: Path) -> str:
    """Shortens the paths in an artifact's error to the names of files."""
    return message.replace(f"{folder}/", "").replace(str(folder), folder.name)


def measured_speed(engine: Engine, max_length: int) -> Speed:
    """Measures an engine: the fastest of `WARM_UPS` batches of one short sequence, and of eight long ones."""
    length = min(max_length, 64)
    times = {}
    for rows, tokens in ((1, 4), (8, length)):
        ids = np.zeros(rows * tokens, np.int32)
        batch = Ragged(ids, np.zeros_like(ids), np.arange(rows + 1, dtype=np.int32) * tokens)
        spent = []
        for _ in range(WARM_UPS):
            start = time.perf_counter()
            engine.logits(batch)
            spent.append(time.perf_counter() - start)
        times[rows * tokens] = 1e6 * min(spent)
    (few, short), (many, long) = times.items()
    token_us = max(LEAST_US, long - short) / (many - few)
    return Speed(max(LEAST_US, short - token_us * few), token_us)
