"""The stages that choose a structure: by searching, or off the archive of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from prunetime.core import artifact
from prunetime.core.arch import ArchSpec
from prunetime.errors import InputError
from prunetime.latency.predictor import LatencyProfile
from prunetime.models.compact import prefix_mask
from prunetime.pipeline.run import Progress, Run
from prunetime.pipeline.settings import Settings
from prunetime.pipeline.source import Source
from prunetime.pipeline.stages import THREADS, Models, archive_digest, engine_of, whole_groups
from prunetime.pruning.importance import load_scores
from prunetime.search.archive import Archive, Evaluation, preference
from prunetime.search.evaluate import Elastic, ElasticScorer, ScorerFor, ScoringRows
from prunetime.search.evolution import SearchSettings, State, finalists, rescore, score_into, search
from prunetime.search.mutate import ReinforcedMutator
from prunetime.search.policy import Policy, PolicySettings
from prunetime.search.promising import promising
from prunetime.search.space import Genome, Space

if TYPE_CHECKING:
    from prunetime.search.cluster import Workers


def choose(
    run: Run,
    source: Source,
    settings: Settings,
    models: Models,
    latency: LatencyProfile,
    target_us: float,
    *,
    workers: Workers | None = None,
    seeds: Sequence[Genome] = (),
) -> None:
    """Searches the elastic encoder for the best sub-network predicted to take at most `target_us`.

    Leaves `search.json`, `mask.json`, and in `policy.json` what the policy would do first to the best member of the
    population after every generation: for every gene, how likely it is to be lowered and to be raised.
    `seeds` are in the first population, fitted to the target. What was evaluated is kept in `evaluations.jsonl`, which
    outlives a change of target.
    """
    effort, space = settings.effort, settings.space(models.elastic.manifest.config.dims)
    digest = archive_digest(run, settings)

    def predict(spec: ArchSpec) -> float:
        return latency.predict(spec, settings.budget)

    latency_of = predictor(settings, space, latency)

    def work(progress: Progress) -> None:
        with scoring(models.elastic, workers) as scorer_for:
            with Archive(run.path("evaluations.jsonl"), digest) as archive:
                wanted = SearchSettings(target_us, effort.evaluations, seed=settings.seed, seeds=tuple(seeds))
                scorer = scorer_for(scoring_rows(source, models.teacher, effort.score_rows, settings.seed))
                genes = space.genes(latency_of, load_scores(run.path("importance.safetensors"), space.dims))
                mutator = ReinforcedMutator(Policy.fresh(genes, PolicySettings(), settings.seed), latency_of)
                log: list[dict[str, Any]] = []

                def note(state: State) -> None:
                    best = min(state.population, key=preference)
                    liked = cast(ReinforcedMutator, state.mutator).preferences(best.genome, target_us)
                    log.append({"generation": state.generations, "genome": best.genome, "preferences": liked.tolist()})

                search(
                    space, predict, scorer, archive, wanted, mutator=mutator, on_progress=progress, on_generation=note
                )
                run.write("policy.json", log)
            leave_choice(run, source, settings, models, target_us, scorer_for)

    inputs = {"archive": digest, "target_us": target_us, "evaluations": effort.evaluations, "seed": settings.seed}
    run.do(
        "search",
        f"Search for the best within {target_us:.0f} us",
        inputs,
        ["search.json", "mask.json", "chosen.json"],
        work,
    )


def predictor(settings: Settings, space: Space, latency: LatencyProfile) -> Callable[[Genome], float]:
    """The predicted microseconds of a genome."""
    return lambda genome: latency.predict(space.spec(genome), settings.budget)


def propose(
    run: Run, settings: Settings, models: Models, latency: LatencyProfile, target_us: float
) -> list[Evaluation]:
    """What the search's critic expects most of within `target_us`, as many as there are finalists; without scores.

    Leaves them in `proposed.json`, so that a killed run goes on with the same ones.
    """
    space, digest = settings.space(models.elastic.manifest.config.dims), archive_digest(run, settings)
    latency_of = predictor(settings, space, latency)

    def work(_: Progress) -> None:
        with Archive(run.path("evaluations.jsonl"), digest) as archive:
            visited = list(archive)
        generation = 1 + max((e.generation for e in visited), default=0)
        found = promising(space.levels, latency_of, visited, target_us, settings.effort.finalists)
        run.write("proposed.json", {"generation": generation, "genomes": found})

    inputs = {"archive": digest, "target_us": target_us}
    run.do("propose", "Ask the critic of the search", inputs, ["proposed.json"], work)
    proposed = run.read("proposed.json")
    genomes = [tuple(genome) for genome in proposed["genomes"]]
    return [Evaluation(g, latency_of(g), np.nan, "evolution", proposed["generation"]) for g in genomes]


def score_proposed(
    run: Run,
    source: Source,
    settings: Settings,
    models: Models,
    proposed: Sequence[Evaluation],
    scorer_for: ScorerFor,
    *,
    on_progress: Progress,
) -> None:
    """Adds them to the archive, with their scores."""
    space = settings.space(models.elastic.manifest.config.dims)
    scorer = scorer_for(scoring_rows(source, models.teacher, settings.effort.score_rows, settings.seed))
    with Archive(run.path("evaluations.jsonl"), archive_digest(run, settings)) as archive:
        score_into(archive, space, proposed, scorer, on_progress)


def leave_choice(
    run: Run, source: Source, settings: Settings, models: Models, target_us: float, scorer_for: ScorerFor
) -> None:
    """Scores the archive's finalists again on more rows, and leaves the best as `mask.json` and `search.json`."""
    effort, space = settings.effort, settings.space(models.elastic.manifest.config.dims)
    with Archive(run.path("evaluations.jsonl"), archive_digest(run, settings)) as archive:
        chosen = finalists(archive, target_us, effort.finalists)
        if not chosen:
            fastest = min((e.predicted_us for e in archive), default=0.0)
            raise InputError(
                f"nothing in {run.path('evaluations.jsonl')} is predicted within {target_us:.0f} us; the fastest "
                f"takes {fastest:.0f} us: run `prunetime prune` with this budget"
            )
        rows = scoring_rows(source, models.teacher, effort.finalist_rows, settings.seed)
        final = rescore(space, chosen, scorer_for(rows))
        winner = final[0]
        best = {
            kind: min((e for e in archive.within(target_us) if e.kind == kind), key=lambda e: -e.score, default=None)
            for kind in ("uniform", "depth")
        }
        front = [list(e.genome) for e in archive.front()]
    run.write("mask.json", prefix_mask(models.elastic.weights, space.spec(winner.genome), space.dims).to_json())
    leave_chosen(run, archive_digest(run, settings), winner.predicted_us)
    run.write(
        "search.json",
        {
            "target_us": target_us,
            "chosen": asdict(winner),
            "finalists": [asdict(e) for e in final],
            "baselines": {kind: asdict(e) if e else None for kind, e in best.items()},
            "front": front,
        },
    )


def leave_chosen(run: Run, origin: str, predicted_us: float) -> None:
    """What a choice says of `mask.json`: the digest of what it was made from, and what it is predicted to take."""
    run.write("chosen.json", {"origin": origin, "predicted_us": predicted_us})


@contextmanager
def scoring(whole: artifact.Artifact, workers: Workers | None) -> Iterator[ScorerFor]:
    """Within, sub-networks of the elastic encoder are scored by `workers`, or in this process where there are none."""
    if workers is None:
        yield partial(ElasticScorer, Elastic(whole.manifest.config, whole.weights, THREADS, whole.manifest.plan))
    else:
        with workers.scoring(whole.manifest.config, whole.weights, whole.manifest.plan) as scorer_for:
            yield scorer_for


def scoring_rows(source: Source, teacher: artifact.Artifact, rows: int, seed: int) -> ScoringRows:
    """Up to `rows` valid rows, whole groups, drawn by `seed`, and what the `teacher` says of them."""
    tokens = source.valid.select(whole_groups(source.roles.valid.groups, rows, seed)).tokens
    return ScoringRows(tokens, engine_of(teacher).logits(tokens), source.task.traits.choice == "tokens")
