"""Commands on a model: score, eval, inspect, profile, bench, convert, export, push."""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click

from prunetime.cli.main import emit, main
from prunetime.cli.options import (
    artifact_argument,
    check_new,
    json_option,
    overwrite_file_option,
    settings_options,
    timed_options,
    timing_options,
)
from prunetime.core import artifact as artifacts
from prunetime.core.arch import ArchSpec
from prunetime.core.budget import Budget
from prunetime.core.config import TaskLogitRows
from prunetime.core.precision import PRECISIONS, Precision, PrecisionPlan
from prunetime.core.task import Answer, Tagged, Task
from prunetime.core.task_kind import TaskKind
from prunetime.errors import InputError
from prunetime.latency.settings import IDLE_US, TimingSettings
from prunetime.settings import Settings

INSPECT_WIDTH = 100
BENCH_NUMBERS = "{p50_us:10.0f}{p99_us:10.0f}{idle_p50_us:10.0f}{max_logit_error:12.2g}"


@main.command()
@artifact_argument
@click.option("--text", help="The text (of a pair: the first). Without it, lines of standard input are scored.")
@click.option("--pair", help="The second text of a pair.")
@click.option("--n-best", type=click.IntRange(1), help="So many answers to each question, the best first.")
@click.option("--top", type=click.IntRange(1), help="So many classes of each text by name, the best first.")
@json_option
def score(
    artifact: Path, text: str | None, pair: str | None, n_best: int | None, top: int | None, as_json: bool
) -> None:
    """Score a text or a pair, or every line of standard input (a pair's two texts separated by a tab).

    Lines end with a line feed, or a carriage return and a line feed, and with nothing else; the input is UTF-8. Where
    the model answers questions, a pair is a question and its context. One that labels words gives spans; one of several
    labels those that the text has.
    """
    from prunetime.inference.classes import best_classes
    from prunetime.inference.model import load
    from prunetime.tasks.sources import lines_of

    if n_best is not None and top is not None:
        raise InputError(f"--n-best {n_best} is of answers, --top {top} of classes: no model has both; give one")
    if pair is not None and text is None:
        raise InputError(f"--pair {pair!r} is the second text of a pair: give the first with --text")
    model = load(artifact)
    if text is not None:
        rows: list[tuple[str, ...]] = [(text, pair) if pair is not None else (text,)]
    else:
        try:
            content = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"standard input is not UTF-8 at byte {error.start}: convert it first") from error
        if not content:
            raise InputError("nothing on standard input: give --text, or one text (or pair) per line")
        rows = [tuple(line.split("\t")) for line in lines_of(content)]
    if top is not None:
        best = best_classes(model.manifest.task, model.score(rows), top)
        shown = (", ".join(f"{each.label} {each.score:.4f}" for each in classes) for classes in best)
        emit({"scores": [[each._asdict() for each in classes] for classes in best]}, as_json, "\n".join(shown))
        return
    found: dict[str, list[Any]] = {}
    if n_best is None:
        scores = model.score(rows)
        found["scores"] = lines = [_as_json(each) for each in scores.tolist()]
        if model.manifest.task.traits.is_multi_label:
            found["labels"] = lines = model.manifest.task.assigned(scores)
    else:
        found["scores"] = lines = [[_as_json(each) for each in answers] for answers in model.answers(rows, n_best)]
    emit(found, as_json, "\n".join(json.dumps(value, ensure_ascii=False) for value in lines))


def _as_json(score: Any) -> Any:
    if isinstance(score, Tagged):
        return [span._asdict() for span in score.spans]
    return score._asdict() if isinstance(score, Answer) else score


