"""What several protocols share: pairs of a query and a text, embeddings, and how texts are cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prunetime.serve.errors import Code, RefusedError
from prunetime.serve.http import Request
from prunetime.serve.service import Read, Scored, Service

SCORING_REFUSALS: tuple[Code, ...] = ("bad_request", "too_large", "unusable", "overloaded", "deadline", "not_found")
"""Why texts may not be scored."""


async def score_pairs(
    service: Service, request: Request, query: str, texts: Sequence[str], name: str | None, read: Read
) -> tuple[Scored | None, NDArray[np.float32]]:
    """The scores of the query with each text, [texts]; raises RefusedError where the model does not rank."""
    hosted = service.named(name)
    if not hosted.model.manifest.task.ranks:
        raise RefusedError("unusable", f"{hosted.name} ranks nothing: a model that ranks scores pairs by one number")
    if not texts:
        return None, np.zeros(0, np.float32)
    scored = await service.score(request, [(query, text) for text in texts], name, read=read)
    return scored, scored.scores


async def embed_texts(
    service: Service, request: Request, texts: str | list[str], name: str | None, read: Read
) -> Scored:
    """Has a text, or each of several, embedded."""
    rows = [texts] if isinstance(texts, str) else texts
    return await service.score(request, rows, name, read=read)


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
    if len(task.labels) == 2 and not raw:  # the second is scored
        table = np.concatenate((1.0 - table, table), axis=1)
    return task.labels or (task.kind,), table
