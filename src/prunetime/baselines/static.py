"""A static embedding of model2vec with a linear head: a vector for every token, whose mean is the embedding of a text.

It reads folders as version 0.10 of that library does, and is measured beside models that the engine runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from prunetime.core.arrays import Array, Float32Array
from prunetime.core.artifact import write_json
from prunetime.core.budget import Budget
from prunetime.core.task import Task
from prunetime.errors import InputError, first_line
from prunetime.inference.ragged import Ragged
from prunetime.inference.tokenize import Texts
from prunetime.latency.measure import TimedCall
from prunetime.latency.timing import text_of
from prunetime.training.linear import STRENGTHS, fit_linear

SAFETENSORS = "model.safetensors"

FILE = "static.safetensors"
"""The vectors and the head, in a folder that `StaticModel.write` made."""

MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"

ARRAYS = ("embeddings", "weights", "mapping")
"""The arrays of a folder of model2vec; the last two may not be there."""

MAX_LENGTH = 512
"""The most tokens of a text where config.json does not say."""

TOKENS = 1 << 16
"""The tokens whose vectors are held at once."""

LEAST_NORM = 1e-32


class StaticTokenizer:
    """The tokenizer of a static embedding: no special tokens, and none for what is unknown.

    Of a text are read as many characters as `max_length` tokens of median length have (None: all), then cut to these
    tokens.
    """

    def __init__(self, content: bytes, max_length: int | None) -> None:
        """Takes the bytes of a tokenizer.json; raises InputError where they are none."""
        self.content, self.max_length = content, max_length
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # tokenizers raises bare Exception for every kind of broken content
            raise InputError(f"the tokenizer cannot be read: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._characters: int | None = None
        if max_length is not None:
            self._tokenizer.enable_truncation(max_length)
            self._characters = max_length * int(np.median([len(token) for token in self._tokenizer.get_vocab()]))
        model = json.loads(content)["model"]
        unknown = model.get("unk_token")
        self._unknown = model.get("unk_id") if unknown is None else self._tokenizer.token_to_id(unknown)

    @cached_property
    def size(self) -> int:
        """How many tokens there are."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[Texts]) -> Ragged:
        """Token ids of texts or pairs, one sequence each; the type of a token says which of the texts it is of."""
        flat = [text[: self._characters] for example in texts for text in example]
        encoded = iter(self._tokenizer.encode_batch_fast(flat, add_special_tokens=False))
        ids, types = list[list[int]](), list[list[int]]()
        for example in texts:
            known = [[i for i in next(encoded).ids if i != self._unknown] for _ in example]
            ids.append([i for each in known for i in each])
            types.append([number for number, each in enumerate(known) for _ in each])
        return Ragged.of(ids, types)


@dataclass(frozen=True)
class StaticModel:
    """A static embedding, and the head that was fitted to it.

    Attributes:
        vectors: The vector of every token, [tokens, width].
        normalize: Whether embeddings are scaled to length 1.
        tokenizer: The tokenizer.
        texts: The texts of a sequence.
        weight: The head, [outputs, features]; None where embeddings are what it gives.
        bias: The bias of the head, [outputs].
    """

    vectors: Float32Array
    normalize: bool
    tokenizer: StaticTokenizer
    texts: int = 1
    weight: Float32Array | None = None
    bias: Float32Array | None = None

    def logits(self, batch: Ragged) -> Float32Array:
        """Logits [sequences, outputs], or embeddings [sequences, width] where there is no head."""
        features = self.features(batch)
        if self.weight is None or self.bias is None:
            return features
        return np.asarray(features @ self.weight.T + self.bias, np.float32)

    def features(self, batch: Ragged) -> Float32Array:
        """What the head reads of sequences, [sequences, features]: `pair_features` of their texts' embeddings."""
        parts = [self._embeddings(part) for part in batch.batches(TOKENS)]
        embeddings = np.concatenate(parts).reshape(-1, self.texts, self.vectors.shape[1])
        return np.asarray(pair_features([embeddings[:, text] for text in range(self.texts)]), np.float32)

    def _embeddings(self, batch: Ragged) -> Float32Array:
        """The mean vector of each text, [sequences x texts, width]; 0 for one without tokens."""
        of = np.repeat(np.arange(len(batch)) * self.texts, batch.lengths) + batch.types
        counts = np.bincount(of, minlength=len(batch) * self.texts)
        found = np.zeros((len(counts), self.vectors.shape[1]), np.float32)
        there = np.flatnonzero(counts)
        if len(there):
            starts = np.cumsum(counts[there]) - counts[there]
            found[there] = np.add.reduceat(self.vectors[batch.ids], starts) / counts[there, None]
        if self.normalize:
            found /= np.linalg.norm(found, axis=1, keepdims=True) + np.float32(LEAST_NORM)
        return found

    def fitted(self, task: Task, tokens: Ragged, labels: Array) -> StaticModel:
        """Returns it with a head: a linear model of the labels of a task, of features that are scaled alike."""
        model = replace(self, texts=len(task.text))
        features = model.features(tokens)
        mean, deviation = features.mean(0, np.float64), float(np.sqrt(features.var(0).mean())) or 1.0
        found = fit_linear(task.kind, (features - mean) / deviation, labels, task.outputs or 1, STRENGTHS)
        weight = found.weight / deviation
        bias = np.asarray(found.bias - weight @ mean, np.float32)
        return replace(model, weight=np.asarray(weight, np.float32), bias=bias)

    def write(self, folder: Path, **more: Any) -> None:
        """Writes it into a folder, with `more` in its manifest."""
        folder.mkdir(parents=True)
        arrays = {"vectors": self.vectors, "weight": self.weight, "bias": self.bias}
        save_file({name: array for name, array in arrays.items() if array is not None}, folder / FILE)
        (folder / TOKENIZER).write_bytes(self.tokenizer.content)
        settings = {"normalize": self.normalize, "texts": self.texts, "max_length": self.tokenizer.max_length}
        digest = sha256((folder / FILE).read_bytes()).hexdigest()
        write_json(folder / MANIFEST, more | settings | {"sha256": digest})

    @classmethod
    def read(cls, folder: Path) -> StaticModel:
        """Reads what `write` has written."""
        settings, arrays = json.loads((folder / MANIFEST).read_text(encoding="utf-8")), load_file(folder / FILE)
        tokenizer = StaticTokenizer((folder / TOKENIZER).read_bytes(), settings["max_length"])
        head = arrays.get("weight"), arrays.get("bias")
        return cls(arrays["vectors"], settings["normalize"], tokenizer, settings["texts"], *head)


