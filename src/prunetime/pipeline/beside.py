"""Other pretrained models that stand beside the pruned one: read for the task of the run, checked, and tuned alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from prunetime.baselines.static import StaticModel, is_static, read_model2vec
from prunetime.core.embedding import EmbeddingSettings
from prunetime.core.progress import Say
from prunetime.core.prompts import Prompts
from prunetime.core.task import Task
from prunetime.core.task_kind import TASK_KINDS
from prunetime.errors import InputError
from prunetime.inference.inputs import Inputs
from prunetime.inference.pairs import PairInputs
from prunetime.models.checkpoint import folder_of, read_json
from prunetime.models.families import Pretrained
from prunetime.models.heads import heads_of
from prunetime.pipeline import pretrained as pretrained_models
from prunetime.pipeline import teacher_labels
from prunetime.pipeline.run import digest_of_files
from prunetime.pipeline.source import Source, check_trainable, model_digest
from prunetime.settings import Settings
from prunetime.tasks.data import Examples

WITHOUT_HEAD = (
    "to have it tuned with a fresh head, give its encoder alone: "
    "AutoModel.from_pretrained(FOLDER).save_pretrained(OTHER), with its tokenizer"
)


@dataclass(frozen=True)
class StaticSource(Source):
    """The sources of a run as a static embedding reads them: each text of an example apart, and no prompt before it."""

    static: StaticModel

    def _read(self, role: Examples) -> Inputs:
        encode = self.static.tokenizer.encode
        if self.task.traits.reads_apart:
            return PairInputs(self.task, encode([(text,) for texts in role.texts for text in texts]))
        return Inputs(self.task, encode(role.texts))


@dataclass(frozen=True)
class Beside:
    """Another pretrained model.

    Attributes:
        name: Its name for people.
        model: Its folder or hub id, as it was given.
        source: The sources of the run, with this model and its tokenizer in place of the run's own.
        digest: Digest of the files of the model.
    """

    name: str
    model: str
    source: Source
    digest: str


def load_beside(settings: Settings, source: Source, say: Say) -> tuple[Beside, ...]:
    """Reads the other models of a run.

    Raises InputError for the first that cannot be tuned on the task of the run, or is the run's own model.
    """
    if settings.beside and source.task.rows == "tokens":
        raise InputError(
            f"--beside {settings.beside[0]}: {source.task.kind} is of single tokens, and another model reads other "
            "ones, so that it cannot learn what the teacher says of them: leave --beside out"
        )
    names = _names(settings.beside)
    return tuple(
        _beside(name, model, settings, source, say) for name, model in zip(names, settings.beside, strict=True)
    )


def _beside(name: str, model: str, settings: Settings, source: Source, say: Say) -> Beside:
    try:
        folder = folder_of(model)
        if is_static(folder):
            digest = digest_of_files([path for path in folder.iterdir() if path.is_file()])
            return Beside(name, model, _static_source(read_model2vec(folder), source), digest)
        other = _source_of(model, settings, source, say)
    except InputError as error:
        raise InputError(f"--beside {model}: {error}") from error
    return Beside(name, model, other, model_digest(other))


def _static_source(static: StaticModel, source: Source) -> StaticSource:
    own = {field.name: getattr(source, field.name) for field in fields(Source)}
    plain = replace(source.task, prompts=Prompts(), embedding=EmbeddingSettings())
    return StaticSource(**own | {"task": plain, "static": static})


def _names(models: Sequence[str]) -> list[str]:
    """The last parts of the folders or hub ids, whole where these are not distinct."""
    short = [Path(model).expanduser().resolve().name for model in models]
    return [f"beside {model if short.count(name) > 1 else name}" for model, name in zip(models, short, strict=True)]


def _source_of(model: str, settings: Settings, source: Source, say: Say) -> Source:
    task = source.task
    found = pretrained_models.load(model, task.outputs, task.kind, say, settings.seed)
    _check_head(found, task)
    found = teacher_labels.in_order_of(task, found, model, ready=found.has_head, say=say)
    task = found.sentence.applied(task, found.has_head, is_trained=True)
    tokenizer, files = pretrained_models.tokenizer_for(task, found, model, say)
    other = replace(source, pretrained=found, tokenizer=tokenizer, tokenizer_files=files, task=task)
    if model_digest(other) == model_digest(source):
        raise InputError(
            f"it is the model itself, {settings.model}: dense, tuned as long, is measured anyway; give another"
        )
    check_trainable(other, replace(settings, model=model, tokens=False))
    return other


def _check_head(found: Pretrained, task: Task) -> None:
    """Raises InputError where the folder has a head, and that is of another task."""
    classes = read_json(found.folder / "config.json").get("architectures") or ()
    heads, wanted = heads_of(classes), TASK_KINDS[task.kind].head
    if heads and wanted not in heads:
        raise InputError(f"its head is that of {', '.join(classes)}, and the task is {task.kind}: {WITHOUT_HEAD}")
    if wanted == "embedding":
        return
    if not found.has_head and (heads or found.sentence.layers):
        of = f" of {', '.join(task.labels)}" if task.labels else ""
        raise InputError(f"its head has not the {task.outputs} outputs of the task, {task.kind}{of}: {WITHOUT_HEAD}")
    if found.has_head:
        teacher_labels.check_same_head(task, found, WITHOUT_HEAD)
