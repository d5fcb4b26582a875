"""The `prunetime` command."""

from prunetime.cli.main import main

__all__ = ["main"]