def pair_features(embeddings: Sequence[Float32Array]) -> Array:
    """Returns [rows, width]: embeddings; of two texts their products and distances, as in InferSent
    (arXiv 1705.02364)."""
    if len(embeddings) == 1:
        return embeddings[0]
    first, other = embeddings
    return np.concatenate((first * other, np.abs(first - other)), axis=1)


def is_static(folder: Path) -> bool:
    """Whether a folder is a static embedding of model2vec."""
    try:
        with safe_open(folder / SAFETENSORS, "numpy") as file:
            names = set(file.keys())
    except (OSError, SafetensorError):
        return False
    return ARRAYS[0] in names and names <= set(ARRAYS)


def read_model2vec(folder: Path) -> StaticModel:
    """Reads a folder of model2vec.

    Raises:
        InputError: a file is missing or damaged, or the model is more than an embedding.
    """
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        arrays = load_file(folder / SAFETENSORS)
        max_length = settings.get("max_length", MAX_LENGTH)
        tokenizer = StaticTokenizer((folder / TOKENIZER).read_bytes(), max_length)
    except (OSError, SafetensorError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{folder} is no static embedding that can be read: {first_line(error)}") from error
    if settings.get("head_config"):
        raise InputError(f"{folder} has a classifier of its own (head_config); give the embedding without it")
    vectors = arrays["embeddings"].astype(np.float32)
    mapping, weights = arrays.get("mapping"), arrays.get("weights")
    if mapping is not None:
        vectors = vectors[mapping]
    if len(vectors) != tokenizer.size or (weights is not None and len(weights) != tokenizer.size):
        raise InputError(f"{folder} has {len(vectors)} vectors for the {tokenizer.size} tokens of its tokenizer.json")
    if weights is not None:
        vectors = vectors * weights[:, None].astype(np.float32)
    if not np.isfinite(vectors).all():
        raise InputError(f"{folder} has vectors that are not finite")
    return StaticModel(np.ascontiguousarray(vectors), bool(settings.get("normalize", False)), tokenizer)


def calls_of_static(folder: Path, task: Task, budget: Budget) -> dict[str, TimedCall]:
    """The calls that are timed of a static model, by scope, as of an artifact: token ids, and texts, to logits."""
    model = StaticModel.read(folder)
    ids = np.random.default_rng(0).integers(0, len(model.vectors), (budget.batch, budget.seq_len))
    types = np.arange(budget.seq_len) * model.texts // budget.seq_len
    batch = Ragged.of(ids.tolist(), [types.tolist()] * budget.batch)
    texts = [text_of(model.tokenizer, task.read_together, budget.seq_len)] * budget.batch
    return {"ids": partial(model.logits, batch), "text": lambda: model.logits(model.tokenizer.encode(texts))}
