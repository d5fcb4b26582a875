"""The command that serves models over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunetime.cli.main import emit, main
from prunetime.cli.options import Decorator, json_option
from prunetime.errors import InputError
from prunetime.serve.settings import ServeSettings

if TYPE_CHECKING:
    from prunetime.serve.core.models import Entry

COUNT, PORT, PATH = click.IntRange(1), click.IntRange(0, 65535), click.Path(path_type=Path)


def _serve_option(flag: str, help: str, field: str | None = None, **attributes: Any) -> Decorator[Any]:
    """An option whose default is that of the field of `ServeSettings`, and which its environment variable sets, too."""
    name = field or flag.removeprefix("--").replace("-", "_")
    envvar = f"PRUNETIME_SERVE_{flag.removeprefix('--').replace('-', '_').upper()}"
    attributes = {"default": getattr(ServeSettings, name), "show_default": True} | attributes
    return click.option(flag, name, help=help, envvar=envvar, show_envvar=True, **attributes)


@main.command()
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]ARTIFACT...", envvar="PRUNETIME_SERVE_MODELS")
@_serve_option(
    "--cascade",
    "A NAME for several models of one task, the largest first. The largest that is expected to meet a request's "
    "deadline answers it. Use it where load has peaks, and then a smaller model's answer is better than none. "
    "May be repeated.",
    "cascades",
    multiple=True,
    metavar="NAME=MODEL,MODEL...",
)
@click.option("--family", "families", multiple=True, hidden=True)
@_serve_option("--host", "Address to listen on. An address beyond this machine needs --key-file.")
@_serve_option("--port", "Port to listen on. 0 takes a free one, which is printed.", type=PORT)
@_serve_option(
    "--uds",
    "Unix socket to listen on instead of --host and --port. Use it behind a proxy on this machine.",
    type=PATH,
)
@_serve_option(
    "--allow-host",
    "Host name, besides localhost, that requests may be addressed to. Give each name that clients or a proxy use for "
    "this server. May be repeated.",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
)
@_serve_option(
    "--cors",
    "Origin, such as https://ads.example, whose web pages may call the server from a browser. '*' admits every origin, "
    "and needs --key-file. By default there is none. May be repeated.",
    multiple=True,
    metavar="ORIGIN",
)
@_serve_option(
    "--grpc-port",
    "Port of --host for the Open Inference Protocol over gRPC. 0 takes a free one. Without it there is no gRPC.",
    type=PORT,
)
@_serve_option(
    "--processes",
    "Number of processes that share the port and the limits below. For throughput, set it to the number of cores; each "
    "process has its own copy of the models.",
    type=COUNT,
)
@_serve_option(
    "--threads",
    "Threads that compute one batch, in each process. Raise it where a single request must be faster; for throughput "
    "raise --processes.",
    type=COUNT,
)
@_serve_option(
    "--key-file",
    "File of bearer keys, one a line; each request must carry one of them. SIGHUP reads it again. Without it the "
    "server is for this machine only.",
    type=PATH,
)
@_serve_option(
    "--model-root",
    "Folder from under which clients may load models. Without it only the models given here can be loaded again.",
    type=PATH,
)
@_serve_option("--open-metrics", "Answer /metrics without a key. Use it where Prometheus has none.", is_flag=True)
@_serve_option(
    "--experiment",
    "TOML file of experiments, which split the requests of a model among several by a key. By default there is none.",
    "experiments",
    type=PATH,
)
@_serve_option(
    "--outcomes",
    "Where the outcomes of experiments are stored: a file, or a postgresql:// URL. Use PostgreSQL where several "
    "servers run the same experiment.",
    metavar="FILE|URL",
)
@_serve_option(
    "--timeout",
    "Seconds after which a request is refused, where its client does not ask for less. Set it to the time after which "
    "nobody waits for an answer.",
)
@_serve_option(
    "--read-seconds",
    "Seconds that a client has to send a request, and to finish a TLS handshake. Raise it for slow networks.",
)
@_serve_option(
    "--drain-seconds",
    "Seconds after SIGTERM in which the server answers on while its readiness check fails. Set it to the time that a "
    "load balancer takes to notice.",
)
@_serve_option(
    "--queue-tokens",
    "Tokens that may wait for the engine; requests beyond are refused (429). Raise it for longer bursts, lower it to "
    "refuse earlier.",
)
@_serve_option(
    "--batch-tokens",
    "Tokens that are computed in one batch, at most. Lower it where short requests wait too long for large ones.",
)
@_serve_option(
    "--cache-mb",
    "MiB of memory, for each model, that keep the token ids of texts seen before. Raise it where many texts recur, as "
    "titles of a catalogue do; 0 keeps none.",
    "cache_bytes",
    default=ServeSettings.cache_bytes >> 20,
    metavar="INTEGER",
)
@_serve_option(
    "--tls-cert",
    "PEM file of the certificate chain, for HTTPS. Needs --tls-key. SIGHUP reads it again.",
    "certificate",
    type=PATH,
)
@_serve_option("--tls-key", "PEM file of the private key of --tls-cert.", "private_key", type=PATH)
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
    options["cache_bytes"] <<= 20
    settings = ServeSettings(**options)

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


def _cascade(given: str) -> tuple[str, tuple[str, ...]]:
    name, equals, members = given.partition("=")
    if not equals or not members:
        raise InputError(f"--cascade {given}: give NAME=MODEL,MODEL...")
    return name, tuple(members.split(","))
