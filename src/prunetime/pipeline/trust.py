"""Tunes a sample of a finished run's sub-networks, each alone, to see whether scores order them as tuning does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunetime.core.progress import Progress
from prunetime.errors import InputError
from prunetime.inference.engine import Engine
from prunetime.models.compact import prefix_mask
from prunetime.models.encoder import weights_of
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.prune import begin, settings_of_search
from prunetime.pipeline.run import Reporter, Run, digest_of
from prunetime.pipeline.stages.search import EVALUATIONS, scoring, scoring_rows
from prunetime.pipeline.student import THREADS, distil, kept_of, sub_network
from prunetime.report.render import render
from prunetime.search.archive import Archive
from prunetime.search.proxy_validation import ProxyValidation
from prunetime.search.space import Genome, Space, fit_to
from prunetime.training.checkpoints import discard_checkpoints

SHARES = (1.0, 0.8, 0.6)
"""The budgets of the sample, of the run's."""

GENOMES = 8
"""The genomes that are tuned for each budget: the best found, and random ones from the worst score to the best."""

DRAWN = 40
"""Random sub-networks of each budget that are scored for that."""

ATTEMPTS = 1_000
"""To draw them."""

NEAR = 0.03
"""All are predicted to take at most so much less than their budget."""


def trust(origin: Path, reporter: Reporter) -> dict[str, Any]:
    """Leaves `trust.json` in the folder of the finished run `origin` and writes its report again; resumable.

    Each sub-network is tuned as the chosen one was. Quality is the metric on valid rows.

    Raises InputError where `origin` is no finished run, or has too few sub-networks near a budget.
    """
    run = Run(origin, reporter)
    settings = settings_of_search(run)
    with run.locked():
        context = Context(run, settings)
        begin(context)
        sample = _sample(context)
        for number, point in enumerate(sample, start=1):
            point["quality"] = _quality(context, tuple(point["genome"]), f"{number} of {len(sample)}")
        pairs = {
            share: [(p["score"], context.better(p["quality"])) for p in sample if p["share"] == share]
            for share in SHARES
        }
        found = ProxyValidation.of([np.array(points) for points in pairs.values()]).to_json() | {"points": sample}
        run.write("trust.json", found)
        return found | {"report": str(render(origin))}


def _target_us(context: Context) -> float:
    return float(context.run.read("search.json")["target_us"])


@stage(
    "trust-sample",
    "Choose structures to tune",
    ["trust/sample.json"],
    inputs=lambda context: [context.archive_digest, _target_us(context), context.latency.to_json()],
)
def choose_sample(context: Context, progress: Progress) -> None:
    """Chooses genomes of each budget with their scores, from the worst to the best."""
    run, space, settings = context.run, context.space, context.settings
    rows = scoring_rows(context, context.run_plan.score_rows)
    sample: list[dict[str, Any]] = []
    with Archive(run.path(EVALUATIONS), context.archive_digest) as archive, scoring(context) as scorers:
        for share in SHARES:
            near = Near(space, context.predict, share * _target_us(context))
            genomes = near.drawn(np.random.default_rng([settings.seed, len(sample)]))
            scores = dict(zip(genomes, scorers(rows)([space.spec(genome) for genome in genomes]), strict=True))
            scores |= {e.genome: e.score for e in archive.within(near.most_us)[:1] if near.holds(e.predicted_us)}
            rising = sorted(scores, key=scores.__getitem__)
            chosen = [rising[i] for i in np.linspace(0, len(rising) - 1, GENOMES).round().astype(int)]
            sample += [{"share": share, "genome": list(genome), "score": scores[genome]} for genome in chosen]
            progress(len(sample), GENOMES * len(SHARES))
    run.write("trust/sample.json", sample)


def _sample(context: Context) -> list[dict[str, Any]]:
    choose_sample(context)
    found: list[dict[str, Any]] = context.run.read("trust/sample.json")
    return found


@dataclass(frozen=True)
class Near:
    """The genomes that are predicted to take `most_us`, or at most `NEAR` less."""

    space: Space
    predict: Callable[[Genome], float]
    most_us: float

    def holds(self, us: float) -> bool:
        return (1.0 - NEAR) * self.most_us <= us <= self.most_us

    def drawn(self, rng: np.random.Generator) -> list[Genome]:
        """Random ones; raises InputError where there are too few."""
        found: set[Genome] = set()
        for _ in range(ATTEMPTS):
            fitted = fit_to(self.space.levels, self.predict, self.space.random(rng), self.most_us, rng)
            if fitted and self.holds(fitted[1]):
                found.add(fitted[0])
            if len(found) == DRAWN:
                break
        if len(found) < GENOMES:
            raise InputError(
                f"only {len(found)} structures are predicted to take {1 - NEAR:.0%} to 100 % of {self.most_us:.0f} us, "
                f"and {GENOMES} are to be compared: the model is too small for that"
            )
        return sorted(found)


def _quality(context: Context, genome: Genome, which: str) -> float:
    """The metric on valid rows of the sub-network `genome`, tuned."""
    run, config = context.run, context.config
    mask = prefix_mask(context.elastic.weights, context.space.spec(genome), config.dims)
    name = digest_of(genome)[:12]

    def work(progress: Progress) -> None:
        student = sub_network(context, kept_of(context.elastic, mask), mask)
        distil(context, student, run.path(f"work/trust-{name}"), progress)
        engine = Engine(config, weights_of(student), THREADS, spec=student.spec)
        run.write(f"trust/{name}.json", context.metric_on_valid(engine))
        discard_checkpoints(run.path(f"work/trust-{name}"))

    inputs = {"mask": mask.to_json(), "archive": context.archive_digest}
    run.do(f"trust-{name}", f"Tune structure {which}", inputs, [f"trust/{name}.json"], work)
    return float(run.read(f"trust/{name}.json"))
