import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landscape import SPACE, Uneven, latency, predict, reinforced

from prunetime.core.arch import ArchSpec, Dims
from prunetime.errors import BudgetError, InputError, PrunetimeError
from prunetime.search.archive import Archive, Evaluation
from prunetime.search.evolution import (
    OTHER_BUDGET_BINS,
    Reward,
    SearchSettings,
    depth_baselines,
    rescore,
    search,
    uniform_baselines,
)
from prunetime.search.mutate import Child, UniformMutator
from prunetime.search.space import USED, Space, fit_to

PLAIN = {"batch": 1, "crossover": 0.0, "screened": 1}
"""Ageing evolution as it is in its paper."""


def run(path, budget_us=100.0, evaluations=120, seed=0, scorer=None, changes=None, **options):
    wanted = SearchSettings(budget_us, evaluations, population=24, tournament=5, seed=seed, **(changes or {}))
    with Archive(path, "digest") as archive:
        best = search(SPACE, predict, scorer or Uneven(), archive, wanted, **options)
        return best, list(archive)


@pytest.mark.parametrize("budget_us", [50.0, 100.0, 160.0])
def test_the_winner_is_inside_the_budget_and_better_than_the_baselines(tmp_path, budget_us):
    best, archive = run(tmp_path / "a.jsonl", budget_us)
    assert best.predicted_us == predict(SPACE.spec(best.genome)) <= budget_us
    for kind in ("uniform", "depth"):
        assert best.score > max(e.score for e in archive if e.kind == kind and e.predicted_us <= budget_us)


def test_it_finds_nearly_the_best_there_is(tmp_path):
    space = Space(Dims(layers=2, hidden=64, heads=4, head_dim=16, ffn=256, vocabulary=50, positions=32))
    worth = np.array([2.0, 0.4, 0.5, 1.0])

    def scorer(specs):
        return [float(worth @ np.sqrt(space.genome(spec))) for spec in specs]

    every = [(a, b, c, d) for a in range(5) for b in range(9) for c in range(5) for d in range(9)]
    optimum = max(s for g, s in zip(every, scorer(map(space.spec, every)), strict=True) if predict(space.spec(g)) <= 45)
    with Archive(tmp_path / "a.jsonl", "d") as archive:
        best = search(space, predict, scorer, archive, SearchSettings(45.0, 100, population=24, tournament=5))
    assert best.score > 0.98 * optimum


def test_seeds_are_in_the_first_population_fitted_to_the_budget(tmp_path):
    best, _ = run(tmp_path / "a.jsonl")
    assert best.predicted_us >= USED * 100.0
    _, archive = run(tmp_path / "b.jsonl", seed=1, evaluations=60, changes={"seeds": (best.genome,)})
    assert best.genome in {e.genome for e in archive if e.generation == 0}
    _, archive = run(tmp_path / "c.jsonl", seed=1, evaluations=60, changes={"seeds": (SPACE.levels,)})
    first = [e for e in archive if e.generation == 0 and e.kind == "evolution"]
    assert all(e.predicted_us <= 100.0 for e in first)


def test_evaluations_are_distinct_genomes_baselines_included(tmp_path):
    scorer = Uneven()
    seen = []
    _, archive = run(tmp_path / "a.jsonl", scorer=scorer, on_progress=lambda *done: seen.append(done))
    assert len(archive) == len(set(scorer.scored)) == len(scorer.scored) == 120
    assert seen == [(n, 120) for n in range(1, 121)]
    kinds = Counter(e.kind for e in archive)
    assert kinds["uniform"] > 1
    assert kinds["depth"] > 1
    assert kinds["evolution"] > 60


def test_children_use_the_budget_and_some_are_for_other_budgets(tmp_path):
    _, archive = run(tmp_path / "a.jsonl", evaluations=300, changes={"elsewhere": 0.2})
    shares = np.array([e.predicted_us / 100.0 for e in archive if e.generation > 0])
    at_budget = (shares > 0.9) & (shares <= 1.0)
    assert at_budget.mean() > 0.7
    assert 0.1 < ((shares < 0.9) | (shares > 1.0)).mean() < 0.3
    assert shares.max() <= OTHER_BUDGET_BINS[-1]


def test_one_search_answers_a_smaller_budget(tmp_path):
    run(tmp_path / "a.jsonl", evaluations=300)
    with Archive(tmp_path / "a.jsonl", "digest") as archive:
        smaller = archive.best_within(75.0)
        scores = {kind: [e.score for e in archive if e.kind == kind] for kind in ("uniform", "depth")}
    dedicated, _ = run(tmp_path / "b.jsonl", budget_us=75.0, evaluations=300)
    assert smaller.score > 0.9 * dedicated.score
    assert scores["uniform"]


