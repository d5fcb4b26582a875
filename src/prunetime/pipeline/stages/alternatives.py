"""The stages that make and measure what one would take instead of the pruned model, and choose the answer of the run.

An alternative is tuned from the same teacher, on the same rows, for as many steps as the pruned model, or it is the
dense model in the int8 of another library. All are timed in turn in one process, and compared on the same test rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prunetime.baselines.libraries import FileModel
from prunetime.baselines.static import FILE as STATIC
from prunetime.baselines.static import StaticModel
from prunetime.baselines.timing import time_with_files
from prunetime.core import artifact
from prunetime.core.arrays import Array
from prunetime.core.estimate import Estimate
from prunetime.core.mask import Mask
from prunetime.core.precision import PRECISIONS, PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.inference.engine import RunnableModel
from prunetime.latency.measure import Samples, ratio, summarise
from prunetime.latency.timing import Job, SamplesBySetting
from prunetime.pipeline.beside import StaticSource
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.run import Run
from prunetime.pipeline.source import Source
from prunetime.pipeline.stages.beside import FOLDER as BESIDE
from prunetime.pipeline.stages.beside import tune_beside
from prunetime.pipeline.stages.libraries import FOLDER, files_of_libraries, quantise_with_libraries
from prunetime.pipeline.stages.measure import calls_each_round
from prunetime.pipeline.stages.structures import Structure, tune_alternative
from prunetime.pipeline.stages.verify import measure_until_decided, measured_record, scores_on_test, verification
from prunetime.pipeline.student import THREADS, engine_of, write_artifact
from prunetime.pipeline.verdict import judge
from prunetime.tasks.metrics import Metric, agreed_labels, evaluate, evaluate_difference

PRUNED = "pruned"
"""The line of the model that the run made, in the precisions that were chosen for it."""

REFERENCE = "dense"
"""The line of the dense model that a budget in % is of."""


@dataclass(frozen=True)
class Line:
    """A model that is measured: an artifact, the precisions that it is run in, the rows as it reads them, and what it
    keeps of the dense model; None of another model.

    With a `file` another library runs it, or it is a static embedding, and it cannot be the answer.
    """

    model: artifact.Artifact
    plan: PrecisionPlan
    source: Source
    mask: Mask | None
    file: Path | None = None

    @property
    def weights(self) -> str:
        """The identity of its weights: other precisions and libraries run the same ones."""
        if self.file and self.file.name == STATIC:
            return str(self.file)
        return self.model.digests[artifact.WEIGHTS]

    def runnable(self, batch: int) -> RunnableModel:
        """The engine that runs it; or the file, by `batch` sequences at a time."""
        if self.file is None:
            return engine_of(self.model, self.plan)
        if self.file.name == STATIC:
            return StaticModel.read(self.file.parent)
        return FileModel(self.file, self.model.manifest.config, batch, THREADS)


def lines(context: Context, tuned: Mapping[str, Structure]) -> dict[str, Line]:
    """Everything that is measured, by name: dense and pruned in each precision, the tuned alternatives, the other
    models beside them, and the dense model in other libraries."""
    run, source, full = context.run, context.source, Mask.full(context.config.dims)
    pruned, mask = artifact.read(run.path("candidate")), Mask.from_json(run.read("mask.json"))
    found = {
        REFERENCE: Line(context.teacher, context.reference, source, full),
        PRUNED: Line(pruned, pruned.manifest.plan, source, mask),
    }
    plans = {precision: PrecisionPlan.uniform(precision) for precision in PRECISIONS}
    found |= {f"dense, {name}": Line(context.teacher, plan, source, full) for name, plan in plans.items()}
    found |= {f"pruned, {name}": Line(pruned, plan, source, mask) for name, plan in plans.items()}
    for folder, structure in tuned.items():
        model = artifact.read(run.path(f"{FOLDER}/{folder}"))
        found[structure.name] = Line(model, model.manifest.plan, source, structure.mask)
        if structure.mask != full:  # its own precisions may have taken it out of the budget that it was cut for
            name = f"{structure.name}, {context.plan.described()}"
            found[name] = Line(model, context.plan, source, structure.mask)
    static = dict[str, Line]()
    for number, other in enumerate(context.beside):
        path = run.path(BESIDE.format(number=number))
        if isinstance(other.source, StaticSource):
            static[other.name] = Line(context.teacher, PrecisionPlan(), other.source, None, path / STATIC)
            continue
        model = artifact.read(path)
        found[other.name] = Line(model, model.manifest.plan, other.source, None)
        found[f"{other.name}, fp32"] = Line(model, PrecisionPlan(), other.source, None)
    known: dict[tuple[str, str], str] = {}  # the same weights in the same precisions are one line
    for name, line in list(found.items()):
        same = line.weights, repr(replace(line.plan, quality_loss=None))
        if known.setdefault(same, name) != name and name != PRUNED:
            del found[name]
    files = files_of_libraries(run).files
    return (
        found
        | static
        | {name: Line(context.teacher, plans["int8"], source, full, file) for name, file in files.items()}
    )


def _lines_inputs(context: Context, tuned: Mapping[str, Structure]) -> list[Any]:
    folders = ["teacher", "candidate", *(f"{FOLDER}/{folder}" for folder in tuned)]
    folders += [BESIDE.format(number=number) for number in range(len(context.beside))]
    of_libraries = files_of_libraries(context.run)
    libraries = [sorted(of_libraries.files), of_libraries.not_measured]
    manifests = [context.run.path(f"{folder}/manifest.json").read_text() for folder in folders]
    return [manifests, context.budget.to_json(), libraries]


@stage(
    "alternatives",
    "Compare with what one would take instead",
    ["alternatives.json", "answer.json"],
    inputs=_lines_inputs,
)
def measure_alternatives(context: Context, progress: Progress, tuned: Mapping[str, Structure]) -> None:
    """Times all models in turn, reads test rows with all of them, and chooses the answer on valid rows.

    An answer other than the pruned model is verified as that was.
    """
    run, budget, timing = context.run, context.budget, context.settings.timing
    compared = lines(context, tuned)
    job = Job(
        {name: str(line.model.folder) for name, line in compared.items()},
        budget,
        timing.verify_rounds,
        calls_each_round(context),
        timing.verify_seconds,
        plans={name: line.plan.to_json() for name, line in compared.items()},
        files={name: str(line.file) for name, line in compared.items() if line.file},
        settings=[(budget.scope, budget.condition)],
    )
    timed = time_with_files(job, progress)[budget.scope, budget.condition]
    engines = {name: line.runnable(budget.batch) for name, line in compared.items()}
    on_valid = {name: context.metric_of(line.source)(engines[name]) for name, line in compared.items()}
    rows = context.compared_rows
    on_test = {name: scores_on_test(line.source, {name: engines[name]}, rows)[name] for name, line in compared.items()}
    inside = {name: judge(budget, _beside_dense(context, timed, name)).met for name in compared}
    while True:
        ours = {name: fits for name, fits in inside.items() if compared[name].file is None}
        answer, why = _answer(context, ours, on_valid, on_test)
        if answer == PRUNED or _verify_answer(context, compared[answer], progress):
            break
        inside[answer] = False
    found = [
        _line(context, timed, name, on_test, answer) | {"inside": inside[name], "valid": on_valid[name]}
        for name in compared
    ]
    same = {name for name, line in compared.items() if line.weights == compared[answer].weights}
    said = sentence(found, answer, same, context.source.metric)
    record: dict[str, Any] = {"lines": found, "answer": answer, "why": why, "sentence": said}
    if len(rows) < len(context.source.roles.test):
        record["rows"] = len(rows)
    better = _better_files(context, compared, inside, on_test, answer)
    not_measured = files_of_libraries(run).not_measured
    run.write("alternatives.json", record | {"better": better, "not_measured": not_measured})
    line = compared[answer]
    structure = {"mask": line.mask.to_json()} if line.mask else {"dims": line.model.manifest.config.dims.to_json()}
    run.write("answer.json", {"name": answer} | structure)


def _verify_answer(context: Context, line: Line, progress: Progress) -> bool:
    """Writes a model as the answer, measures it as the pruned model was, and returns whether it is inside the budget.

    Where it is, `verify.json` has its figures in the place of the pruned model's.
    """
    run = context.run
    folder = run.path(f"{FOLDER}/answer")
    write_artifact(folder, line.source, replace(line.model.manifest, plan=line.plan), dict(line.model.weights))
    timed, verdict = measure_until_decided(verification(context, folder), progress)
    if verdict.met:
        of_dense = scores_on_test(context.source, {"dense": engine_of(context.teacher)})
        scores = of_dense | scores_on_test(line.source, {"pruned": line.runnable(context.budget.batch)})
        measured = measured_record(context, artifact.read(folder), timed, verdict, scores)
        run.write("verify.json", run.read("verify.json") | measured)
    return verdict.met


def _beside_dense(context: Context, timed: Mapping[str, Samples], name: str) -> SamplesBySetting:
    """The samples of one model, called pruned, and of the dense one, as verdicts want them."""
    budget = context.budget
    return {(budget.scope, budget.condition): {"dense": timed[REFERENCE], "pruned": timed[name]}}


def _answer(
    context: Context, inside: Mapping[str, bool], on_valid: Mapping[str, float], on_test: Mapping[str, Array]
) -> tuple[str, str]:
    """The best model inside the budget by valid rows, the pruned one where none is better, and the reason in words.

    Of the test rows only this much is used: where another model inside the budget is better there beyond chance, it is
    the answer.
    """
    metric = context.source.valid_metric
    candidates = [PRUNED, *(name for name, fits in inside.items() if fits and name != PRUNED)]
    others = [name for name in candidates if not name.startswith(f"{PRUNED}, ")]  # its precisions are chosen already
    best = max(others, key=lambda name: context.better(on_valid[name]))  # the first of equals
    why = "it is the best inside the budget on valid rows"
    if best != PRUNED:
        why = f"{metric.name} on valid rows is {on_valid[best]:.4f}, and {on_valid[PRUNED]:.4f} of the pruned model"
    for name in candidates:
        if name != best and _is_better(context, on_test, name, best):
            best, why = name, f"on the test rows it is better than {best} beyond chance"
    return best, why


def _better_files(
    context: Context,
    compared: Mapping[str, Line],
    inside: Mapping[str, bool],
    on_test: Mapping[str, Array],
    answer: str,
) -> dict[str, str]:
    """The files that are inside the budget and better than the answer beyond chance on test rows, by name, from the
    run's folder: no run ends with an answer that is beaten in silence."""
    return {
        name: str(line.file.relative_to(context.run.folder))
        for name, line in compared.items()
        if line.file and inside[name] and _is_better(context, on_test, name, answer)
    }


