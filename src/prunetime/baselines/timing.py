"""Latency of files that other libraries run, beside artifacts that our engine runs.

`python -m prunetime.baselines.timing` does it for a `Job`, as `latency.timing` does. A library is timed at its best:
its file is compiled for the one shape of the budget, and its inputs are in place. Of texts, a call tokenises them, and
then runs inputs that were made of them before. Both libraries compute on the calling thread, on others too where there
are more, so that its own time (`latency.measure`) says of them what it says of our engine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prunetime.baselines.libraries import open_file
from prunetime.baselines.static import FILE as STATIC
from prunetime.baselines.static import calls_of_static
from prunetime.core import artifact
from prunetime.core.budget import Budget
from prunetime.inference.tokenize import Tokenizer
from prunetime.latency import timing
from prunetime.latency.measure import TimedCall
from prunetime.latency.timing import Job, SamplesBySetting


def time_with_files(job: Job, on_round: Callable[[int, int], None] | None = None) -> SamplesBySetting:
    """Runs `job`, files among its artifacts, in a fresh process and returns its samples; see `time_artifacts`."""
    return timing.time_artifacts(job, on_round, "prunetime.baselines.timing")


def calls_of_file(file: Path, of: artifact.Artifact, budget: Budget) -> dict[str, TimedCall]:
    """The calls that are timed of a file that another library runs in the place of an artifact, by scope."""
    config, task = of.manifest.config, of.manifest.task
    tokenizer = Tokenizer(of.tokenizer, task.max_length)
    batch, texts = timing.timed_inputs(config, tokenizer, task.read_together, budget)
    bind = open_file(file, budget.threads, (budget.batch, budget.seq_len))
    of_ids, of_texts = bind(batch), bind(tokenizer.encode(texts))
    return {"ids": of_ids, "text": lambda: (tokenizer.encode(texts), of_texts())}


def _calls_of_files(job: Job) -> dict[str, dict[str, TimedCall]]:
    return {name: _calls_of(Path(file), artifact.read(job.artifacts[name]), job) for name, file in job.files.items()}


def _calls_of(file: Path, of: artifact.Artifact, job: Job) -> dict[str, TimedCall]:
    if file.name == STATIC:
        return calls_of_static(file.parent, of.manifest.task, job.budget)
    return calls_of_file(file, of, job.budget)


if __name__ == "__main__":
    timing.main(_calls_of_files)