def test_parents_are_genomes_scored_before(tmp_path):
    _, archive = run(tmp_path / "a.jsonl")
    before: set = set()
    for evaluation in archive:
        assert (evaluation.parent is None) == (evaluation.generation == 0)
        assert evaluation.parent is None or evaluation.parent in before
        before.add(evaluation.genome)


class Restart:
    """No evolution: every child is a random genome that uses the target."""

    def propose(self, parents, targets_us, rng):
        fitted = [fit_to(SPACE.levels, latency, SPACE.random(rng), target, rng) for target in targets_us]
        return [Child(*(found or (parent, latency(parent)))) for parent, found in zip(parents, fitted, strict=True)]

    def updated(self, _):
        return self


def test_evolution_beats_random_search_and_a_surrogate_and_a_policy_beat_it(tmp_path):
    def mean_best(name, mutator_of, changes):
        runs = [
            run(tmp_path / f"{name}{seed}", seed=seed, mutator=mutator_of(seed), changes=changes) for seed in range(2)
        ]
        return np.mean([best.score for best, _ in runs])

    found = [
        mean_best("random", lambda _: Restart(), PLAIN),
        mean_best("plain", lambda _: UniformMutator(SPACE.levels, latency), PLAIN),
        mean_best("screened", lambda _: UniformMutator(SPACE.levels, latency), {}),
    ]
    assert found == sorted(found)
    assert mean_best("reinforced", reinforced, {}) > found[1]


def test_parents_win_a_tournament_in_a_population_that_ages(tmp_path):
    _, archive = run(tmp_path / "a.jsonl", evaluations=200, changes=PLAIN | {"elsewhere": 0.0})
    children = {e.generation: e for e in archive if e.generation}
    born = {e.genome: e.generation for e in archive}
    better = []
    for generation in range(25, len(children) + 1):
        population = [children[g] for g in range(generation - 24, generation)]
        parent = children[generation].parent
        assert generation - 24 <= born[parent] < generation
        better.append(sum(e.score > children[born[parent]].score for e in population))
    assert np.mean(better) < 24 / 4


