"""Functions that several protocols share: pairs of a query and a text, embeddings, and truncation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from prunetime.inference.inputs import Inputs
from prunetime.inference.tokenize import Texts
from prunetime.serve.core.models import LoadedModel
from prunetime.serve.core.request import ServiceRequest
from prunetime.serve.core.service import Read, Scored, Service
from prunetime.serve.errors import Code, RefusedError

SCORING_REFUSALS: tuple[Code, ...] = ("bad_request", "too_large", "unusable", "overloaded", "deadline", "not_found")
"""The codes with which a request to score texts may be refused."""


Side = Literal["Left", "Right", "left", "right"]


class Truncation(Struct, kw_only=True):
    """Truncation as a request asks for it: whether texts may be cut (None: yes), and on which side."""

    truncate: bool | None = None
    truncation_direction: Side | None = None

    def whole(self, loaded: LoadedModel) -> bool:
        """Whether no text may be cut. Raises RefusedError where the model cuts texts on the other side."""
        asked, side = self.truncation_direction, "left" if loaded.model.tokenizer.cuts_left else "right"
        if asked is not None and asked.lower() != side:
            raise RefusedError("unusable", f"truncation_direction {asked!r}: {loaded.name} cuts texts on the {side}")
        return self.truncate is False


def check_count(name: str, given: int | None) -> None:
    """Raises RefusedError where the field of this name asks for fewer than one."""
    if given is not None and given < 1:
        raise RefusedError("unusable", f"{name} is {given}: it must be at least 1", field=name)


def read_rows(loaded: LoadedModel, rows: Sequence[str | Texts], cut: Truncation) -> Inputs:
    """Reads texts or pairs to be scored. Raises InputError where the model cannot."""
    return loaded.read(rows, cut=not cut.whole(loaded))


async def score_pairs(
    service: Service, request: ServiceRequest, query: str, texts: Sequence[str], name: str | None, read: Read
) -> tuple[Scored | None, NDArray[np.float32]]:
    """Scores the query with each text, [texts]. Raises RefusedError where the model does not rank."""
    loaded = service.named(name)
    if not loaded.model.manifest.task.is_ranking:
        raise RefusedError("unusable", f"{loaded.name} ranks nothing: a model that ranks scores pairs by one number")
    if not texts:
        return None, np.zeros(0, np.float32)
    scored = await service.score(request, [(query, text) for text in texts], name, read=read)
    return scored, scored.scores


Embeddable = str | list[str | int | list[int]]
"""The texts of a request to embed: a text, the token ids of one, or a list of either."""

EmbeddableRows = list[str] | list[list[int]]
"""The same as rows, all of which are texts or token ids."""


def rows_to_embed(given: Embeddable) -> EmbeddableRows:
    """Returns the texts, or the token ids, of a request. Raises RefusedError where it has both, or none."""
    if isinstance(given, str):
        return [given]
    texts = [each for each in given if isinstance(each, str)]
    numbers = [each for each in given if isinstance(each, int)]
    lists = [each for each in given if isinstance(each, list)]
    if len(given) == len(texts):
        return texts
    if len(given) == len(numbers):
        return [numbers]
    if len(given) == len(lists):
        return lists
    raise RefusedError("unusable", "the input is texts, or token ids, or lists of token ids, and not several of these")


def read_to_embed(
    loaded: LoadedModel, rows: EmbeddableRows, prompt_name: str | None = None, cut: Truncation | None = None
) -> Inputs:
    """Reads texts or token ids to be embedded. Raises InputError where the model cannot."""
    whole = cut is not None and cut.whole(loaded)
    texts = [row for row in rows if isinstance(row, str)]
    if len(texts) == len(rows):
        return loaded.read_single(texts, prompt_name, cut=not whole)
    return loaded.model.read_single_ids([row for row in rows if not isinstance(row, str)], prompt_name)


def first_numbers(scored: Scored, dimensions: int | None) -> NDArray[np.float32]:
    """The embeddings [rows, width], or the first `dimensions` numbers of each."""
    embeddings: NDArray[np.float32] = scored.scores
    width = embeddings.shape[1]
    if dimensions is not None and not 1 <= dimensions <= width:
        raise RefusedError("unusable", f"dimensions is {dimensions}: the model's embeddings have 1 to {width} numbers")
    return embeddings[:, :dimensions]


def labelled(scored: Scored, raw: bool = False) -> tuple[Sequence[str], NDArray[np.float32]]:
    """The labels of a model of one row a text, and for every row the score (or the logit) of each, [rows, labels].

    A model without labels has one, which is the kind of its task.
    """
    task = scored.inputs.task
    table = scored.logits if raw else scored.scores.reshape(len(scored.scores), -1)
    if task.is_binary and not raw:  # the second is scored
        table = np.concatenate((1.0 - table, table), axis=1)
    return task.labels or (task.kind,), table
