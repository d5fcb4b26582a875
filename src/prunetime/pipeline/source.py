"""Stage one: the model, its tokenizer and the data, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.core.arch import BlockShape
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig, LogitRows
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Say
from prunetime.core.task import Task
from prunetime.core.task_kind import TASK_KINDS
from prunetime.errors import InputError
from prunetime.inference.inputs import Inputs
from prunetime.inference.reading import read
from prunetime.inference.tokenize import Tokenizer
from prunetime.latency import profiling
from prunetime.latency.predictor import LatencyProfile
from prunetime.latency.settings import TimingSettings
from prunetime.models import families
from prunetime.models.batches import TrainingData
from prunetime.pipeline import pretrained as pretrained_models
from prunetime.pipeline import teacher_labels
from prunetime.pipeline.run import digest_of_files
from prunetime.settings import Settings
from prunetime.tasks.benchmarks import BENCHMARKS
from prunetime.tasks.data import Columns, Examples, examples, guess_columns, task_of
from prunetime.tasks.labels import label_notes
from prunetime.tasks.metrics import Metric, default_metric, metric
from prunetime.tasks.roles import Roles, Slice, parse_slice, split_roles
from prunetime.tasks.sources import read_table


@dataclass(frozen=True)
class Source:
    """The sources of a run: the pretrained model and the data. `roles.test` is read by verify alone."""

    pretrained: families.Pretrained
    tokenizer: Tokenizer
    tokenizer_files: Mapping[str, bytes]
    task: Task
    metric: Metric
    columns: Columns
    roles: Roles
    slices: tuple[Slice, ...]

    @cached_property
    def train(self) -> Inputs:
        return self._read(self.roles.train)

    @cached_property
    def valid(self) -> Inputs:
        return self._read(self.roles.valid)

    @cached_property
    def test(self) -> Inputs:
        return self._read(self.roles.test)

    def _read(self, role: Examples) -> Inputs:
        try:
            return read(self.tokenizer, self.task, role.texts)
        except InputError as error:
            raise InputError(f"{role.table.name}: {error}") from error

    def training_data(self, examples: int, seed: int) -> TrainingData:
        """Up to `examples` of the train role, drawn without replacement by `seed`."""
        order = np.random.default_rng(seed).permutation(len(self.roles.train))[:examples]
        chosen = np.sort(order)
        inputs = self.train.select(chosen)
        labels = inputs.targets(scaled(self.task, self.roles.train.labels)[chosen])
        return TrainingData(inputs.tokens, labels, self.task, self.pretrained.pad_token_id)


def scaled(task: Task, labels: NDArray[Any]) -> NDArray[Any]:
    """The labels; of similarity scaled to 0 to 1, as a cosine can be, where any lies outside of -1 to 1."""
    if not task.traits.reads_apart or float(np.abs(labels).max()) <= 1.0:
        return labels
    low, high = labels.min(), labels.max()
    return np.asarray((labels - low) / (high - low))


def load_source(settings: Settings, say: Say) -> Source:
    """Reads everything a run needs; raises InputError for the first thing that cannot be used."""
    parsed = tuple(parse_slice(text) for text in settings.slices)
    train_table = read_table(settings.data)
    columns, guess = guess_columns(train_table, settings.text or (), settings.label, settings.group)
    if guess:
        say(guess)
    for part in parsed:
        train_table.column(part.column)
    task = task_of(train_table, columns, settings.budget.seq_len, settings.task, doc_stride=settings.doc_stride)
    for note in label_notes(train_table, columns.label, task):
        say(note)
    if settings.teacher_ready:
        task = teacher_labels.with_labels_of_teacher(task, families.named_labels(settings.model), settings.model, say)
    chosen = metric(settings.metric) if settings.metric else default_metric(task, settings.data)
    chosen.check(task)
    roles = split_roles(
        examples(train_table, columns, task),
        _given(settings.valid, "validation", columns, task, say),
        _given(settings.test or (settings.data if settings.data in BENCHMARKS else None), "test", columns, task, say),
        settings.seed,
    )
    check_defined(chosen, task, roles.valid, "valid")
    check_defined(chosen, task, roles.test, "test")
    parsed, empty = with_figures(parsed, chosen, task, roles)
    roles = replace(roles, warnings=(*roles.warnings, *empty))
    for warning in roles.warnings:
        say(warning)
    model = pretrained_models.load(settings.model, task.outputs, task.kind, say, settings.seed)
    if settings.teacher_ready:
        _check_teacher(settings, task, model)
    model = teacher_labels.in_order_of(task, model, settings.model, settings.teacher_ready, say)
    task = model.sentence.applied(task, model.has_head, is_trained=not settings.teacher_ready)
    tokenizer, files = pretrained_models.tokenizer_for(task, model, settings.model, say)
    source = Source(model, tokenizer, files, task, chosen, columns, roles, parsed)
    if task.traits.reads_windows:
        # A question that fits no window is refused here: hours later would be too late.
        _ = source.train, source.valid, source.test
    return source


def check_defined(metric: Metric, task: Task, role: Examples, name: str) -> None:
    """Raises InputError where `metric` says nothing about the rows `name` of `role`, whatever a model's scores are."""
    if task.rows == "tokens":  # whose metrics are defined on any rows
        return
    shape = (len(role), len(task.labels)) if len(task.labels) > 2 else (len(role),)
    scores = np.random.default_rng(0).random(shape, np.float32)
    try:
        metric.value(scores, role.labels, role.groups)
    except InputError as error:
        raise InputError(f"the {len(role)} rows of {name}: {error}") from error


