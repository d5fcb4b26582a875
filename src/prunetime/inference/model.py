"""A loaded artifact: texts in, scores out. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.core import artifact
from prunetime.core.task import Answer, Task
from prunetime.errors import ArtifactError, InputError
from prunetime.inference.engine import Engine
from prunetime.inference.inputs import Inputs
from prunetime.inference.pairs import SingleInputs, single_inputs
from prunetime.inference.ragged import Ragged
from prunetime.inference.reading import prompted, read
from prunetime.inference.tokenize import Texts, Tokenizer
from prunetime.inference.windows import Windows


@dataclass(frozen=True)
class Ranked:
    """A document by its `index` among those that were given."""

    index: int
    score: float


class Model:
    """A model ready to score. `manifest` says what it is, `engine` runs token ids, `tokenizer` makes them; `digests`
    are the SHA-256 of the artifact's files by name.

    `make_tokenizer` is for who has one already of the same content and maximum length.
    """

    def __init__(
        self, source: artifact.Artifact, threads: int = 1, make_tokenizer: Callable[[bytes, int], Tokenizer] = Tokenizer
    ) -> None:
        self.manifest = source.manifest
        self.digests = source.digests
        self.tokenizer = make_tokenizer(source.tokenizer, source.manifest.task.max_length)
        manifest = source.manifest
        self.engine = Engine(manifest.config, source.weights, threads, spec=manifest.spec, plan=manifest.plan)

    def score(self, texts: Sequence[str | Texts]) -> NDArray[Any]:
        """Scores of texts (or pairs, for a task of two texts): [rows], or [rows, classes] with over two classes.

        They are float32 or objects: of (question, context) pairs an `Answer` each, of words with labels a `Tagged`.

        Raises InputError for an empty text, a pair where the task has one text, or the reverse, and for a question that
        is too long for a window.
        """
        inputs = self.read(texts)
        return inputs.scores(self.engine.logits(inputs.tokens))

    def answers(self, questions: Sequence[Texts], count: int) -> list[list[Answer]]:
        """Up to `count` answers to each (question, context), the best first; the first are what `score` gives.

        Raises InputError as `score` does, and where the model answers no questions.
        """
        if count < 1:
            raise InputError(f"{count} answers: ask for at least 1")
        inputs = self.read(questions)
        if not isinstance(inputs, Windows):
            raise InputError(f"a model of {self.manifest.task.kind} answers no questions")
        return inputs.best(self.engine.logits(inputs.tokens), count)

    def embed(
        self, texts: Sequence[str], prompt_name: str | None = None, prompt: str | None = None
    ) -> NDArray[np.float32]:
        """Embeddings of texts, [texts, width]: those that `SentenceTransformer.encode` gives for the same folder.

        They are of length 1 where the model ends in Normalize, as one that was made of a plain encoder does.

        Args:
            prompt_name: the prompt of the model that goes before each text; by default the model's default prompt, if
                it has one.
            prompt: the text to put there instead.

        Raises InputError where the model does not score pairs by similarity, a text is empty, or it has no such prompt.
        """
        inputs = self.read_single(texts, prompt_name, prompt)
        return np.asarray(inputs.scores(self.engine.logits(inputs.tokens)))

    def tokenize(self, texts: Sequence[str | Texts]) -> Ragged:
        """Token ids of `texts` (of pairs of a question and a context, of all windows); raises InputError as `score`."""
        return self.read(texts).tokens

    def read(self, texts: Sequence[str | Texts], prompt: str | None = None) -> Inputs:
        """The rows that the model reads of `texts`, after `prompt` or its default one; raises InputError as `score`
        does."""
        return read(self.tokenizer, self.manifest.task, self.checked(texts), prompt)

    def read_single(
        self, texts: Sequence[str], prompt_name: str | None = None, prompt: str | None = None
    ) -> SingleInputs:
        """The rows that the model reads of texts to be embedded; raises InputError as `embed` does."""
        task = self.check_embeds()
        if empty := [number for number, text in enumerate(texts) if not text.strip()]:
            raise InputError(f"text {empty[0]} is empty")
        return single_inputs(self.tokenizer, task, texts, task.prompts.resolve(prompt_name, prompt))

    def read_single_ids(self, rows: Sequence[Sequence[int]], prompt_name: str | None = None) -> SingleInputs:
        """The rows that the model reads of texts to be embedded that are token ids already, special tokens included.

        Raises InputError as `Tokenizer.encode_ids`, and where the model would put a prompt before them.
        """
        task = self.check_embeds()
        if prompt := task.prompts.resolve(prompt_name):
            raise InputError(f"the prompt {prompt[:80]!r} goes before texts, not before token ids: give texts")
        return SingleInputs(task, self.tokenizer.encode_ids(rows))

    def check_lengths(self, texts: Sequence[str | Texts], prompt_name: str | None = None) -> None:
        """Raises InputError where a text or pair, its prompt before it, has more tokens than the model reads.

        A context to answer questions from never has: it is read in windows.
        """
        task = self.manifest.task
        if task.traits.reads_windows:
            return
        prompt = task.prompts.resolve(prompt_name)
        for number, text in enumerate(texts):
            row = (text,) if isinstance(text, str) else text
            sequences = [(part,) for part in row] if task.traits.reads_apart else [row]
            if not all(self.tokenizer.fits(*sequence) for sequence in prompted(sequences, prompt)):
                raise InputError(
                    f"text {number} has more tokens than the {task.max_length} that the model reads: have it cut "
                    "(truncate)"
                )

    def check_embeds(self) -> Task:
        """The task; raises InputError where the model has no embeddings."""
        task = self.manifest.task
        if task.rows != "embedding":
            raise InputError(f"a model of {task.kind} has no embeddings; one that is made with --task similarity has")
        return task

    def checked(self, texts: Sequence[str | Texts]) -> list[Texts]:
        """`texts` as tuples of the task's texts; raises InputError as `score` does."""
        expected = self.manifest.task.text
        rows: list[Texts] = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
        for number, row in enumerate(rows):
            if len(row) != len(expected):
                raise InputError(
                    f"text {number} has {len(row)} part{'s' * (len(row) != 1)}; this model scores {len(expected)}: "
                    f"{', '.join(expected)}"
                )
            if not all(part.strip() for part in row):
                raise InputError(f"text {number} is empty: every one of {', '.join(expected)} needs some text")
        return rows

    def predict(
        self, texts: Sequence[str | Texts], prompt_name: str | None = None, prompt: str | None = None
    ) -> NDArray[Any]:
        """What `CrossEncoder.predict` of sentence-transformers gives for the same folder: [rows] of one logit, else
        [rows, labels].

        These are the logits under the model's activation (a sigmoid, or nothing), where `score` is on the scale of the
        labels. Of a model without such an activation, and of tasks that a CrossEncoder does not know, it is `score`.

        Args:
            prompt_name: as for `embed`; the prompt goes before the first text of a pair.
            prompt: as for `embed`.

        Raises InputError as `score`, and where there is no such prompt.
        """
        task = self.manifest.task
        inputs = self.read(texts, task.prompts.resolve(prompt_name, prompt))
        logits = self.engine.logits(inputs.tokens)
        return task.predictions(logits) if task.activation else inputs.scores(logits)

    def rank(self, query: str, documents: Sequence[str], top_k: int | None = None) -> list[Ranked]:
        """The `documents`, best first, at most `top_k`; of equal ones the first. Scores are those of `predict`, or
        the probability of the second of two labels.

        Raises InputError as `score`, and where the model does not score pairs by one number.
        """
        task = self.manifest.task
        if not task.is_ranking:
            raise InputError(f"a model of {task.kind} with {len(task.text)} text ranks nothing: it takes pairs to rank")
        pairs = [(query, document) for document in documents]
        score = self.score if task.labels else self.predict
        scores = score(pairs) if pairs else np.zeros(0, np.float32)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(index), float(scores[index])) for index in order]

    def score_tokens(self, tokens: Ragged) -> NDArray[np.float32]:
        """Scores of token ids, as `score` gives for texts; not of question answering, whose answers are of texts."""
        return self.manifest.task.scores(self.engine.logits(tokens))


