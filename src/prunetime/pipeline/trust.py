"""Tunes a sample of a finished run's sub-networks, each alone, to see whether scores order them as tuning does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunetime.core import artifact
from prunetime.errors import InputError
from prunetime.inference.engine import Engine
from prunetime.latency.predictor import LatencyProfile
from prunetime.models.compact import prefix_mask
from prunetime.models.encoder import from_weights, weights_of
from prunetime.pipeline import choosing, stages
from prunetime.pipeline.prune import begin, check_searched
from prunetime.pipeline.run import Progress, Reporter, Run, digest_of
from prunetime.pipeline.settings import Settings
from prunetime.pipeline.source import Source
from prunetime.report.render import render
from prunetime.search.archive import Archive
from prunetime.search.proxy_validation import ProxyValidation
from prunetime.search.space import Genome, Space, fit_to
from prunetime.training.trainer import discard_checkpoints

SHARES = (1.0, 0.8, 0.6)
"""The budgets of the sample, of the run's."""

GENOMES = 8
"""Of each budget: the best that was found, and random ones from the worst score to the best."""

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
    settings = Settings.from_json(run.read("run.json")["settings"])
    check_searched(origin, settings)
    with run.locked():
        source, _ = begin(run, settings)
        models = stages.Models(*(artifact.read(run.path(name)) for name in stages.Models._fields))
        sample = _sample(run, source, settings, models)
        sign = 1.0 if source.metric.higher_is_better else -1.0
        for number, point in enumerate(sample, start=1):
            title = f"Tune structure {number} of {len(sample)}"
            point["quality"] = _quality(run, source, settings, models, tuple(point["genome"]), title)
        pairs = {share: [(p["score"], sign * p["quality"]) for p in sample if p["share"] == share] for share in SHARES}
        found = ProxyValidation.of([np.array(points) for points in pairs.values()]).to_json() | {"points": sample}
        run.write("trust.json", found)
        return found | {"report": str(render(origin))}


def _sample(run: Run, source: Source, settings: Settings, models: stages.Models) -> list[dict[str, Any]]:
    """Genomes of each budget with their scores, from the worst to the best."""
    space = settings.space(models.elastic.manifest.config.dims)
    latency = LatencyProfile.from_json(run.read("profile.json"))
    digest, target_us = stages.archive_digest(run, settings), run.read("search.json")["target_us"]
    predict = choosing.predictor(settings, space, latency)

    def work(progress: Progress) -> None:
        rows = choosing.scoring_rows(source, models.teacher, settings.effort.score_rows, settings.seed)
        sample: list[dict[str, Any]] = []
        with (
            Archive(run.path("evaluations.jsonl"), digest) as archive,
            choosing.scoring(models.elastic, None) as scorers,
        ):
            for share in SHARES:
                near = Near(space, predict, share * target_us)
                genomes = near.drawn(np.random.default_rng([settings.seed, len(sample)]))
                scores = dict(zip(genomes, scorers(rows)([space.spec(genome) for genome in genomes]), strict=True))
                scores |= {e.genome: e.score for e in archive.within(near.most_us)[:1] if near.holds(e.predicted_us)}
                rising = sorted(scores, key=scores.__getitem__)
                chosen = [rising[i] for i in np.linspace(0, len(rising) - 1, GENOMES).round().astype(int)]
                sample += [{"share": share, "genome": list(genome), "score": scores[genome]} for genome in chosen]
                progress(len(sample), GENOMES * len(SHARES))
        run.write("trust/sample.json", sample)

    inputs = [digest, target_us, latency.to_json()]
    run.do("trust-sample", "Choose structures to tune", inputs, ["trust/sample.json"], work)
    found: list[dict[str, Any]] = run.read("trust/sample.json")
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


def _quality(run: Run, source: Source, settings: Settings, models: stages.Models, genome: Genome, title: str) -> float:
    """The metric on valid rows of the sub-network `genome`, tuned."""
    config = models.elastic.manifest.config
    mask = prefix_mask(models.elastic.weights, settings.space(config.dims).spec(genome), config.dims)
    name = digest_of(genome)[:12]

    def work(progress: Progress) -> None:
        student = from_weights(config, stages.kept_of(models.elastic, mask), spec=mask.spec())
        stages.distil(source, settings, models.teacher, student, run.path(f"work/trust-{name}"), progress)
        engine = Engine(config, weights_of(student), stages.THREADS, spec=student.spec)
        value = stages.metric_on_valid(source, settings.effort.finalist_rows, settings.seed)(engine)
        run.write(f"trust/{name}.json", value)
        discard_checkpoints(run.path(f"work/trust-{name}"))

    inputs = {"mask": mask.to_json(), "archive": stages.archive_digest(run, settings)}
    run.do(f"trust-{name}", title, inputs, [f"trust/{name}.json"], work)
    return float(run.read(f"trust/{name}.json"))