def with_figures(
    slices: tuple[Slice, ...], metric: Metric, task: Task, roles: Roles
) -> tuple[tuple[Slice, ...], tuple[str, ...]]:
    """The slices of the test rows on which the metric can be reported, and a sentence on each of the others.

    Raises InputError where the test data lack the column of one.
    """
    reported, warnings = [], []
    for part in slices:
        roles.test.column(part.column)
        try:
            rows = part.select(roles.test, roles.train)
            check_defined(metric, task, rows, part.name)
            if len(np.unique(rows.groups)) < 2:
                raise InputError(f"slice {part.name}: all {len(rows)} rows are of one group")
        except InputError as error:
            warnings.append(f"{error}: the report will have no figure for it")
        else:
            reported.append(part)
    return tuple(reported), tuple(warnings)


def profile_of(
    model: str,
    budget: Budget,
    plan: PrecisionPlan,
    rows: LogitRows = "pooled",
    *,
    blocks: BlockShape | None = None,
    tokens: bool = False,
    timing: TimingSettings = TimingSettings(),
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[EncoderConfig, LatencyProfile]:
    """The encoder of `model`, with a head of `rows`, and its latency profile on this machine; see `profiling.record`.

    Raises InputError where the model cannot be read, or is too short for the budget's sequences.
    """
    kind = next(kind for kind, traits in TASK_KINDS.items() if traits.rows == rows)
    pretrained = families.load(model, None if rows == "embedding" else 2, kind=kind)
    pretrained_models.check_length(budget.seq_len, pretrained)
    tokenizer = Tokenizer(pretrained_models.tokenizer_of(pretrained, budget.seq_len).content, budget.seq_len)
    covered: Any = {"blocks": blocks, "tokens": tokens}
    recorded = profiling.record(
        pretrained.config, tokenizer, True, budget, plan=plan, timing=timing, on_progress=on_progress, **covered
    )
    return pretrained.config, recorded


def check_trainable(source: Source, settings: Settings) -> None:
    """Raises InputError where texts are embedded in a way that training does not know."""
    config, embedding = source.pretrained.config, source.task.embedding
    if not source.task.traits.reads_apart:
        return
    if not embedding.orders_as_cosine(config.normalize):
        raise InputError(
            f"similarity_fn_name {embedding.similarity_fn_name!r} of {settings.model} has no scale that labels could "
            "be on: training is of cosines. Set it to 'cosine' in config_sentence_transformers.json, or let the model "
            "end in Normalize"
        )
    if settings.tokens and not embedding.include_prompt:
        raise InputError(
            f"--tokens drops tokens, but {settings.model} leaves the tokens of prompts out of pooling (include_prompt "
            "false): leave --tokens out"
        )


def model_digest(source: Source) -> str:
    """Digest of the pretrained model's files."""
    return digest_of_files(source.pretrained.sentence.files())


def _check_teacher(settings: Settings, task: Task, pretrained: families.Pretrained) -> None:
    """Raises InputError where the model cannot be the teacher as it is."""
    if not pretrained.has_head:
        has_one = len(task.labels) == 2 and families.load(settings.model, 1).has_head
        raise InputError(
            f"{settings.model} has no head of {task.outputs} outputs, so it is no teacher for this task"
            f"{'; it has one: --task relevance takes that, or' if has_one else ':'} "
            "leave --teacher-ready out and it will be fine-tuned"
        )
    teacher_labels.check_problem_type(task, pretrained, settings.model)


def _given(name: str | None, split: str, columns: Columns, task: Task, say: Say) -> Examples | None:
    if not name:
        return None
    table = read_table(name, split)
    for note in label_notes(table, columns.label, task):
        say(note)
    return examples(table, columns, task)
