"""The command that serves models over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunetime.cli.main import emit, main
from prunetime.cli.options import json_option
from prunetime.errors import InputError

if TYPE_CHECKING:
    from prunetime.serve.core.models import Entry


@main.command()
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]ARTIFACT...")
@click.option(
    "--family",
    "families",
    multiple=True,
    metavar="NAME=MODEL,MODEL...",
    help="Models under one name, the largest first: the smaller ones answer under pressure.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 for any that is free.")
@click.option("--uds", type=click.Path(path_type=Path), help="A unix socket, in place of host and port.")
@click.option(
    "--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="A name of this server that requests may be for."
)
@click.option("--cors", multiple=True, metavar="ORIGIN", help="A site whose pages may ask; '*', with keys: any.")
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65535),
    help="Serve the Open Inference Protocol over gRPC, too, on this port of the host; 0 for any that is free.",
)
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="That share the port.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the engine, in each process.")
@click.option(
    "--key-file", type=click.Path(path_type=Path), help="Bearer keys, one a line; without it, this machine only."
)
@click.option("--model-root", type=click.Path(path_type=Path), help="Where models may be loaded from by request.")
@click.option("--open-metrics", is_flag=True, help="/metrics answers without a key.")
@click.option("--experiment", "experiments", type=click.Path(path_type=Path), help="TOML file of experiments.")
@click.option("--outcomes", default="outcomes.sqlite", show_default=True, help="File or postgresql:// URL for theirs.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds a request may take at most.")
@click.option(
    "--read-seconds", default=10.0, show_default=True, help="Seconds that a request may take to come, headers and body."
)
@click.option(
    "--drain-seconds",
    default=0.0,
    show_default=True,
    help="After SIGTERM, seconds in which all is answered while the server says that it is not ready.",
)
@click.option("--queue-tokens", default=65_536, show_default=True, help="Tokens that may wait.")
@click.option("--batch-tokens", default=2_048, show_default=True, help="Tokens computed at a time.")
@click.option("--cache-mb", default=64, show_default=True, help="For tokens of texts seen before, each model; 0: none.")
@click.option("--tls-cert", type=click.Path(path_type=Path))
@click.option("--tls-key", type=click.Path(path_type=Path))
def serve(**options: Any) -> None:
    """Serve models over HTTP: Open Inference Protocol v2, /predict, /rerank, /embed, /v1/rerank, /v1/embeddings; the
    first of them over gRPC, too.

    It runs until it is stopped (SIGTERM or Ctrl-C), so it prints no result and takes no --json. Logs go to standard
    error.
    """
    from prunetime.serve.run import serve as run
    from prunetime.serve.settings import ServeSettings

    settings = ServeSettings(
        models=tuple(_named(given) for given in options["models"]),
        families=tuple(_family(given) for given in options["families"]),
        cache_bytes=options["cache_mb"] << 20,
        certificate=options["tls_cert"],
        private_key=options["tls_key"],
        **{
            name: options[name]
            for name in (
                "host",
                "port",
                "uds",
                "allow_hosts",
                "cors",
                "grpc_port",
                "processes",
                "threads",
                "key_file",
                "model_root",
                "open_metrics",
                "experiments",
                "outcomes",
                "timeout",
                "read_seconds",
                "drain_seconds",
                "queue_tokens",
                "batch_tokens",
            )
        },
    )

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
    emit({"rows": replayed.rows, **msgspec.to_builtins(replayed.report)}, options["as_json"], "\n".join(lines))


def _named(given: str) -> tuple[str, Path]:
    """`NAME=ARTIFACT`, or a folder, whose name (or its parent's, of `RUN/artifact`) it is called by."""
    name, equals, folder = given.partition("=")
    if equals and "/" not in name:
        return name, Path(folder)
    path = Path(given)
    return (path.resolve().parent if path.name == "artifact" else path.resolve()).name, path


def _family(given: str) -> tuple[str, tuple[str, ...]]:
    name, equals, members = given.partition("=")
    if not equals or not members:
        raise InputError(f"--family {given}: give NAME=MODEL,MODEL...")
    return name, tuple(members.split(","))
