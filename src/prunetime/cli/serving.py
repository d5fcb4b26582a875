"""The command that serves models over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunetime.cli.main import emit, main
from prunetime.cli.options import GroupedCommand, grouped, json_option, settings_options
from prunetime.errors import InputError
from prunetime.serve.settings import ServeSettings

if TYPE_CHECKING:
    from prunetime.serve.core.models import Entry

ENVIRONMENT = "PRUNETIME_SERVE_"


@main.command(cls=GroupedCommand)
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]ARTIFACT...", envvar=f"{ENVIRONMENT}MODELS")
@settings_options(ServeSettings, envvar_prefix=ENVIRONMENT)
@grouped(
    "capacity",
    "--cache-mb",
    default=ServeSettings.cache_bytes >> 20,
    envvar=f"{ENVIRONMENT}CACHE_MB",
    show_envvar=True,
    help="MiB of memory, for each model, that keep the token ids of texts seen before. Raise it where many texts "
    "recur, as titles of a catalogue do; 0 keeps none.",
)
@click.option("--family", "families", multiple=True, hidden=True)
def serve(**options: Any) -> None:
    """Serve models over HTTP: Open Inference Protocol v2, /predict, /rerank, /embed, /v1/rerank, /v1/embeddings; the
    first of them over gRPC, too.

    It runs until it is stopped (SIGTERM or Ctrl-C), so it prints no result and takes no --json. Logs go to standard
    error. Each option can be given by its environment variable instead, and models by PRUNETIME_SERVE_MODELS; several
    values are separated by spaces. The command line comes before the environment.
    """
    from prunetime.serve.run import serve as run

    if old := options.pop("families"):
        click.echo("--family will go in the next release: it is called --cascade", err=True)
    options["models"] = tuple(_named(given) for given in options["models"])
    options["cascades"] = tuple(_cascade(given) for given in (*options["cascades"], *old))
    settings = ServeSettings(cache_bytes=options.pop("cache_mb") << 20, **options)

    def ready(entries: Sequence[Entry], port: int | None, grpc_port: int | None) -> None:
        scheme = "https" if settings.certificate else "http"
        where = f"unix:{settings.uds}" if settings.uds else f"{scheme}://{settings.host}:{port}"
        names = ", ".join(entry.label for entry in entries)
        many = f" with {settings.processes} processes" if settings.processes > 1 else ""
        grpc = f" and grpc{'s' if settings.certificate else ''}://{settings.host}:{grpc_port}" if grpc_port else ""
        click.echo(f"serving {names} at {where}{grpc}{many}", err=True)

    run(settings, ready)


@main.group()
def experiment() -> None:
    """Experiments, without a server."""


@experiment.command("replay")
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]ARTIFACT...")
@click.option("--experiment", "config", type=click.Path(path_type=Path), required=True, help="TOML file with one.")
@click.option("--data", required=True, help="Labelled rows: TSV, CSV, JSONL, Parquet, or synthetic:NAME.")
@click.option("--key", required=True, help="Column of the key that traffic is split by.")
@click.option("--label", required=True, help="Column that says what a row is.")
@click.option("--defect", "defects", multiple=True, required=True, help="Label of a row that should not be shown.")
@click.option("--shown-from", default=0.5, show_default=True, help="Score from which on a row is shown.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of the engine.")
@json_option
def replay_experiment(**options: Any) -> None:
    """Send a labelled file through the arms of an experiment: who would have shown more defects?"""
    import msgspec

    from prunetime.inference.model import load
    from prunetime.pipeline.progress import ConsoleReporter
    from prunetime.serve.experiments.experiment import read_experiments
    from prunetime.serve.experiments.replay import Judged, replay
    from prunetime.tasks.sources import read_table

    found = read_experiments(options["config"])
    if len(found) != 1:
        raise InputError(f"{options['config']} has {len(found)} experiments: replay takes a file with one")
    folders = dict(_named(given) for given in options["models"])
    found[0].check(list(folders))
    models = {arm.model: load(folders[arm.model], options["threads"]) for arm in found[0].arms}
    judged = Judged(options["key"], options["label"], frozenset(options["defects"]), options["shown_from"])
    with ConsoleReporter().stage("Replay") as progress:
        replayed = replay(found[0], models, read_table(options["data"]), judged, progress)
    lines = [f"{'arm':16}{'model':16}{'rows':>9}{'shown':>9}{'keys':>9}{'defects':>9}   rate"]
    for arm in replayed.report.arms:
        rate = "none" if arm.rate is None else f"{arm.rate:.2%}"
        counts = f"{replayed.rows[arm.name]:9,}{arm.outcomes:9,}{arm.keys:9,}{arm.defects:9,}"
        lines.append(f"{arm.name:16}{arm.model:16}{counts}   {rate}")
    for each in replayed.report.comparisons:
        low, high = each.interval
        lines.append(f"{each.arm} less {found[0].arms[0].name}: {low:+.2%} to {high:+.2%}; {each.advice}")
    for name, kept in replayed.order_kept.items():
        if kept:
            lines.append(
                f"{name} keeps the order of {found[0].arms[0].name} in {kept.value:.2%} ({kept.low:.2%} to "
                f"{kept.high:.2%}) of {kept.pairs:,} pairs of rows with the same {options['key']}"
            )
    of_order = {name: kept and kept.to_json() for name, kept in replayed.order_kept.items()}
    result = {"rows": replayed.rows, **msgspec.to_builtins(replayed.report), "order_kept": of_order}
    emit(result, options["as_json"], "\n".join(lines))


def _named(given: str) -> tuple[str, Path]:
    """`NAME=ARTIFACT`, or a folder, whose name (or its parent's, of `RUN/artifact`) it is called by."""
    name, equals, folder = given.partition("=")
    if equals and "/" not in name:
        return name, Path(folder)
    path = Path(given)
    return (path.resolve().parent if path.name == "artifact" else path.resolve()).name, path


def _cascade(given: str) -> tuple[str, tuple[str, ...]]:
    name, equals, members = given.partition("=")
    if not equals or not members:
        raise InputError(f"--cascade {given}: give NAME=MODEL,MODEL...")
    return name, tuple(members.split(","))
