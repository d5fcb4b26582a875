"""The command group, and how errors become exit codes."""

from __future__ import annotations

import errno
import json
import sys
from typing import Any, NoReturn

import click

from prunetime import __version__
from prunetime.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, PrunetimeError

JSON_ASKED = "prunetime.json"

EXTRAS = {
    **dict.fromkeys(("uvicorn", "uvloop", "httptools", "msgspec", "prometheus_client"), "serve"),
    **dict.fromkeys(("onnx", "openvino"), "export"),
}
"""What installs a module that is missing; what is not here, making models does."""


class Group(click.Group):
    """Turns the errors a user can act on into one line and an exit code (with `--json`, into one object)."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[JSON_ASKED] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        as_json = ctx.meta[JSON_ASKED]
        try:
            return super().invoke(ctx)
        except PrunetimeError as error:
            fail(str(error), error.exit_code, as_json)
        except KeyboardInterrupt:
            fail("interrupted; run the same command again to resume", EXIT_INTERRUPTED, as_json)
        except ModuleNotFoundError as error:
            extra = EXTRAS.get(str(error.name), "prune")
            fail(f"{error.name} is not installed: pip install 'prunetime[{extra}]'", EXIT_BAD_INPUT, as_json)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            place = error.filename or "a file"
            fail(f"{place}: {error.strerror}; free some space or choose another folder", EXIT_BAD_INPUT, as_json)


def fail(message: str, exit_code: int, as_json: bool) -> NoReturn:
    """Ends the process with the error on standard error and, with `--json`, as an object on standard output."""
    click.echo(f"error: {message}", err=True)
    if as_json:
        click.echo(json.dumps({"error": message, "exit_code": exit_code}))
    sys.exit(exit_code)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="prunetime")
def main() -> None:
    """Fit a BERT-family encoder into a measured CPU latency budget."""


def emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Prints the result: as one JSON object on the last line, or as text."""
    click.echo(json.dumps(result, allow_nan=False) if as_json else text)