@settings(max_examples=4, deadline=None)
@given(killed_after=st.integers(0, 59), seed=st.integers(0, 2))
def test_killed_after_any_number_of_evaluations_it_ends_as_if_it_had_not_been(tmp_path_factory, killed_after, seed):
    folder = tmp_path_factory.mktemp("search")
    best, _ = run(folder / "whole.jsonl", evaluations=60, seed=seed, mutator=reinforced(seed))
    lines = (folder / "whole.jsonl").read_bytes().splitlines(keepends=True)
    torn = lines[killed_after + 1][:-7]
    (folder / "killed.jsonl").write_bytes(b"".join(lines[: killed_after + 1]) + torn)
    scorer = Uneven()
    again = run(folder / "killed.jsonl", evaluations=60, seed=seed, scorer=scorer, mutator=reinforced(seed))
    assert again[0] == best
    assert (folder / "killed.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert len(scorer.scored) == 60 - killed_after


def test_interrupted_while_scoring_it_continues_where_it_was(tmp_path):
    class Interrupted(Uneven):
        def __call__(self, specs):
            for score in super().__call__(specs):
                if len(self.scored) == 50:
                    raise KeyboardInterrupt
                yield score

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a.jsonl", scorer=Interrupted())
    best, archive = run(tmp_path / "a.jsonl")
    assert (best, archive) == run(tmp_path / "b.jsonl")


def test_another_seed_is_another_search(tmp_path):
    one, other = (run(tmp_path / f"{seed}.jsonl", seed=seed)[1] for seed in (0, 1))
    assert {e.genome for e in one} != {e.genome for e in other}


def test_a_second_search_in_the_archive_reuses_its_scores(tmp_path):
    run(tmp_path / "a.jsonl", budget_us=100.0)
    scorer = Uneven()
    best, archive = run(tmp_path / "a.jsonl", budget_us=98.0, scorer=scorer)
    assert best.predicted_us <= 98.0
    assert len(archive) == 120 + len(scorer.scored)
    assert len(scorer.scored) < 120


def test_a_search_of_a_tiny_space_ends(tmp_path):
    space = Space(Dims(layers=1, hidden=32, heads=1, head_dim=32, ffn=32, vocabulary=50, positions=32))
    with Archive(tmp_path / "a.jsonl", "d") as archive:
        search(space, predict, lambda specs: [0.0] * len(specs), archive, SearchSettings(1000.0, 100, 4, 2))
        assert len(archive) <= 4


def test_a_budget_below_the_floor_is_refused_with_both_numbers(tmp_path):
    with pytest.raises(BudgetError, match=r"19 us.*20 us"):
        run(tmp_path / "a.jsonl", budget_us=19.0)


def test_at_the_floor_there_is_an_answer(tmp_path):
    best, _ = run(tmp_path / "a.jsonl", budget_us=20.0)
    assert SPACE.spec(best.genome) == ArchSpec.floor(SPACE.dims)


def test_a_score_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(PrunetimeError, match="finite"):
        run(tmp_path / "a.jsonl", scorer=lambda specs: [math.nan] * len(specs))


def test_the_given_mutator_makes_the_children(tmp_path):
    class LastGeneOnly:
        def propose(self, parents, _, rng):
            genomes = [(*parent[:-1], int(rng.integers(0, SPACE.levels[-1] + 1))) for parent in parents]
            return [Child(genome, latency(genome)) for genome in genomes]

        def updated(self, _):
            return self

    _, ours = run(tmp_path / "a.jsonl", mutator=LastGeneOnly())
    _, plain = run(tmp_path / "b.jsonl")
    assert ours != plain


@pytest.mark.parametrize(
    "change",
    [
        {"budget_us": 0.0},
        {"budget_us": math.nan},
        {"evaluations": 0},
        {"tournament": 99},
        {"screened": 0},
        {"batch": 0},
        {"crossover": 2.0},
    ],
)
def test_settings_that_make_no_search_are_refused(change):
    with pytest.raises(InputError):
        dataclasses.replace(SearchSettings(100.0, 10), **change)


genomes = st.tuples(*(st.integers(0, level) for level in SPACE.levels))
seeds = st.integers(0, 2**32 - 1)


@given(genomes, st.floats(10.0, 400.0), seeds)
def test_fitted_it_uses_the_target_and_never_exceeds_it(genome, target_us, seed):
    found = fit_to(SPACE.levels, lambda g: predict(SPACE.spec(g)), genome, target_us, np.random.default_rng(seed))
    if target_us < 20.0:
        assert found is None
        return
    repaired, us = found
    assert us == predict(SPACE.spec(repaired)) <= target_us
    grown = [(*repaired[:i], gene + 1, *repaired[i + 1 :]) for i, gene in enumerate(repaired)]
    inside = [g for g in grown if max(np.subtract(g, SPACE.levels)) <= 0 and predict(SPACE.spec(g)) <= target_us]
    assert us >= USED * target_us or not inside


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_reward_falls_with_latency_inside_the_budget_and_is_nothing_outside(weight):
    reward = Reward(base=0.7, scale=0.1, weight=weight)
    fast, slow, over = (Evaluation((1,), us, 0.9, "evolution") for us in (50.0, 100.0, 101.0))
    assert reward(slow, 100.0) == pytest.approx(2.0)
    assert reward(fast, 100.0) == pytest.approx(2.0 + weight * math.log(2.0))
    assert reward(over, 100.0) == -math.inf
    scaled = Reward(base=-7.0, scale=10.0, weight=weight)
    assert scaled(dataclasses.replace(fast, score=13.0), 100.0) == pytest.approx(reward(fast, 100.0))


@given(st.floats(20.0, 300.0))
def test_uniform_baselines_are_the_edge_of_the_budget(budget_us):
    feasible = {g for g in SPACE.uniform() if predict(SPACE.spec(g)) <= budget_us}
    edge = {g for g in feasible if not any(h != g and h[0] >= g[0] and h[1] >= g[1] for h in feasible)}
    assert set(uniform_baselines(SPACE, predict, budget_us)) == edge


@given(st.floats(20.0, 300.0))
def test_depth_baselines_keep_as_many_layers_as_fit(budget_us):
    found = depth_baselines(SPACE, predict, budget_us)
    kept = {sum(head > 0 for head in genome[0::2]) for genome in found}
    assert len(kept) <= 1
    assert all(predict(SPACE.spec(genome)) <= budget_us for genome in found)
    more = next(iter(kept), 0) + 1
    assert all(predict(SPACE.spec(g)) > budget_us for g in SPACE.depth(more, 99)) or more > 4


def test_finalists_are_scored_again_and_the_best_of_them_wins(tmp_path):
    with Archive(tmp_path / "a.jsonl", "d") as archive:
        for heads, score in ((1, 0.5), (2, 0.7), (3, 0.9), (8, 1.0)):
            genome = (heads, 1) * 4
            archive.add(Evaluation(genome, predict(SPACE.spec(genome)), score, "evolution"))
        chosen = archive.within(80.0)[:2]
    assert [e.score for e in chosen] == [0.9, 0.7]
    again = rescore(SPACE, chosen, lambda specs: [-float(spec.layers[0].heads) for spec in specs])
    assert [(e.genome[0], e.score) for e in again] == [(2, -2.0), (3, -3.0)]
