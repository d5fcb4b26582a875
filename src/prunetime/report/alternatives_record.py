"""The part of a run's record that says what one would take instead of the pruned model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prunetime.core.estimate import Estimate
from prunetime.latency.measure import LatencySummary
from prunetime.report.schema import Json, estimate, latency_of, number


@dataclass(frozen=True)
class ComparedModel:
    """A model that was timed and read beside the answer of the run.

    Attributes:
        name: What it is, for people.
        latency: Its latency in the budget's own setting.
        share: Its latency as a share of the dense model's, in the same rounds.
        quality: The metric on the test rows.
        difference: That less the answer's, on the same resamples.
        valid: The metric on valid rows.
        inside: Whether it is inside the budget.
    """

    name: str
    latency: LatencySummary
    share: Estimate
    quality: Estimate
    difference: Estimate
    valid: float
    inside: bool

    @classmethod
    def from_json(cls, data: Json) -> ComparedModel:
        share, quality, difference = (estimate(data[name]) for name in ("share", "quality", "difference"))
        latency, valid = latency_of(data["latency"]), number(data["valid"])
        return cls(str(data["name"]), latency, share, quality, difference, valid, bool(data["inside"]))

    @property
    def kind(self) -> str:
        """The colour and shape it is drawn with: that of the dense model, of the pruned one, or of others."""
        first = self.name.partition(",")[0]
        return first if first in ("dense", "pruned") and "tuned" not in self.name else "other"


@dataclass(frozen=True)
class Alternatives:
    """The models that were compared (`alternatives.json`), the name of the `answer`, and why it is the answer.

    Attributes:
        models: The models, in the order in which they were timed.
        answer: The name of the model that the run gives.
        why: Why it is the answer.
        sentence: What it keeps, and what the next best does.
        better: Files of other libraries that are inside the budget and better than the answer, by the name of the
            model, from the run's folder.
        not_measured: Why another library was not measured, by the name that its model would have.
        rows: The test rows that the models were read on, whole groups, drawn by the seed; None for all of them.
    """

    models: tuple[ComparedModel, ...]
    answer: str
    why: str
    sentence: str
    better: Mapping[str, str]
    not_measured: Mapping[str, str]
    rows: int | None

    @classmethod
    def from_json(cls, data: Json) -> Alternatives:
        models = tuple(ComparedModel.from_json(line) for line in data["lines"])
        if data["answer"] not in {model.name for model in models}:
            raise ValueError(f"the answer {data['answer']!r} is none of the models")
        better, not_measured = (dict(data.get(name, {})) for name in ("better", "not_measured"))
        said = str(data["why"]), str(data["sentence"])
        return cls(models, data["answer"], *said, better, not_measured, data.get("rows"))
