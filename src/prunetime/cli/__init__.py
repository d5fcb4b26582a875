"""The `prunetime` command."""

from prunetime.cli import models, runs, serving
from prunetime.cli.main import main

__all__ = ["main", "models", "runs", "serving"]
