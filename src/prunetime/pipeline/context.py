"""The context of a run: what all of its stages share, and how a stage is declared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunetime.core import artifact
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig
from prunetime.core.precision import PrecisionPlan
from prunetime.inference.engine import Engine
from prunetime.latency.predictor import LatencyProfile
from prunetime.pipeline.run import Run, digest_of
from prunetime.pipeline.source import Source, load_source, model_digest
from prunetime.search.space import Genome, Space
from prunetime.settings import Effort, Settings

if TYPE_CHECKING:
    from prunetime.search.cluster import Workers

SCORE = "agreement"
"""The kind of a score; archives of other scores are refused."""

NOT_OF_THE_TEACHER = ("budget", "slices", "method", "tokens", "blocks")
"""Settings that teacher and importance do not depend on."""

MODELS = ("teacher", "elastic")
"""The artifacts that a search starts from."""


@dataclass(frozen=True)
class Context:
    """The context of a run: its folder and settings and, when they are first asked for, its sources and the outputs of
    stages that are done.

    Attributes:
        run: The run folder.
        settings: What the run was asked to do.
        profile: A recorded latency profile that was given, or None where this machine is measured.
        workers: What scores candidates, or None where this process does.
    """

    run: Run
    settings: Settings
    profile: Path | None = None
    workers: Workers | None = None

    @cached_property
    def source(self) -> Source:
        """The pretrained model, its tokenizer and the data."""
        return load_source(self.settings, self.run.reporter.say)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Digests of what teacher and importance depend on."""
        roles = (self.source.roles.train, self.source.roles.valid, self.source.roles.test)
        return {
            "model": model_digest(self.source),
            "data": digest_of([[role.texts, role.labels.tolist()] for role in roles]),
            "settings": self.settings.of_models() | dict.fromkeys(NOT_OF_THE_TEACHER),
        }

    @property
    def budget(self) -> Budget:
        return self.settings.budget

    @property
    def effort(self) -> Effort:
        return self.settings.effort

    @property
    def config(self) -> EncoderConfig:
        """The dense encoder."""
        return self.source.pretrained.config

    @property
    def space(self) -> Space:
        return self.settings.space(self.config.dims)

    @cached_property
    def plan(self) -> PrecisionPlan:
        """The precisions that latencies are predicted for."""
        return PrecisionPlan.from_json(self.run.read("plan.json"))

    @cached_property
    def latency(self) -> LatencyProfile:
        return LatencyProfile.from_json(self.run.read("profile.json"))

    @cached_property
    def teacher(self) -> artifact.Artifact:
        return artifact.read(self.run.path("teacher"))

    @cached_property
    def elastic(self) -> artifact.Artifact:
        return artifact.read(self.run.path("elastic"))

    @property
    def floor_us(self) -> float:
        """The microseconds of the model with every layer gone."""
        return self.latency.floor_and_dense(self.budget)[0]

    @property
    def dense_us(self) -> float:
        return self.latency.floor_and_dense(self.budget)[1]

    @property
    def budget_us(self) -> float:
        return self.budget.resolve(self.dense_us)

    def predict(self, genome: Genome) -> float:
        """The predicted microseconds of a genome."""
        return self.latency.predict(self.space.spec(genome), self.budget)

    @property
    def archive_digest(self) -> str:
        """The digest of what the scores in the archive depend on: teacher, elastic encoder and the rows scored."""
        manifests = [self.run.path(f"{model}/manifest.json").read_text() for model in MODELS]
        return digest_of([SCORE, *manifests, self.effort.score_rows, self.settings.seed])

    def better(self, value: float) -> float:
        """A value of the metric, such that higher is better."""
        return value if self.source.metric.higher_is_better else -value

    @cached_property
    def metric_on_valid(self) -> Callable[[Engine], float]:
        """The metric of an engine's scores on up to `finalist_rows` valid rows, whole groups, drawn by the seed."""
        valid, metric = self.source.roles.valid, self.source.metric
        chosen = whole_groups(valid.groups, self.effort.finalist_rows, self.settings.seed)
        inputs, labels, groups = self.source.valid.select(chosen), valid.labels[chosen], valid.groups[chosen]
        return lambda engine: metric.value(inputs.scores(engine.logits(inputs.tokens)), labels, groups)


def whole_groups(groups: NDArray[np.int64], rows: int, seed: int) -> NDArray[np.int64]:
    """Indices, ascending, of the rows of randomly drawn groups: as many groups as fit into `rows`, at least one."""
    ids = np.random.default_rng(seed).permutation(np.unique(groups))
    counts = dict(zip(*np.unique(groups, return_counts=True), strict=True))
    total = np.cumsum([counts[group] for group in ids])
    drawn = ids[: max(1, int(np.searchsorted(total, rows, side="right")))]
    return np.flatnonzero(np.isin(groups, drawn))


@dataclass(frozen=True)
class Stage:
    """A stage makes files of the run folder from those of earlier stages; `stage` declares one.

    Called with a context and the stage's parameters, it does its work unless that was done with equal inputs.

    Attributes:
        name: The name of its record in the folder, with parameters in braces.
        title: What people are told; or a function of the context and the parameters that gives it.
        outputs: The files and folders that it leaves.
        inputs: Gives, as JSON, everything that the outputs depend on.
        work: Makes the outputs, and tells its progress.
    """

    name: str
    title: str | Callable[..., str]
    outputs: tuple[str, ...]
    inputs: Callable[..., Any]
    work: Callable[..., None]

    def __call__(self, context: Context, **parameters: Any) -> None:
        context.run.do(
            self.name.format(**parameters),
            self.title if isinstance(self.title, str) else self.title(context, **parameters),
            self.inputs(context, **parameters),
            list(self.outputs),
            partial(self.work, context, **parameters),
        )

    @property
    def summary(self) -> str:
        """The first paragraph of the description of its work, on one line."""
        return " ".join((self.work.__doc__ or "").partition("\n\n")[0].split())


def stage(
    name: str, title: str | Callable[..., str], outputs: Sequence[str], inputs: Callable[..., Any]
) -> Callable[[Callable[..., None]], Stage]:
    """Declares a function of (context, progress, **parameters) as the work of a stage."""
    return lambda work: Stage(name, title, tuple(outputs), inputs, work)