def _is_better(context: Context, on_test: Mapping[str, Array], one: str, other: str) -> bool:
    metric = context.source.metric
    labels, groups = _labels_and_groups(context, on_test)
    difference = evaluate_difference(metric, on_test[one], on_test[other], labels, groups)
    return difference.low > 0 if metric.higher_is_better else difference.high < 0


def _labels_and_groups(context: Context, on_test: Mapping[str, Array]) -> tuple[Array, Array]:
    """The labels and groups of the test rows that are read; labels that the dense model gives them where they have
    none."""
    test, rows = context.source.roles.test, context.compared_rows
    labels = test.labels[rows] if test.labelled else agreed_labels(context.source.task, on_test[REFERENCE])
    return labels, test.groups[rows]


def _line(
    context: Context, timed: Mapping[str, Samples], name: str, on_test: Mapping[str, Array], answer: str
) -> dict[str, Any]:
    """The figures of one model: its latency, and its metric on the test rows beside the answer's."""
    budget, metric = context.budget, context.source.metric
    share = ratio(timed[name], timed[REFERENCE], budget.statistic)
    latency = summarise(timed[name], budget.statistic)
    labels, groups = _labels_and_groups(context, on_test)
    quality = evaluate(metric, on_test[name], labels, groups)
    beside: Estimate = evaluate_difference(metric, on_test[name], on_test[answer], labels, groups)
    return {
        "name": name,
        "latency": latency.to_json(),
        "share": share.to_json(),
        "quality": quality.to_json(),
        "difference": beside.to_json(),
    }


