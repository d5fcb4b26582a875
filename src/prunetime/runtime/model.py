"""A loaded artifact: texts in, scores out. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunetime import artifact
from prunetime.errors import InputError
from prunetime.runtime.engine import Engine
from prunetime.runtime.ragged import Ragged
from prunetime.runtime.tokenize import Texts, Tokenizer


class Model:
    """A model ready to score. `manifest` says what it is, `engine` runs token ids, `tokenizer` makes them."""

    def __init__(self, source: artifact.Artifact, threads: int = 1) -> None:
        self.manifest = source.manifest
        self.tokenizer = Tokenizer(source.tokenizer, source.manifest.task.max_length)
        manifest = source.manifest
        self.engine = Engine(manifest.config, source.weights, threads, spec=manifest.spec, plan=manifest.plan)

    def score(self, texts: Sequence[str | Texts]) -> NDArray[np.float32]:
        """Scores of texts (or pairs, for a task of two texts): [rows], or [rows, classes] with over two classes.

        Raises InputError for an empty text, or a pair where the task has one text, or the reverse.
        """
        return self.score_tokens(self.tokenize(texts))

    def tokenize(self, texts: Sequence[str | Texts]) -> Ragged:
        """Token ids of `texts`; raises InputError as `score` does."""
        expected = self.manifest.task.text
        rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
        for number, row in enumerate(rows):
            if len(row) != len(expected):
                raise InputError(
                    f"text {number} has {len(row)} part{'s' * (len(row) != 1)}; this model scores {len(expected)}: "
                    f"{', '.join(expected)}"
                )
            if not all(part.strip() for part in row):
                raise InputError(f"text {number} is empty: every one of {', '.join(expected)} needs some text")
        return self.tokenizer.encode(rows)

    def score_tokens(self, tokens: Ragged) -> NDArray[np.float32]:
        """Scores of token ids, as `score` gives for texts."""
        return self.manifest.task.scores(self.engine.logits(tokens))


def load(folder: str | Path, threads: int = 1) -> Model:
    """Reads, checks and loads an artifact.

    Raises:
        ArtifactError: the artifact is damaged, of a newer format, or none.
        EngineError: a weight is not finite, or `threads` cannot be had.
    """
    with artifact.opened(folder) as source:
        return Model(source, threads)
