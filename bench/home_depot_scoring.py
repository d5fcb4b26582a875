"""Elastic scores of MiniLM on Home Depot in torch, which is faster on a GPU than the engine is on its CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial

import numpy as np
import torch
from home_depot_data import MARGIN, Prepared, Rows
from numpy.typing import NDArray
from search_methods import Problem

from prunetime.core.arch import ArchSpec
from prunetime.models.encoder import Output, SequenceClassifier
from prunetime.models.prefix import EncoderInputs, run_prefix
from prunetime.search.evaluate import agreement
from prunetime.search.space import Genome
from prunetime.tasks.metrics import metric
from prunetime.training.settings import best_device

EVERY_ROW = 10**9
AUC = metric("auc")

Logits = NDArray[np.float32]
Judge = Callable[[Logits], float]
"""The quality that logits of rows stand for."""


def one_thread() -> None:
    """For a process that works beside others."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")  # TF32 where a GPU has it


class Batches:
    """Rows in padded batches, by length, where torch computes fastest."""

    def __init__(self, prepared: Prepared, rows: Rows) -> None:
        self._rows, self._task = rows, prepared.task
        self._order = np.argsort(rows.tokens.lengths, kind="stable")
        self._inputs: list[EncoderInputs] = [
            tuple(torch.from_numpy(a.astype(np.int64)).to(best_device()) for a in part.padded(prepared.pad_id))
            for part in rows.tokens.select(self._order).batches(32_768)
        ]

    def logits(self, forward: Callable[[EncoderInputs], Output]) -> Logits:
        """Of every row, in the order of the rows."""
        with torch.no_grad():
            found: Logits = torch.cat([forward(inputs).logits for inputs in self._inputs]).cpu().numpy()
        return found[np.argsort(self._order)]

    def auc(self, logits: Logits) -> float:
        return AUC.value(self._task.scores(logits), self._rows.labels, self._rows.groups)


class PrefixScorer:
    """What `ElasticScorer` computes, and the AUC beside it: by `judges`."""

    def __init__(self, prepared: Prepared, batches: Batches) -> None:
        self._batches, self._model = batches, _placed(prepared.encoder("elastic"))
        teacher = _placed(prepared.encoder("teacher"))
        self.expected = batches.logits(lambda inputs: teacher(*inputs))
        self.judges: dict[str, Judge] = {
            "agreement": lambda logits: agreement(logits, self.expected),
            "auc": batches.auc,
        }

    def logits(self, spec: ArchSpec) -> Logits:
        """Of every row, by the sub-network `spec`."""
        return self._batches.logits(partial(run_prefix, self._model, spec))


def _placed(model: SequenceClassifier) -> SequenceClassifier:
    return model.to(best_device()).eval()


@lru_cache(maxsize=4)
def scorer(prepared: Prepared, count: int) -> PrefixScorer:
    """On so many rows to choose by."""
    return PrefixScorer(prepared, Batches(prepared, prepared.some("choose", count)))


def scores_of(prepared: Prepared, criterion: str, count: int) -> Callable[[Sequence[Genome]], list[float]]:
    """Scores by `criterion` on so many rows to choose by, each genome's computed once."""
    space, by = prepared.space(tokens=False), scorer(prepared, count)

    @cache
    def score(genome: Genome) -> float:
        return by.judges[criterion](by.logits(space.spec(genome)))

    return lambda genomes: [score(genome) for genome in genomes]


def problem_of(prepared: Prepared, share: float, score: Callable[[Sequence[Genome]], Sequence[float]]) -> Problem:
    """To find the genome of the best `score` at a share of dense latency."""
    space = prepared.space(tokens=False)

    @cache
    def latency(genome: Genome) -> float:
        return prepared.latency.predict(space.spec(genome), prepared.budget)

    return Problem(space, latency, score, prepared.importance, share * MARGIN * prepared.dense_us)