def load(folder: str | Path, threads: int = 1, make_tokenizer: Callable[[bytes, int], Tokenizer] = Tokenizer) -> Model:
    """Reads, checks and loads an artifact; arguments are those of `Model`.

    Raises:
        ArtifactError: the artifact is damaged, of a newer format, or none.
        EngineError: a weight is not finite, or `threads` cannot be had.
    """
    with artifact.opened(folder) as source:
        return Model(source, threads, make_tokenizer)


def load_token_engine(folder: str | Path, model: Model) -> Engine:
    """An engine that gives the last hidden row of every token, [tokens, hidden], of the encoder of `model`, which was
    loaded from `folder`. It has weights of its own.

    Raises:
        ArtifactError: as `load`; or another artifact is in the folder by now.
        InputError: it makes no embeddings, or drops tokens on the way.
    """
    model.check_embeds()
    with artifact.opened(folder) as source:
        if source.digests != model.digests or source.manifest != model.manifest:
            raise ArtifactError(f"{folder} holds another artifact than the one that was loaded: load it again")
        manifest = source.manifest
        of_head = manifest.config.head_shapes
        weights = {name: array for name, array in source.weights.items() if name not in of_head}
        config = manifest.config.with_token_embeddings()
        config.check(manifest.spec)
        return Engine(config, weights, model.engine.threads, spec=manifest.spec, plan=manifest.plan)
