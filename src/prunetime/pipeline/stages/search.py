"""The stages that choose a structure: by searching, or off the archive of a search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, cast

import numpy as np

from prunetime.core.progress import Progress
from prunetime.errors import InputError
from prunetime.models.compact import prefix_mask
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.run import Run
from prunetime.pipeline.student import THREADS, engine_of
from prunetime.pruning.importance import load_scores
from prunetime.search.acquisition import surrogate_proposals
from prunetime.search.archive import Archive, Evaluation, preference
from prunetime.search.evaluate import Elastic, ElasticScorer, ScorerFor, ScoringRows
from prunetime.search.evolution import SearchSettings, SearchState, rescore, score_into
from prunetime.search.evolution import search as evolve
from prunetime.search.mutate import ReinforcedMutator
from prunetime.search.policy import Policy, PolicySettings
from prunetime.search.space import Genome
from prunetime.tasks.roles import whole_groups

EVALUATIONS = "evaluations.jsonl"

CHOICE = ("search.json", "mask.json", "chosen.json")


def _archive(context: Context) -> Archive:
    return Archive(context.run.path(EVALUATIONS), context.archive_digest)


def _search_inputs(context: Context, target_us: float, **_: Any) -> dict[str, Any]:
    evaluations, seed = context.run_plan.evaluations, context.settings.seed
    return {"archive": context.archive_digest, "target_us": target_us, "evaluations": evaluations, "seed": seed}


@stage(
    "search", lambda _, target_us, **__: f"Search for the best within {target_us:.0f} us", CHOICE, inputs=_search_inputs
)
def search(context: Context, progress: Progress, target_us: float, seeds: Sequence[Genome] = ()) -> None:
    """Searches the elastic encoder for the best sub-network that is predicted inside the budget.

    Leaves in `policy.json` what the policy would do first to the best member of the population after every generation:
    for every gene, how likely it is to be lowered and to be raised. `seeds` are in the first population, fitted to the
    target. What was evaluated is kept in `evaluations.jsonl`, which outlives a change of target.
    """
    run, amounts, space, predict = context.run, context.run_plan, context.space, context.predict
    with scoring(context) as scorer_for:
        with _archive(context) as archive:
            wanted = SearchSettings(target_us, amounts.evaluations, seed=context.settings.seed, seeds=tuple(seeds))
            scorer = scorer_for(scoring_rows(context, amounts.score_rows))
            genes = space.genes(predict, load_scores(run.path("importance.safetensors"), space.dims))
            mutator = ReinforcedMutator(Policy.fresh(genes, PolicySettings(), context.settings.seed), predict)
            log: list[dict[str, Any]] = []

            def note(state: SearchState) -> None:
                best = min(state.population, key=preference)
                liked = cast(ReinforcedMutator, state.mutator).preferences(best.genome, target_us)
                log.append({"generation": state.generations, "genome": best.genome, "preferences": liked.tolist()})

            evolve(
                space,
                partial(context.latency.predict, budget=context.budget),
                scorer,
                archive,
                wanted,
                mutator=mutator,
                on_progress=progress,
                on_generation=note,
            )
            run.write("policy.json", log)
        leave_choice(context, target_us, scorer_for)


def _pick_inputs(context: Context, target_us: float) -> dict[str, Any]:
    return {"archive": context.archive_digest, "target_us": target_us}


@stage("propose", "Ask the surrogate of the search", ["proposed.json"], inputs=_pick_inputs)
def propose(context: Context, _: Progress, target_us: float) -> None:
    """Proposes what the search's surrogate expects most of within a new budget: as many as there are finalists."""
    with _archive(context) as archive:
        visited = list(archive)
    generation = 1 + max((e.generation for e in visited), default=0)
    found = surrogate_proposals(context.space.levels, context.predict, visited, target_us, context.run_plan.finalists)
    context.run.write("proposed.json", {"generation": generation, "genomes": found})


@stage("search", lambda _, target_us: f"Pick within {target_us:.0f} us", CHOICE, inputs=_pick_inputs)
def pick_structure(context: Context, progress: Progress, target_us: float) -> None:
    """Scores what was proposed, and picks the best of the archive for the new budget."""
    proposed = context.run.read("proposed.json")
    genomes = [tuple(genome) for genome in proposed["genomes"]]
    unscored = [Evaluation(g, context.predict(g), np.nan, "evolution", proposed["generation"]) for g in genomes]
    with scoring(context) as scorer_for:
        scorer = scorer_for(scoring_rows(context, context.run_plan.score_rows))
        with _archive(context) as archive:
            score_into(archive, context.space, unscored, scorer, progress)
        leave_choice(context, target_us, scorer_for)


def leave_choice(context: Context, target_us: float, scorer_for: ScorerFor) -> None:
    """Scores the archive's finalists again on more rows, and leaves the best as `mask.json` and `search.json`."""
    run, amounts, space = context.run, context.run_plan, context.space
    with _archive(context) as archive:
        chosen = archive.within(target_us)[: amounts.finalists]
        if not chosen:
            fastest = min((e.predicted_us for e in archive), default=0.0)
            raise InputError(
                f"nothing in {run.path(EVALUATIONS)} is predicted within {target_us:.0f} us; the fastest "
                f"takes {fastest:.0f} us: run `prunetime prune` with this budget"
            )
        final = rescore(space, chosen, scorer_for(scoring_rows(context, amounts.finalist_rows)))
        winner = final[0]
        best = {
            kind: min((e for e in archive.within(target_us) if e.kind == kind), key=lambda e: -e.score, default=None)
            for kind in ("uniform", "depth")
        }
        front = [list(e.genome) for e in archive.front()]
    run.write("mask.json", prefix_mask(context.elastic.weights, space.spec(winner.genome), space.dims).to_json())
    leave_chosen(run, context.archive_digest, winner.predicted_us)
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
    """Leaves, of `mask.json`, the digest of what it was made from and the microseconds that are predicted of it."""
    run.write("chosen.json", {"origin": origin, "predicted_us": predicted_us})


@contextmanager
def scoring(context: Context) -> Iterator[ScorerFor]:
    """Within, sub-networks of the elastic encoder are scored by the run's workers, or in this process."""
    found = context.elastic
    plan, repair = found.manifest.plan, context.prefix_repair
    whole = Elastic(found.manifest.config, found.weights, THREADS, plan, repair=repair)
    if context.workers is None:
        yield partial(ElasticScorer, whole)
    else:
        with context.workers.scoring(whole) as scorer_for:
            yield scorer_for


def scoring_rows(context: Context, rows: int) -> ScoringRows:
    """Up to `rows` valid rows, whole groups, drawn by the seed, and the teacher's logits for them."""
    source = context.source
    tokens = source.valid.select(whole_groups(source.roles.valid.groups, rows, context.settings.seed)).tokens
    return ScoringRows(tokens, engine_of(context.teacher).logits(tokens), source.task.traits.choice)
