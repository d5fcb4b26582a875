"""The stage that has other inference libraries quantise the dense model, to measure their int8 beside the answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunetime.baselines.libraries import LIBRARIES, FileModel, write_int8
from prunetime.baselines.setting import CALIBRATED
from prunetime.baselines.timing import calls_of_file
from prunetime.core.artifact import write_json
from prunetime.core.progress import Progress
from prunetime.errors import InputError, first_line
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.run import Run
from prunetime.pipeline.student import THREADS

FOLDER = "alternatives"
"""The folder of what one would take instead."""

FAILED = "failed.json"


def _inputs(context: Context, name: str) -> list[Any]:
    manifest, seed = context.run.path("teacher/manifest.json").read_text(), context.settings.seed
    return [name, manifest, context.given["data"], seed, context.budget.to_json()]


@stage(
    "library-{name}",
    lambda _, name: f"Quantise the dense model with {LIBRARIES[name].title}",
    [f"{FOLDER}/{{name}}-int8"],
    inputs=_inputs,
)
def quantise_with_library(context: Context, _: Progress, name: str) -> None:
    """Writes the dense model in another library's int8, calibrated on train rows, as a file that takes any batch."""
    folder = context.run.path(f"{FOLDER}/{name}-int8")
    folder.mkdir(parents=True)
    tokens, config, budget = context.source.train.tokens, context.config, context.budget
    drawn = tokens.select(np.random.default_rng(context.settings.seed).permutation(len(tokens))[:CALIBRATED])
    try:
        file = write_int8(name, config, context.teacher.weights, folder, list(drawn.batches(1)))
        calls_of_file(file, context.teacher, budget)[budget.scope]()
        if not np.isfinite(FileModel(file, config, budget.batch, THREADS).logits(drawn)).all():
            raise InputError("its logits are not finite")
    except Exception as error:  # of any type: it is a library's, and the run does not depend on it
        write_json(folder / FAILED, {"why": first_line(error)})
        context.run.reporter.say(f"{LIBRARIES[name].title} int8 is not measured: {first_line(error)}")


def quantise_with_libraries(context: Context) -> None:
    """Has every library that is installed quantise the dense model."""
    for name, library in LIBRARIES.items():
        if not library.missing:
            quantise_with_library(context, name=name)


@dataclass(frozen=True)
class LibraryFiles:
    """The files of libraries that have quantised the dense model, and why another has none, by the names of lines."""

    files: dict[str, Path]
    not_measured: dict[str, str]


def files_of_libraries(run: Run) -> LibraryFiles:
    """The files that `quantise_with_libraries` has left in a run."""
    found = LibraryFiles({}, {})
    for name, library in LIBRARIES.items():
        title, folder = f"{library.title} int8", run.path(f"{FOLDER}/{name}-int8")
        if library.missing:
            found.not_measured[title] = f"{' and '.join(library.missing)} not installed"
        elif (folder / FAILED).exists():
            found.not_measured[title] = run.read(f"{FOLDER}/{name}-int8/{FAILED}")["why"]
        else:
            found.files[title] = folder / library.file
    return found
