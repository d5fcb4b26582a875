"""The context of a run: what all of its stages share, and how a stage is declared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunetime.core import artifact
from prunetime.core.arrays import Int64Array
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig
from prunetime.core.effort import RunPlan
from prunetime.core.precision import PrecisionPlan
from prunetime.inference.engine import Engine, RunnableModel
from prunetime.latency.predictor import LatencyProfile
from prunetime.pipeline.beside import Beside, load_beside
from prunetime.pipeline.run import Run, digest_of
from prunetime.pipeline.source import Source, load_source, model_digest
from prunetime.pruning.prefix_repair import PrefixRepair
from prunetime.search.space import Genome, Space
from prunetime.settings import Settings
from prunetime.tasks.metrics import agreed_labels, with_best_threshold
from prunetime.tasks.roles import whole_groups

if TYPE_CHECKING:
    from prunetime.search.cluster import Workers

SCORE, SCORE_OF_REPAIRED = "agreement", "agreement of the repaired"
"""The kinds of a score; archives of other scores are refused."""

NOT_OF_THE_TEACHER = ("budget", "slices", "method", "tokens", "blocks")
"""Settings that teacher and importance do not depend on."""

COMPARED_GROUPS = 30
"""Models are compared on so many groups of test rows at least: fewer give no interval that says much."""

RUN_PLAN = "run-plan.json"

MODELS = ("teacher", "elastic")
"""The artifacts that a search starts from."""

PREFIX_REPAIR = "repair.safetensors"


@dataclass(frozen=True)
class Context:
    """The context of a run: its folder and settings and, when they are first asked for, its sources and the outputs of
    stages that are done.

    Attributes:
        run: The run folder.
        settings: What the run was asked to do.
        profile: A recorded latency profile that was given, or None where this machine is measured.
        workers: What scores candidates, or None where this process does.
        runs: How many runs have the time that the settings give, and follow the plan of the first of them.
    """

    run: Run
    settings: Settings
    profile: Path | None = None
    workers: Workers | None = None
    runs: int = 1

    @cached_property
    def source(self) -> Source:
        """The pretrained model, its tokenizer and the data."""
        return load_source(self.settings, self.run.reporter.say)

    @cached_property
    def beside(self) -> tuple[Beside, ...]:
        """The other models that are tuned alike."""
        return load_beside(self.settings, self.source, self.run.reporter.say)

    @cached_property
    def given(self) -> dict[str, Any]:
        """Digests of what was given, as far as teacher and importance depend on it."""
        roles = (self.source.roles.train, self.source.roles.valid, self.source.roles.test)
        return {
            "model": model_digest(self.source),
            "data": digest_of([[role.texts, role.labels.tolist() if role.labelled else None] for role in roles]),
            "settings": self.settings.of_models() | dict.fromkeys(NOT_OF_THE_TEACHER),
        }

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Digests of what teacher and importance depend on: what was given and, of the time, the plan for it."""
        return self.given | {"settings": self.given["settings"] | {"effort": self.run_plan.to_json()}}

    @property
    def budget(self) -> Budget:
        return self.settings.budget

    @cached_property
    def run_plan(self) -> RunPlan:
        """The amounts of training and search: those given, or those planned for the time given."""
        effort = self.settings.effort
        if isinstance(effort, RunPlan):
            return effort
        return RunPlan.from_json(self.run.read(RUN_PLAN))

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

    @property
    def reference(self) -> PrecisionPlan:
        """The precisions of the dense model that a budget in % is of, and that the teacher is run in."""
        of = self.budget.share_of
        return self.plan if of == "same" else PrecisionPlan.uniform(of)

    @cached_property
    def latency(self) -> LatencyProfile:
        return LatencyProfile.from_json(self.run.read("profile.json"))

    @cached_property
    def teacher(self) -> artifact.Artifact:
        return artifact.read(self.run.path("teacher"))

    @cached_property
    def elastic(self) -> artifact.Artifact:
        return artifact.read(self.run.path("elastic"))

    @cached_property
    def prefix_repair(self) -> PrefixRepair | None:
        """What repairs the sub-networks that a search scores; None where they were trained instead."""
        if not self.run_plan.repairs:
            return None
        return PrefixRepair.load(self.run.path(PREFIX_REPAIR), self.config.dims)

    @property
    def floor_us(self) -> float:
        """The microseconds of the model with every layer gone."""
        return self.latency.floor_and_dense(self.budget)[0]

    @property
    def dense_in_plan_us(self) -> float:
        """The microseconds of the dense model in the precisions that latencies are predicted for."""
        return self.latency.floor_and_dense(self.budget)[1]

    @property
    def dense_us(self) -> float:
        """The microseconds of the dense model that a budget in % is of."""
        if self.reference == self.plan:
            return self.dense_in_plan_us
        return self.dense_in_plan_us * float(self.run.read("dense.json")["over_plan"])

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
        score = SCORE_OF_REPAIRED if self.run_plan.repairs else SCORE
        return digest_of([score, *manifests, self.run_plan.score_rows, self.settings.seed])

    def better(self, value: float) -> float:
        """A value of the metric on valid rows, such that higher is better."""
        return value if self.source.valid_metric.higher_is_better else -value

    @cached_property
    def compared_rows(self) -> Int64Array:
        """Indices, ascending, of the test rows that all of what is compared is read on: up to the plan's
        `compared_rows`, whole groups, drawn by the seed."""
        groups, most = self.source.roles.test.groups, self.run_plan.compared_rows
        drawn = whole_groups(groups, most or len(groups), self.settings.seed)
        return drawn if len(np.unique(groups[drawn])) >= COMPARED_GROUPS else np.arange(len(groups))

    @cached_property
    def metric_on_valid(self) -> Callable[[RunnableModel], float]:
        """The metric of the scores of an engine that reads the run's own `source`, as `metric_of` says."""
        return self._metric_of(self.source)

    def metric_of(self, source: Source) -> Callable[[RunnableModel], float]:
        """The metric of an engine's scores on up to `finalist_rows` valid rows, whole groups, drawn by the seed, which
        the engine's model reads as `source` has them.

        Rows without labels have those that the teacher gives them. Where labels have a threshold, it is the best one on
        these rows, or the teacher's, where they have no labels.
        """
        return self.metric_on_valid if source is self.source else self._metric_of(source)

    def _metric_of(self, source: Source) -> Callable[[RunnableModel], float]:
        valid, metric = self.source.roles.valid, self.source.valid_metric
        chosen = whole_groups(valid.groups, self.run_plan.finalist_rows, self.settings.seed)
        inputs, labels, groups = source.valid.select(chosen), valid.labels[chosen], valid.groups[chosen]
        if not valid.labelled:
            read, task = self.source.valid.select(chosen), self.source.task
            labels = agreed_labels(task, task.at_half(read.scores(Engine.of(self.teacher).logits(read.tokens))))

        def value(engine: RunnableModel) -> float:
            scores = inputs.scores(engine.logits(inputs.tokens))
            task = with_best_threshold(inputs.task, scores, labels) if valid.labelled else inputs.task
            return metric.value(task.at_half(scores), labels, groups)

        return value


@dataclass(frozen=True)
class Stage:
    """A stage makes files of the run folder from those of earlier stages; `stage` declares one.

    Called with a context and the stage's parameters, it does its work unless that was done with equal inputs.

    Attributes:
        name: The name of its record in the folder, with parameters in braces.
        title: What people are told; or a function of the context and the parameters that gives it.
        outputs: The files and folders that it leaves, with parameters in braces.
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
            [output.format(**parameters) for output in self.outputs],
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