@main.command("eval")
@artifact_argument
@settings_options(Settings, ("data", "text", "label", "group", "metric"), plain=True)
@json_option
def evaluate(artifact: Path, data: str, as_json: bool, **named: Any) -> None:
    """Quality and latency of an artifact on labelled data, by the engine."""
    from prunetime.inference.model import load
    from prunetime.latency.measure import interleave, pinned, summarise
    from prunetime.latency.timing import calls_of
    from prunetime.tasks import metrics
    from prunetime.tasks.data import examples, guess_columns
    from prunetime.tasks.labels import label_notes
    from prunetime.tasks.sources import read_table

    model = load(artifact)
    task = model.manifest.task
    table = read_table(data, "test")
    columns, guess = guess_columns(table, named["text"] or task.text, named["label"], named["group"])
    for note in filter(None, (guess, *label_notes(table, columns.label, task))):
        click.echo(note, err=True)
    rows = examples(table, columns, task)
    chosen = metrics.metric(named["metric"]) if named["metric"] else metrics.default_metric(task, data)
    chosen.check(task)
    estimate = metrics.evaluate(chosen, task.at_half(model.score(rows.texts)), rows.labels, rows.groups)
    budget = Budget(share=1.0, seq_len=task.max_length)
    with pinned(1):
        calls = calls_of(model.engine, model.manifest.config, model.tokenizer, task.read_together, budget)
        latency = summarise(interleave({"ids": calls["ids"]}, rounds=6)["ids"])
    quality = {"metric": chosen.name, **estimate.to_json(), "rows": len(rows)}
    text = (
        f"{chosen.name} {estimate.value:.4f} (95 % interval {estimate.low:.4f} to {estimate.high:.4f}) on {len(rows)} "
        f"rows, {latency.p50_us:.0f} us for {task.max_length} tokens{' (noisy)' if latency.disturbed else ''}"
    )
    emit(quality | {"p50_us": latency.p50_us, "noisy": latency.disturbed}, as_json, text)


@main.command()
@artifact_argument
@json_option
def inspect(artifact: Path, as_json: bool) -> None:
    """Say what an artifact holds; every byte of it is checked."""
    manifest = artifacts.read(artifact).manifest
    dims = manifest.config.dims
    kept, full = manifest.spec.weights(dims), ArchSpec.full(dims).weights(dims)
    lines = [
        *described(manifest.task, dims.hidden),
        f"{manifest.config.family}, hidden {dims.hidden}; {kept:,} of {full:,} encoder weights ({kept / full:.1%})",
        precision_of(manifest.plan),
        "layer  heads          attention rows  FFN rows     FFN-output rows  tokens  blocks",
        *(
            f"{i:5}  {layer.heads:3} of {dims.heads:3}     {layer.attention_rows:5}           "
            f"{layer.ffn:5} of {dims.ffn:5} {layer.ffn_rows:5}            {layer.tokens:6.0%}  "
            f"{layer.describe_blocks(dims) or 'all'}"
            for i, layer in enumerate(manifest.spec.layers)
        ),
    ]
    emit(manifest.to_json() | {"encoder_weights": kept, "dense_encoder_weights": full}, as_json, "\n".join(lines))


def described(task: Task, hidden: int) -> list[str]:
    """Lines on what a model reads and gives, none longer than `INSPECT_WIDTH`."""
    gives = task.traits.gives.format(
        classes=len(task.labels),
        text=task.text[-1],
        or_nothing=", or nothing" * task.unanswerable,
        hidden=hidden,
        threshold=task.threshold,
    )
    shared = f" in windows that share {task.doc_stride}" if task.doc_stride is not None else ""
    lines = [f"{task.kind}: {gives}, from {' and '.join(task.text)}; at most {task.max_length} tokens{shared}"]
    if task.labels:
        names = ", ".join(task.labels)
        lines += textwrap.wrap(names, INSPECT_WIDTH, initial_indent="  ", subsequent_indent="  ")
    return lines


def precision_of(plan: PrecisionPlan) -> str:
    """A line on how matrices are run."""
    others = Counter(each.precision for _, _, each in plan.exceptions)
    named = "".join(
        f", {count} {'matrix' if count == 1 else 'matrices'} {precision}" for precision, count in sorted(others.items())
    )
    loss = "" if plan.quality_loss is None else f"; it loses {plan.quality_loss:.4f} of the metric on valid rows"
    return f"precision {plan.default.precision}{named}{loss}"


