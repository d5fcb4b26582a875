"""Progress on standard error: one line a stage, with the time left on long ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from prunetime.core.progress import Progress as Callback

LOG_SECONDS = 30.0
"""Without a terminal, progress is a line this often."""


class ConsoleReporter:
    """A `pipeline.run.Reporter` for people. Standard output stays free for results."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    @contextmanager
    def stage(self, title: str) -> Iterator[Callback]:
        started = time.monotonic()
        with self._bar(title) if self._console.is_terminal else self._lines(title, started) as progress:
            yield progress
        self._console.print(f"[green]✓[/] {title} [dim]({time.monotonic() - started:.0f} s)[/]")

    def say(self, message: str) -> None:
        self._console.print(f"  {message}", markup=False)

    @contextmanager
    def _bar(self, title: str) -> Iterator[Callback]:
        text, percent = TextColumn("{task.description}"), TextColumn("{task.percentage:>3.0f}%")
        columns = (SpinnerColumn(), text, BarColumn(24), percent, TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, of: bar.update(task, completed=done, total=of)

    @contextmanager
    def _lines(self, title: str, started: float) -> Iterator[Callback]:
        said = started

        def progress(done: int, of: int) -> None:
            nonlocal said
            now = time.monotonic()
            if done and now - said > LOG_SECONDS:
                said = now
                left = (now - started) * (of - done) / done
                self.say(f"{title}: {done} of {of}, {left:.0f} s left")

        yield progress
