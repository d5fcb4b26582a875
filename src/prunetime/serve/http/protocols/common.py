"""What several protocols share: pairs of a query and a text, embeddings, and how texts are cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunetime.inference.inputs import Inputs
from prunetime.inference.tokenize import Texts
from prunetime.serve.core.call import Call
from prunetime.serve.core.models import LoadedModel
from prunetime.serve.core.service import Read, Scored, Service
from prunetime.serve.errors import Code, RefusedError

SCORING_REFUSALS: tuple[Code, ...] = ("bad_request", "too_large", "unusable", "overloaded", "deadline", "not_found")
"""Why texts may not be scored."""


Side = Literal["Left", "Right", "left", "right"]


class Cut(NamedTuple):
    """How a request says that texts are cut: `truncate` (None: yes), and on which side."""

    truncate: bool | None
    direction: Side | None

    def whole(self, hosted: LoadedModel) -> bool:
        """Whether no text may be cut; raises RefusedError where the model cuts texts on the other side."""
        side = "left" if hosted.model.tokenizer.cuts_left else "right"
        if self.direction is not None and self.direction.lower() != side:
            raise RefusedError(
                "unusable", f"truncation_direction {self.direction!r}: {hosted.name} cuts texts on the {side}"
            )
        return self.truncate is False


def check_count(name: str, given: int | None) -> None:
    """Raises RefusedError where the field of this name asks for fewer than one."""
    if given is not None and given < 1:
        raise RefusedError("unusable", f"{name} is {given}: it must be at least 1", field=name)


def read_rows(hosted: LoadedModel, rows: Sequence[str | Texts], cut: Cut) -> Inputs:
    """The rows that the model reads of texts or pairs to be scored. Raises InputError where it cannot."""
    return hosted.read(rows, cut=not cut.whole(hosted))


async def score_pairs(
    service: Service, call: Call, query: str, texts: Sequence[str], name: str | None, read: Read
) -> tuple[Scored | None, NDArray[np.float32]]:
    """The scores of the query with each text, [texts]; raises RefusedError where the model does not rank."""
    hosted = service.named(name)
    if not hosted.model.manifest.task.is_ranking:
        raise RefusedError("unusable", f"{hosted.name} ranks nothing: a model that ranks scores pairs by one number")
    if not texts:
        return None, np.zeros(0, np.float32)
    scored = await service.score(call, [(query, text) for text in texts], name, read=read)
    return scored, scored.scores


Embeddable = str | list[str | int | list[int]]
"""What may be embedded: a text, the token ids of one, or a list of either."""


def rows_to_embed(given: Embeddable) -> list[str] | list[list[int]]:
    """The texts, or the token ids of texts; raises RefusedError where they are both, or none."""
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
    hosted: LoadedModel, rows: list[str] | list[list[int]], prompt_name: str | None = None, cut: Cut | None = None
) -> Inputs:
    """The rows that the model reads of texts, or of token ids, to be embedded. Raises InputError where it cannot."""
    whole = cut is not None and cut.whole(hosted)
    texts = [row for row in rows if isinstance(row, str)]
    if len(texts) == len(rows):
        return hosted.read_single(texts, prompt_name, cut=not whole)
    return hosted.model.read_single_ids([row for row in rows if not isinstance(row, str)], prompt_name)


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
