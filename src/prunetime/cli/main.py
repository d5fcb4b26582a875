"""The command group, and how errors become exit codes."""

from __future__ import annotations

import errno
import json
import sys
from typing import Any

import click

from prunetime import __version__
from prunetime.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, PrunetimeError


class Group(click.Group):
    """Turns the errors a user can act on into one line and an exit code (with `--json`, into one object)."""

    def main(self, args: Any = None, **extra: Any) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            return super().main(args=arguments, **(extra | {"standalone_mode": False}))
        except click.exceptions.Exit as leave:
            sys.exit(leave.exit_code)
        except click.ClickException as error:
            error.show()
            fail(str(error.format_message()), error.exit_code, arguments, say=False)
        except PrunetimeError as error:
            fail(str(error), error.exit_code, arguments)
        except (click.Abort, KeyboardInterrupt):
            fail("interrupted; run the same command again to resume", EXIT_INTERRUPTED, arguments)
        except ModuleNotFoundError as error:
            fail(f"{error.name} is not installed: pip install 'prunetime[prune]'", EXIT_BAD_INPUT, arguments)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            fail(f"{error.filename or 'a file'}: {error.strerror}; free some space or choose another folder",
                 EXIT_BAD_INPUT, arguments)  # fmt: skip


def fail(message: str, exit_code: int, arguments: list[str], say: bool = True) -> None:
    """Ends the process with the error on standard error and, with `--json`, as an object on standard output."""
    if say:
        click.echo(f"error: {message}", err=True)
    if "--json" in arguments:
        click.echo(json.dumps({"error": message, "exit_code": exit_code}))
    sys.exit(exit_code)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="prunetime")
def main() -> None:
    """Fit a BERT-family encoder into a measured CPU latency budget."""


def emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Prints the result: as one JSON object on the last line, or as text."""
    click.echo(json.dumps(result, allow_nan=False) if as_json else text)


from prunetime.cli import models, runs  # noqa: E402  # the commands register themselves on `main`

__all__ = ["emit", "fail", "main", "models", "runs"]
