"""The command group, and how errors become exit codes."""

from __future__ import annotations

import errno
import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click
from click.exceptions import Exit

from prunetime._version import __version__
from prunetime.errors import EXIT_BAD_INPUT, EXIT_DEFECT, EXIT_INTERRUPTED, DefectError, PrunetimeError

JSON_ASKED = "prunetime.json"

ISSUES = "https://github.com/prunetime/prunetime/issues"

OF_THE_FILE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)
"""Numbers of errors of the system that are about the path or disk that a user named."""

EXTRAS = {
    **dict.fromkeys(("uvicorn", "uvloop", "httptools", "msgspec", "prometheus_client"), "serve"),
    **dict.fromkeys(("grpc", "grpc_health"), "grpc"),
    **dict.fromkeys(("onnx", "openvino"), "export"),
}
"""The extra that installs a module that is missing; it is `prune` for a module that is not here."""


class ErrorsAsExitCodes(click.Group):
    """Turns errors into one line and an exit code (with `--json`, into one object); a defect keeps its traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[JSON_ASKED] = "--json" in args
        with _usage_errors_as_objects(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        as_json = ctx.meta[JSON_ASKED]
        try:
            with _usage_errors_as_objects(ctx):
                return super().invoke(ctx)
        except (click.ClickException, click.Abort, Exit):
            raise
        except DefectError:
            raise_defect(as_json)
        except PrunetimeError as error:
            fail(str(error), error.exit_code, as_json)
        except KeyboardInterrupt:
            fail("interrupted; run the same command again to resume", EXIT_INTERRUPTED, as_json)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "prunetime":
                raise_defect(as_json)
            extra = EXTRAS.get(str(error.name), "prune")
            fail(f"{error.name} is not installed: pip install 'prunetime[{extra}]'", EXIT_BAD_INPUT, as_json)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read the output has gone; click ends the process quietly
                raise
            if error.errno not in OF_THE_FILE:
                raise_defect(as_json)
            place = error.filename or "a file"
            fail(f"{place}: {error.strerror}; free some space or choose another path", EXIT_BAD_INPUT, as_json)
        except Exception:
            raise_defect(as_json)


@contextmanager
def _usage_errors_as_objects(ctx: click.Context) -> Iterator[None]:
    """With `--json`, a command line that cannot be parsed prints one object on standard output, too."""
    try:
        yield
    except click.UsageError as error:
        if not ctx.meta[JSON_ASKED]:
            raise
        error.show()
        click.echo(_error_object(error.format_message(), error.exit_code))
        ctx.exit(error.exit_code)


def raise_defect(as_json: bool) -> NoReturn:
    """Ends the process on the exception that is being handled: its traceback, and one line that asks to report it."""
    error = sys.exc_info()[1]
    traceback.print_exc()
    said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    fail(
        f"{said}; this is a defect of prunetime: please report it, with the lines above, at {ISSUES}",
        EXIT_DEFECT,
        as_json,
    )


def fail(message: str, exit_code: int, as_json: bool) -> NoReturn:
    """Ends the process with the error on standard error and, with `--json`, as an object on standard output."""
    click.echo(f"error: {message}", err=True)
    if as_json:
        click.echo(_error_object(message, exit_code))
    sys.exit(exit_code)


def _error_object(message: str, exit_code: int) -> str:
    return json.dumps({"error": message, "exit_code": exit_code})


CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "auto_envvar_prefix": "PRUNETIME"}


@click.group(cls=ErrorsAsExitCodes, context_settings=CONTEXT)
@click.version_option(__version__, package_name="prunetime")
def main() -> None:
    """Fit a BERT-family encoder into a measured CPU latency budget.

    An option that is not given is taken from the environment: PRUNETIME_PRUNE_SEQ_LEN is --seq-len of `prunetime
    prune`.
    """


def emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Prints the result: as one JSON object on the last line, or as text."""
    click.echo(json.dumps(result, allow_nan=False) if as_json else text)
