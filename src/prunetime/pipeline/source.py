"""Stage one: the model, its tokenizer and the data, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunetime.core.arch import BlockShape
from prunetime.core.arrays import Int64Array
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig, LogitRows
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Say
from prunetime.core.task import Task
from prunetime.core.task_kind import TASK_KINDS
from prunetime.errors import InputError
from prunetime.inference.engine import RunnableModel
from prunetime.inference.inputs import Inputs
from prunetime.inference.reading import read
from prunetime.inference.tokenize import Tokenizer
from prunetime.latency import profiling
from prunetime.latency.predictor import LatencyProfile
from prunetime.latency.settings import TimingSettings
from prunetime.models import families
from prunetime.models.batches import TrainingData
from prunetime.pipeline import pretrained as pretrained_models
from prunetime.pipeline import teacher_labels, unlabelled
from prunetime.pipeline.run import digest_of_files
from prunetime.settings import Settings
from prunetime.tasks.benchmarks import BENCHMARKS
from prunetime.tasks.data import Columns, Examples, examples, task_of
from prunetime.tasks.labels import label_notes
from prunetime.tasks.metrics import AGREEMENT, Metric, default_metric, metric, with_best_threshold
from prunetime.tasks.roles import Roles, Slice, parse_slice, split_roles, unlearnable, whole_groups
from prunetime.tasks.sources import read_table
from prunetime.tasks.table import Table

LEAST_GROUPS = 20
"""With fewer groups of several rows there is no order to be learned."""


@dataclass(frozen=True)
class Source:
    """The sources of a run: the pretrained model and the data. `roles.test` is read by verify alone.

    `metric` judges test rows and `valid_metric` valid rows: that of the task where they have labels, else `AGREEMENT`.
    With `teacher_ready` the model is the teacher as it is.
    """

    pretrained: families.Pretrained
    tokenizer: Tokenizer
    tokenizer_files: Mapping[str, bytes]
    task: Task
    metric: Metric
    valid_metric: Metric
    columns: Columns
    roles: Roles
    slices: tuple[Slice, ...]
    teacher_ready: bool

    @property
    def labelled(self) -> bool:
        """Whether the rows that models are trained on have labels."""
        return self.roles.train.labelled

    @cached_property
    def train(self) -> Inputs:
        return self._read(self.roles.train)

    @cached_property
    def valid(self) -> Inputs:
        return self._read(self.roles.valid)

    @cached_property
    def test(self) -> Inputs:
        return self._read(self.roles.test)

    def task_for(self, engine: RunnableModel) -> Task:
        """The task; where labels have a threshold, with the one that is best for an engine on valid rows, or the
        teacher's, where these have no labels."""
        if not (self.task.traits.is_multi_label and self.roles.valid.labelled):
            return self.task
        scores = self.valid.scores(engine.logits(self.valid.tokens))
        return with_best_threshold(self.task, scores, self.roles.valid.labels)

    def _read(self, role: Examples) -> Inputs:
        try:
            return read(self.tokenizer, self.task, role.texts)
        except InputError as error:
            raise InputError(f"{role.table.name}: {error}") from error

    @cached_property
    def orders_groups(self) -> bool:
        """Whether the order of a group's rows is what counts: the metric is of that order, a pair that is read together
        has one score, and at least `LEAST_GROUPS` groups have several rows to train on."""
        if not (self.metric.of_order and self.task.is_ranking and self.task.read_together):
            return False
        return int((np.unique(self.roles.train.groups, return_counts=True)[1] > 1).sum()) >= LEAST_GROUPS

    def drawn(self, examples: int, seed: int, *, by_group: bool = False) -> Int64Array:
        """Indices, ascending, of up to `examples` of the train role, drawn without replacement by `seed`; or all of
        groups that are drawn so."""
        if by_group:
            return whole_groups(self.roles.train.groups, examples, seed)
        return np.sort(np.random.default_rng(seed).permutation(len(self.roles.train))[:examples])

    def training_data(self, examples: int, seed: int, *, by_group: bool = False) -> TrainingData:
        """The examples that `drawn` gives, with their groups where they are drawn by those."""
        chosen = self.drawn(examples, seed, by_group=by_group)
        inputs = self.train.select(chosen)
        shape = self.task.score_shape if self.task.traits.is_multi_label else ()
        none = np.zeros((len(chosen), *shape), np.float32)
        labels = scaled(self.task, self.roles.train.labels)[chosen] if self.labelled else none
        targets, pad_id = inputs.targets(labels), self.pretrained.pad_token_id
        groups = self.roles.train.groups[chosen] if by_group else None
        return TrainingData(inputs.tokens, targets, self.task, pad_id, self.labelled, groups=groups)


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
    columns = unlabelled.train_columns(settings, train_table, say)
    for part in parsed:
        train_table.column(part.column)
    beside = _tables_beside(settings, columns)
    if columns.label:
        task = task_of(train_table, columns, settings.budget.seq_len, settings.task, doc_stride=settings.doc_stride)
    else:
        task = unlabelled.task_of_model(settings, (train_table, columns), beside.values(), say)
    ready = settings.teacher_ready or not columns.label
    if ready:
        task = teacher_labels.with_labels_of_teacher(task, families.named_labels(settings.model), settings.model, say)
    chosen = metric(settings.metric) if settings.metric else default_metric(task, settings.data)
    chosen.check(task)
    read_examples = {
        name: _examples(*part, task, say) for name, part in {"train": (train_table, columns), **beside}.items()
    }
    train, valid, test = (read_examples.get(name) for name in ("train", "validation", "test"))
    assert train is not None
    roles = split_roles(train, valid, test, settings.seed)
    if not columns.label:
        roles = unlabelled.paired_roles(roles, task, settings.seed)
    on_test, on_valid = (chosen if role.labelled else AGREEMENT for role in (roles.test, roles.valid))
    if settings.metric and chosen not in (on_test, on_valid):
        raise InputError(
            f"--metric {settings.metric} needs labels, and neither valid nor test rows have any: leave it out, or give "
            "rows with labels as --test"
        )
    check_defined(chosen, task, roles.valid, "valid")
    check_defined(chosen, task, roles.test, "test")
    parsed, empty = with_figures(parsed, chosen, task, roles)
    unlearned = unlearnable(roles, task.labels) if columns.label and task.traits.is_multi_label else ()
    roles = replace(roles, warnings=(*roles.warnings, *empty, *unlearned))
    for warning in roles.warnings:
        say(warning)
    model = pretrained_models.load(settings.model, task.outputs, task.kind, say, settings.seed)
    if ready:
        _check_teacher(settings, task, model)
    model = teacher_labels.in_order_of(task, model, settings.model, ready, say)
    task = model.sentence.applied(task, model.has_head, is_trained=not ready)
    tokenizer, files = pretrained_models.tokenizer_for(task, model, settings.model, say)
    source = Source(model, tokenizer, files, task, on_test, on_valid, columns, roles, parsed, ready)
    if task.traits.reads_windows:
        # A question that fits no window is refused here: hours later would be too late.
        _ = source.train, source.valid, source.test
    return source