@main.command()
@settings_options(Settings, ("model",), plain=True)
@timed_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the profile is written.")
@click.option("--specs", type=click.IntRange(3), default=100, help="Random specs its error is from.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", help="Of every matrix.")
@settings_options(Settings, ("blocks",), plain=True)
@click.option("--tokens", is_flag=True, help="Cover dropped tokens too.")
@timing_options
@click.option(
    "--rows",
    type=click.Choice(get_args(TaskLogitRows)),
    default="pooled",
    show_default=True,
    help="What the head reads: the pooled row, or every token's (question answering, words); or no head.",
)
@overwrite_file_option
@json_option
def profile(
    model: str, out: Path, specs: int, precision: Precision, rows: TaskLogitRows, as_json: bool, **options: Any
) -> None:
    """Measure this machine's latency profile for a model, and how far its predictions are off."""
    check_new(out, overwrite=options.pop("overwrite"))
    from prunetime.latency import profiling
    from prunetime.pipeline.progress import ConsoleReporter
    from prunetime.pipeline.source import profile_of

    plan, covered = PrecisionPlan.uniform(precision), {name: options.pop(name) for name in ("blocks", "tokens")}
    timing = TimingSettings(**{name: options.pop(name) for name in ("profile_calls", "retry_seconds")})
    budget, reporter = Budget(share=1.0, **options), ConsoleReporter()
    with reporter.stage("Measure sub-layers") as progress:
        told: Any = {"on_progress": progress, "say": reporter.say}
        config, recorded = profile_of(model, budget, plan, rows, timing=timing, **told, **covered)
    artifacts.write_json(out, recorded.to_json())
    with reporter.stage(f"Predict and measure {specs} random specs") as progress:
        drawn = profiling.random_specs(config.dims, specs, **covered)
        error = profiling.prediction_error(recorded, config, drawn, plan=plan, on_progress=progress)
    floor_us, dense_us = recorded.floor_and_dense(budget)
    result = {"profile": str(out), "dense_us": dense_us, "floor_us": floor_us, "noisy": recorded.noisy}
    text = (
        f"dense {dense_us:.0f} us, floor {floor_us:.0f} us; predictions: mean error {error.mape:.1f} %, worst "
        f"{error.worst:.1f} %, Spearman {error.spearman:.4f}, {error.within_5:.0%} within 5 %"
        f"{'; the machine is noisy: record it again when it is quiet' if recorded.noisy else ''}"
    )
    emit(result | {"error": error.to_json()}, as_json, text)


