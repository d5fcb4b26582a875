"""A loaded artifact: texts in, scores out. Needs no torch."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prunetime.core import artifact
from prunetime.core.deprecation import renamed_arguments, warn_renamed
from prunetime.core.embedding import unit
from prunetime.core.task import Answer, Task
from prunetime.errors import ArtifactError, InputError
from prunetime.inference.engine import Engine
from prunetime.inference.inputs import Inputs
from prunetime.inference.pairs import SingleInputs, single_inputs
from prunetime.inference.ragged import Ragged
from prunetime.inference.reading import prompted, read
from prunetime.inference.tokenize import Texts, Tokenizer
from prunetime.inference.windows import Windows

LOG = logging.getLogger(__name__)

T = TypeVar("T")


class RankedDocument(dict[str, Any]):
    """A document of a ranking, with the fields of `CrossEncoder.rank`: `corpus_id`, `score` and, if asked for, `text`.

    `corpus_id` is its index among the documents that were given.
    """

    @property
    def index(self) -> int:
        warn_renamed("index", '["corpus_id"]')
        return int(self["corpus_id"])

    @property
    def score(self) -> float:
        warn_renamed("score", '["score"]')
        return float(self["score"])


class Model:
    """A model that scores, ranks and embeds texts on this CPU; `prunetime.load` makes one of an artifact.

    Args:
        source: an opened artifact.
        threads: as for `load`.
        make_tokenizer: as for `load`.

    Attributes:
        manifest: what the model is: its configuration, structure, precision plan and task.
        digests: the SHA-256 of the artifact's files by name.
        tokenizer: makes token ids of texts.
        engine: makes logits of token ids.

    Example:
        >>> model = prunetime.load("runs/ads/artifact", threads=2)
        >>> model.score([("red sofa", "velvet couch in red"), ("red sofa", "garden hose")])
        array([0.91, 0.03], dtype=float32)
    """

    def __init__(
        self, source: artifact.Artifact, threads: int = 1, make_tokenizer: Callable[[bytes, int], Tokenizer] = Tokenizer
    ) -> None:
        self.manifest = source.manifest
        self.digests = source.digests
        self.tokenizer = make_tokenizer(source.tokenizer, source.manifest.task.max_length)
        self.engine = Engine.of(source, threads)

    def score(self, texts: Sequence[str | Texts]) -> NDArray[Any]:
        """Scores texts, or pairs for a task of two texts, on the scale of the task's labels.

        Args:
            texts: texts or pairs, with as many texts each as the task has.

        Returns:
            Scores [texts], float32; [texts, classes] with more than two classes; or objects: an `Answer` for each
            (question, context), a `Tagged` for each text whose words are labelled.

        Raises:
            InputError: a text is empty, has another number of parts than the task, or is a question that is too long
                for a window.
        """
        inputs = self.read(texts)
        return inputs.scores(self.engine.logits(inputs.tokens))

    def answers(self, questions: Sequence[Texts], count: int) -> list[list[Answer]]:
        """Returns answers to questions: a list for each (question, context), the best answer first.

        Args:
            questions: pairs of a question and the context to answer it from.
            count: how many answers to each, at most.

        Raises:
            InputError: as `score`; or the model answers no questions, or `count` is below 1.
        """
        if count < 1:
            raise InputError(f"{count} answers: ask for at least 1")
        inputs = self.read(questions)
        if not isinstance(inputs, Windows):
            raise InputError(f"a model of {self.manifest.task.kind} answers no questions")
        return inputs.best(self.engine.logits(inputs.tokens), count)

    @renamed_arguments(texts="inputs")
    def embed(
        self,
        inputs: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings of texts: the numbers that `SentenceTransformer.encode` gives for the same folder.

        Args:
            inputs: texts, or one text.
            prompt_name: the model's prompt that goes before each text; by default its default prompt, if it has one.
            prompt: the text to put there instead.
            batch_size: how many texts are computed at a time. It bounds memory and changes no number.
            show_progress_bar: whether standard error shows progress; by default where the module logs at INFO or DEBUG.
            normalize_embeddings: whether to scale embeddings to length 1; a model that ends in Normalize has done it.
            truncate_dim: how many of the first numbers of each embedding are kept, instead of the model's own setting.

        Returns:
            Embeddings [texts, width], or [width] of one text.

        Raises:
            InputError: the model does not score pairs by similarity, a text is empty, there is no such prompt, or
                `batch_size` or `truncate_dim` is below 1.

        Example:
            >>> model.embed(["red sofa", "garden hose"], prompt_name="query", normalize_embeddings=True)
        """
        task = self.check_embeds()
        settings = task.embedding if truncate_dim is None else replace(task.embedding, truncate_dim=truncate_dim)
        prompt = task.prompts.resolve(prompt_name, prompt)
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        check_not_empty(texts)
        batches = _batches(texts, batch_size, show_progress_bar)
        inputs_of_batches = (single_inputs(self.tokenizer, task, batch, prompt) for batch in batches)
        embeddings = np.concatenate([settings.kept(self.engine.logits(each.tokens)) for each in inputs_of_batches])
        if normalize_embeddings:
            embeddings = unit(embeddings)
        return embeddings[0] if isinstance(inputs, str) else embeddings

    def similarity(self, embeddings1: NDArray[np.float32], embeddings2: NDArray[np.float32]) -> NDArray[np.float32]:
        """How alike each two embeddings are, by the model's `similarity_fn_name`, as `SentenceTransformer.similarity`.

        Args:
            embeddings1: embeddings [rows, width], or one [width].
            embeddings2: embeddings [columns, width], or one [width].

        Returns:
            Similarities [rows, columns], the higher the more alike; a distance counts as its negative.

        Raises:
            InputError: the model does not score pairs by similarity.
        """
        left, right = np.atleast_2d(embeddings1), np.atleast_2d(embeddings2)
        return self.check_embeds().embedding.similarity_matrix(left, right)

    def tokenize(self, texts: Sequence[str | Texts]) -> Ragged:
        """Returns the token ids that the model reads: a sequence for each text or pair, or each window of a context.

        Args:
            texts: as for `score`.

        Raises:
            InputError: as `score`.
        """
        return self.read(texts).tokens

    def read(self, texts: Sequence[str | Texts], prompt: str | None = None) -> Inputs:
        """Returns the rows that the model reads, each after `prompt` or its default; raises InputError as `score`."""
        return read(self.tokenizer, self.manifest.task, self.checked(texts), prompt)

    def read_single(
        self, texts: Sequence[str], prompt_name: str | None = None, prompt: str | None = None
    ) -> SingleInputs:
        """The rows that the model reads of texts to be embedded; raises InputError as `embed` does."""
        task = self.check_embeds()
        check_not_empty(texts)
        return single_inputs(self.tokenizer, task, texts, task.prompts.resolve(prompt_name, prompt))

    def read_single_ids(self, rows: Sequence[Sequence[int]], prompt_name: str | None = None) -> SingleInputs:
        """Returns rows of token ids; raises InputError as `Tokenizer.encode_ids`, or if a prompt goes before them."""
        task = self.check_embeds()
        if prompt := task.prompts.resolve(prompt_name):
            raise InputError(f"the prompt {prompt[:80]!r} goes before texts, not before token ids: give texts")
        return SingleInputs(task, self.tokenizer.encode_ids(rows))

    def check_lengths(self, texts: Sequence[str | Texts], prompt_name: str | None = None) -> None:
        """Raises InputError where a text or pair after its prompt is too long; a context, read in windows, never is."""
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

    @renamed_arguments(texts="inputs")
    def predict(
        self,
        inputs: Sequence[str | Texts],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> NDArray[Any]:
        """The numbers that `CrossEncoder.predict` of sentence-transformers gives for the same folder.

        They are the logits under the model's activation (a sigmoid, or nothing), where `score` is on the scale of the
        labels. Of a model without such an activation, and of tasks that a CrossEncoder does not know, they are those of
        `score`.

        Args:
            inputs: pairs of texts, or one pair; for a task of one text, texts or one text.
            prompt_name: as for `embed`; the prompt goes before the first text of a pair.
            prompt: as for `embed`.
            batch_size: as for `embed`.
            show_progress_bar: as for `embed`.

        Returns:
            Predictions: [pairs] of one logit, else [pairs, labels]; without the first axis for one pair.

        Raises:
            InputError: as `score`; or there is no such prompt, or `batch_size` is below 1.

        Example:
            >>> model.predict([("red sofa", "velvet couch in red"), ("red sofa", "garden hose")], batch_size=64)
        """
        task = self.manifest.task
        single = isinstance(inputs, str) or (task.pair and len(inputs) > 0 and isinstance(inputs[0], str))
        texts: Any = [inputs if isinstance(inputs, str) else tuple(inputs)] if single else inputs
        prompt = task.prompts.resolve(prompt_name, prompt)
        predictions = self._predictions(texts, prompt, batch_size, show_progress_bar, task.activation is not None)
        return np.asarray(predictions[0]) if single else predictions

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> list[RankedDocument]:
        """The documents, best first, with the numbers and fields of `CrossEncoder.rank` for the same folder.

        Args:
            query: the text that each document is paired with.
            documents: the texts to rank.
            top_k: how many to return, at most; by default all.
            return_documents: whether each result has the document, too, as its `text`.
            prompt_name: as for `predict`.
            prompt: as for `predict`.
            batch_size: as for `embed`.
            show_progress_bar: as for `embed`.

        Returns:
            A list of `{"corpus_id": index, "score": number}`, with `"text"` where asked for; of equal ones the first
            comes first. Scores are those of `predict`, or the probability of the second of two labels.

        Raises:
            InputError: as `predict`; or the model does not score pairs by one number.

        Example:
            >>> model.rank("red sofa", ["garden hose", "velvet couch in red"], top_k=1, return_documents=True)
            [{'corpus_id': 1, 'score': 0.91, 'text': 'velvet couch in red'}]
        """
        task = self.manifest.task
        if not task.is_ranking:
            raise InputError(f"a model of {task.kind} with {len(task.text)} text ranks nothing: it takes pairs to rank")
        pairs = [(query, document) for document in documents]
        prompt, activated = task.prompts.resolve(prompt_name, prompt), task.activation is not None and not task.labels
        scores = self._predictions(pairs, prompt, batch_size, show_progress_bar, activated)
        ranked = [RankedDocument(corpus_id=index, score=score) for index, score in enumerate(scores.tolist())]
        for each in ranked if return_documents else ():
            each["text"] = documents[each["corpus_id"]]
        return sorted(ranked, key=lambda each: each["score"], reverse=True)[:top_k]

    def _predictions(
        self, texts: Sequence[str | Texts], prompt: str, batch_size: int, progress: bool | None, activated: bool
    ) -> NDArray[Any]:
        task, parts = self.manifest.task, []
        for batch in _batches(self.checked(texts), batch_size, progress):
            inputs = read(self.tokenizer, task, batch, prompt)
            logits = self.engine.logits(inputs.tokens)
            parts.append(task.predictions(logits) if activated else inputs.scores(logits))
        return np.concatenate(parts)

    def score_tokens(self, tokens: Ragged) -> NDArray[np.float32]:
        """Scores of token ids, as `score` gives for texts; not of question answering, whose answers are of texts."""
        return self.manifest.task.scores(self.engine.logits(tokens))


def check_not_empty(texts: Sequence[str]) -> None:
    """Raises InputError for the first text that is white space only."""
    if empty := [number for number, text in enumerate(texts) if not text.strip()]:
        raise InputError(f"text {empty[0]} is empty")


def _batches(rows: Sequence[T], size: int, progress: bool | None) -> Iterator[Sequence[T]]:
    """Yields `rows` in batches of `size`, at least one, and draws progress (None: where the logger is at INFO)."""
    import click  # only here: running a model needs no command line

    if size < 1:
        raise InputError(f"batch_size is {size}; it must be at least 1")
    if progress is None:
        progress = LOG.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
    starts = range(0, max(len(rows), 1), size)
    bar = click.progressbar(starts, label="Batches", file=sys.stderr) if progress else nullcontext(starts)
    with bar as steps:
        for start in steps:
            yield rows[start : start + size]


def load(folder: str | Path, threads: int = 1, make_tokenizer: Callable[[bytes, int], Tokenizer] = Tokenizer) -> Model:
    """Reads, checks and loads an artifact. It executes nothing that is in the folder.

    Args:
        folder: the artifact.
        threads: threads that compute one batch, the calling thread included.
        make_tokenizer: makes a tokenizer of its content and maximum length; for callers that have one already.

    Returns:
        The model, ready to score.

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