def compare(context: Context, tuned: Mapping[str, Structure]) -> str:
    """Makes and measures the alternatives, and says which model is the answer; returns the artifact's folder."""
    for folder, structure in tuned.items():
        tune_alternative(context, folder=folder, structure=structure)
    for number in range(len(context.beside)):
        tune_beside(context, number=number)
    quantise_with_libraries(context)
    measure_alternatives(context, tuned=tuned)
    found = context.run.read("alternatives.json")
    context.run.reporter.say(found["sentence"])
    for name, file in kept_files(context.run).items():
        context.run.reporter.say(
            f"{name} is inside the budget and better than the answer beyond chance on test rows: "
            f"prunetime cannot serve it, and {file} is kept"
        )
    return "candidate" if found["answer"] == PRUNED else f"{FOLDER}/answer"


def kept_files(run: Run) -> dict[str, Path]:
    """The files that are kept because they are better than the answer of a run, by the names of their lines."""
    compared = run.read("alternatives.json") if run.path("alternatives.json").exists() else {}
    return {name: run.path(file) for name, file in compared.get("better", {}).items()}


def discard_alternatives(run: Run) -> None:
    """Removes the models that were compared, but for the files of libraries that are better than the answer."""
    if not run.path(FOLDER).exists():
        return
    kept = {file.parent for file in kept_files(run).values()}
    for folder in set(run.path(FOLDER).iterdir()) - kept:
        shutil.rmtree(folder)
    if not kept:
        run.path(FOLDER).rmdir()


def sentence(found: Sequence[Mapping[str, Any]], answer: str, same: Collection[str], metric: Metric) -> str:
    """What the answer keeps of the dense model's quality, and what the next best inside the budget does, which is
    another model: none of `same`, which have the answer's weights."""
    by_name = {line["name"]: line for line in found}
    ours, dense = by_name[answer], by_name[REFERENCE]
    text = (
        f"at {ours['share']['value']:.1%} of dense the answer, {answer}, has {metric.name} "
        f"{ours['quality']['value']:.4f} on test rows (dense {dense['quality']['value']:.4f})"
    )
    others = [line for line in found if line["inside"] and line["name"] not in same]
    if not others:
        return f"{text}; no other model is inside the budget"
    best = max(others, key=lambda line: line["valid"] if metric.higher_is_better else -line["valid"])
    low, high = best["difference"]["ci95"]
    return (
        f"{text}; the next best, {best['name']}, has {best['quality']['value']:.4f} "
        f"(difference {low:+.4f} to {high:+.4f})"
    )