@main.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@timed_options
@click.option(
    "--against",
    default="",
    help="Baselines beside it, comma-separated: openvino, onnxruntime, ctranslate2, pytorch, pytorch-compiled.",
)
@click.option(
    "--precision",
    type=click.Choice((*PRECISIONS, "auto")),
    help="Of our engine; without it, fp32, bf16 and int8 are rows. auto: what measures fastest, matrix by matrix.",
)
@click.option("--max-error", default=0.05, help="Of a logit against fp32, for --precision auto.")
@settings_options(TimingSettings, ("retry_seconds",), plain=True)
@click.option("--idle-us", type=click.FloatRange(1.0), default=IDLE_US, help="Pause before each call after a pause.")
@click.option("--roofline", is_flag=True, help="Beside every sub-layer the least time that this machine allows.")
@json_option
def bench(
    models: tuple[str, ...],
    against: str,
    precision: str | None,
    max_error: float,
    roofline: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Time encoders, interleaved with baselines that run the first of them (its matrices dense).

    MODEL is an artifact, a transformers folder or hub id, or a shape with drawn weights: mini, minilm, base,
    base@blocks=0.2 (that share of 32x32 blocks kept), base@blocks=0.2:32x16, minilm@heads=0.5,ffn=0.5.
    """
    from prunetime.baselines import bench as benching
    from prunetime.baselines.case import benchmark_case

    waits = {name: options.pop(name) for name in ("retry_seconds", "idle_us")}
    names = [name.strip() for name in against.split(",") if name.strip()]
    cases, budget = [benchmark_case(model) for model in models], Budget(share=1.0, **options)
    precisions = (precision,) if precision else PRECISIONS
    if roofline:
        if names or budget.threads > 1 or precision == "auto":
            raise InputError("--roofline is of one precision of our engine on one thread: leave the rest out")
        from prunetime.cli.roofline import measure

        uniform = tuple(each for each in PRECISIONS if each in precisions)
        measured = [measure(each, budget, uniform) for each in cases]
        emit({"models": [result for result, _ in measured]}, as_json, "\n\n".join(text for _, text in measured))
        return
    rows = benching.rows(cases, budget, names, precisions, max_error, **waits)
    width = max(len(row["model"]) for row in rows)
    header = (
        f"{'model':{width}}  {'engine':18}{'precision':10}{'p50 us':>10}{'p99 us':>10}{'idle us':>10}{'max error':>12}"
    )
    lines = [header]
    for row in rows:
        said = f"not timed: {row['refused']}" if "refused" in row else BENCH_NUMBERS.format(**row)
        noisy = "  (noisy)" if row["noisy"] else ""
        lines.append(f"{row['model']:{width}}  {row['engine']:18}{row['precision']:10}{said}{noisy}")
    emit({"rows": rows}, as_json, "\n".join(lines))


@main.command()
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the artifact, which is made.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", help="Of every matrix.")
@click.option(
    "--task",
    "kind",
    type=click.Choice(get_args(TaskKind)),
    help="Kind of task; by default what the model's head is for.",
)
@settings_options(Settings, ("text",), plain=True)
@click.option(
    "--seq-len", type=click.IntRange(3), help="Most tokens of a sequence; by default as many as the model reads."
)
@json_option
def convert(model: str, out: Path, precision: Precision, as_json: bool, **options: Any) -> None:
    """Make an artifact of a pretrained or fine-tuned MODEL (a folder, or a hub id) as it is, unpruned.

    It can then be inspected, scored, embedded, benched, exported and served.
    """
    from prunetime.pipeline.convert import convert as converted

    task = converted(model, out, partial(click.echo, err=True), precision=precision, **options).task
    of_task = {"task": task.kind, "labels": list(task.labels), "max_length": task.max_length}
    emit({"artifact": str(out), **of_task, "precision": precision}, as_json, str(out))


@main.command()
@artifact_argument
@click.option("--to", "form", type=click.Choice(["onnx", "openvino", "transformers"]), required=True, help="Format.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="File (or, of transformers, folder) to write."
)
@overwrite_file_option
@json_option
def export(artifact: Path, form: str, out: Path, overwrite: bool, as_json: bool) -> None:
    """Write an artifact in another format.

    Of transformers: a folder that it loads where prunetime is not installed, with trust_remote_code=True. (With it, the
    artifact itself is such a folder.)
    """
    note = None
    check_new(*([out, out.with_suffix(".bin")] if form == "openvino" else [out]), overwrite=overwrite)
    if form == "transformers":
        from prunetime.export.transformers import export_transformers

        export_transformers(artifact, out)
    else:
        found = artifacts.read(artifact)
        config, weights, spec, task = found.manifest.config, found.weights, found.manifest.spec, found.manifest.task
        prompts = [name for name, text in task.prompts.texts.items() if text]
        if prompts and not task.embedding.include_prompt:  # the graph sees token ids only
            raise InputError(
                f"{artifact} leaves the tokens of prompts ({', '.join(prompts)}) out of pooling (include_prompt "
                f"false), which a file of {form} cannot: use --to transformers"
            )
        if form == "openvino":
            from prunetime.export.openvino import PRECISION_NOTE, export_openvino

            export_openvino(config, weights, out, spec, task)
            note = PRECISION_NOTE
            click.echo(note, err=True)
        else:
            from prunetime.export.onnx import export_onnx

            export_onnx(config, weights, out, spec=spec, task=task)
    emit({"format": form, "file": str(out), "note": note}, as_json, str(out))


@main.command()
@artifact_argument
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="For a repository that is made.")
@json_option
def push(artifact: Path, repository: str, private: bool, as_json: bool) -> None:
    """Put an artifact on the Hugging Face hub, for transformers to load with trust_remote_code=True."""
    from prunetime.export.hub import push_to_hub

    address = push_to_hub(artifact, repository, private=private)
    emit({"repository": address}, as_json, address)
