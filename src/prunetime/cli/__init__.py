"""The `prunetime` command."""

from prunetime.cli import machine, models, runs, serving
from prunetime.cli.main import main

__all__ = ["machine", "main", "models", "runs", "serving"]