def check_defined(metric: Metric, task: Task, role: Examples, name: str) -> None:
    """Raises InputError where `metric` says nothing about the rows `name` of `role`, whatever a model's scores are."""
    if task.rows == "tokens" or not role.labelled:  # whose metrics are defined on any rows
        return
    scores = np.random.default_rng(0).random((len(role), *task.score_shape), np.float32)
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
    say: Say | None = None,
) -> tuple[EncoderConfig, LatencyProfile]:
    """The encoder of `model`, with a head of `rows`, and its latency profile on this machine; see `profiling.record`.

    Raises InputError where the model cannot be read, or is too short for the budget's sequences.
    """
    kind = next(kind for kind, traits in TASK_KINDS.items() if traits.rows == rows)
    pretrained = families.load(model, None if rows == "embedding" else 2, kind=kind)
    pretrained_models.check_length(budget.seq_len, pretrained)
    tokenizer = Tokenizer(pretrained_models.tokenizer_of(pretrained, budget.seq_len).content, budget.seq_len)
    more: Any = {"blocks": blocks, "tokens": tokens, "on_progress": on_progress, "say": say}
    recorded = profiling.record(pretrained.config, tokenizer, True, budget, plan=plan, timing=timing, **more)
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
        has_one = task.is_binary and families.load(settings.model, 1).has_head
        raise InputError(
            f"{settings.model} has no head of {task.outputs} outputs, so it is no teacher for this task"
            f"{'; it has one: --task relevance takes that, or' if has_one else ':'} "
            "leave --teacher-ready out and it will be fine-tuned"
        )
    teacher_labels.check_problem_type(task, pretrained, settings.model)


def _tables_beside(settings: Settings, columns: Columns) -> dict[str, unlabelled.TablePart]:
    """The valid and test data that are given, by split, with the columns of the train data; with their own where that
    has no labels."""
    test = settings.test or (settings.data if settings.data in BENCHMARKS else None)
    named = {"validation": settings.valid, "test": test}
    tables = {split: read_table(name, split) for split, name in named.items() if name}
    if columns.label:
        return {split: (table, columns) for split, table in tables.items()}
    return {split: (table, unlabelled.own_columns(table, columns, settings.label)) for split, table in tables.items()}


def _examples(table: Table, columns: Columns, task: Task, say: Say) -> Examples:
    for note in label_notes(table, columns.label, task) if columns.label else ():
        say(note)
    return examples(table, columns, task)
