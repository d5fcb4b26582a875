"""Progress on standard error: one line a stage, with the time left on long ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from prunetime.pipeline.run import Progress as Callback


class ConsoleReporter:
    """A `pipeline.run.Reporter` for people. Standard output stays free for results."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    @contextmanager
    def stage(self, title: str) -> Iterator[Callback]:
        started = time.monotonic()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.percentage:>3.0f}%"),
        )
        with Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self._console,
                      transient=True) as bar:  # fmt: skip
            task = bar.add_task(title, total=None)
            yield lambda done, of: bar.update(task, completed=done, total=of)
        self._console.print(f"[green]✓[/] {title} [dim]({time.monotonic() - started:.0f} s)[/]")

    def say(self, message: str) -> None:
        self._console.print(f"  {message}", markup=False)
