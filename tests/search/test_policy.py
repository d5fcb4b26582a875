"""The policy, and the mutator that draws from it, on a small space."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landscape import IMPORTANCE, SPACE, latency, reinforced

from prunetime.search.mutate import MOST_EDITS, UniformMutator
from prunetime.search.policy import Actions, Lesson, Policy, PolicySettings, learn
from prunetime.search.space import USED, fit_to

GENES = SPACE.genes(latency, IMPORTANCE)
HALF = tuple(level // 2 for level in SPACE.levels)
genomes = st.tuples(*(st.integers(0, level) for level in SPACE.levels))


def chances(policy: Policy, genome=HALF, target_us=100.0) -> np.ndarray:
    """Of every action on `genome`, from how often it is drawn."""
    found = policy.actions.on([genome], np.array([latency(genome)]), np.array([target_us]))
    many = 20_000
    rows = (np.repeat(array, many, 0) for array in (found.features, found.prior))
    drawn = [edit.chosen for edit in policy.choose(*rows, np.random.default_rng(0))]
    return np.bincount(drawn, minlength=len(policy.actions.gene)) / many


def test_costs_and_importance_of_actions_are_those_of_the_genes():
    actions = Actions(GENES, PolicySettings())
    assert len(actions.gene) == sum(level + 1 for level in SPACE.levels)
    situation = actions.on([HALF], np.array([latency(HALF)]), np.array([100.0]))
    for action in range(0, len(actions.gene), 7):
        gene, level = actions.gene[action], actions.level[action]
        changed = (*HALF[:gene], int(level), *HALF[gene + 1 :])
        if level and HALF[gene]:  # the made-up latency adds up but for sub-layers that come or go
            assert situation.cost[0, action] == pytest.approx(latency(changed) - latency(HALF))
    unchanged = actions.level == np.array(HALF)[actions.gene]
    np.testing.assert_array_equal(np.isinf(situation.prior[0]), unchanged)
    assert all(mass[-1] <= 1.0 and (np.diff(mass) >= 0.0).all() for mass in GENES.mass)
    assert sum(mass[-1] for mass in GENES.mass) == pytest.approx(1.0)


def test_before_it_learns_it_prefers_to_give_up_what_matters_least_for_its_time():
    actions = Actions(GENES, PolicySettings(locality=0.0))
    found = actions.on([SPACE.levels], np.array([latency(SPACE.levels)]), np.array([100.0]))
    of_heads = [found.prior[0, (actions.gene == gene) & (actions.level == 7)][0] for gene in (0, 6)]
    assert of_heads[0] > of_heads[1]  # a head of the last layer costs less time, and matters as much


def taught(policy: Policy, good) -> Policy:
    """After generations in which children gained by edits for which `good` holds, and lost by others."""
    rng = np.random.default_rng(1)
    situation = policy.actions.on([HALF] * 24, np.full(24, latency(HALF)), np.full(24, 100.0))
    for _ in range(15):
        edits = policy.choose(situation.features, situation.prior, rng)
        policy = learn(policy, [Lesson([e], float(good(policy.actions, e.chosen)), True) for e in edits])
    return policy


def test_it_learns_which_layer_to_leave_alone_and_which_way_to_go():
    fresh = Policy.fresh(GENES, PolicySettings(), seed=0)
    first_layer = fresh.actions.gene < 2
    avoided = taught(fresh, lambda actions, chosen: actions.gene[chosen] >= 2)
    assert chances(avoided)[first_layer].sum() < 0.5 * chances(fresh)[first_layer].sum()
    smaller = fresh.actions.level < np.array(HALF)[fresh.actions.gene]
    grown = taught(fresh, lambda actions, chosen: actions.level[chosen] > HALF[actions.gene[chosen]])
    assert chances(grown)[smaller].sum() < 0.5 * chances(fresh)[smaller].sum()


def test_learning_is_a_function_of_its_arguments_and_leaves_the_policy_as_it_was():
    fresh = Policy.fresh(GENES, PolicySettings(), seed=3)
    before = chances(fresh)
    one, other = (taught(fresh, lambda actions, chosen: actions.gene[chosen] == 0) for _ in range(2))
    np.testing.assert_array_equal(chances(one), chances(other))
    np.testing.assert_array_equal(chances(fresh), before)
    assert np.abs(chances(one) - before).sum() > 0.1


def test_gains_of_any_size_teach_the_same():
    def after(scale: float) -> np.ndarray:
        policy = taught(
            Policy.fresh(GENES, PolicySettings(), 0), lambda a, chosen: scale * a.gene[chosen] - 3.0 * scale
        )
        return chances(policy)

    np.testing.assert_allclose(after(1e-4), after(1e3), atol=0.01)


def test_it_never_becomes_certain():
    policy = Policy.fresh(GENES, PolicySettings(), 0)
    for _ in range(4):
        policy = taught(policy, lambda actions, chosen: actions.gene[chosen] == 0)
    assert chances(policy)[policy.actions.gene == 0].sum() > 0.5
    assert (chances(policy) > 0.0).sum() > 20


def test_what_is_not_allowed_is_never_chosen_and_where_nothing_is_there_is_no_edit():
    policy = Policy.fresh(GENES, PolicySettings(), 0)
    found = policy.actions.on([HALF] * 50, np.full(50, 100.0), np.full(50, 100.0))
    allowed = policy.actions.gene == 3
    edits = policy.choose(found.features, np.where(allowed, found.prior, -np.inf), np.random.default_rng(0))
    assert {int(policy.actions.gene[e.chosen]) for e in edits} == {3}
    none = policy.choose(found.features, np.full_like(found.prior, -np.inf), np.random.default_rng(0))
    assert none == [None] * 50


@settings(max_examples=40)
@given(st.lists(genomes, min_size=1, max_size=6), st.floats(25.0, 250.0), st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("kind", ["uniform", "reinforced"])
def test_children_are_of_the_space_and_use_their_target(kind, parents, target_us, seed):
    mutator = reinforced() if kind == "reinforced" else UniformMutator(SPACE.levels, latency)
    children = mutator.propose(parents, [target_us] * len(parents), np.random.default_rng(seed))
    assert len(children) == len(parents)
    for parent, child in zip(parents, children, strict=True):
        assert child.predicted_us == latency(child.genome)
        assert len(child.edits) <= MOST_EDITS
        if kind == "uniform":
            assert child.predicted_us <= target_us
        else:
            genes = [int(mutator.policy.actions.gene[edit.chosen]) for edit in child.edits]
            assert len(set(genes)) == len(genes)
            assert {i for i, (a, b) in enumerate(zip(parent, child.genome, strict=True)) if a != b} == set(genes)


def test_most_reinforced_children_of_parents_inside_the_budget_use_it():
    rng = np.random.default_rng(0)
    parents = [fit_to(SPACE.levels, latency, SPACE.random(rng), 100.0, rng)[0] for _ in range(200)]
    fitting = [USED * 100.0 <= c.predicted_us <= 100.0 for c in reinforced().propose(parents, [100.0] * 200, rng)]
    assert np.mean(fitting) > 0.8


def test_a_hundred_children_are_proposed_in_less_than_a_second():
    mutator, rng = reinforced(), np.random.default_rng(0)
    parents = [HALF] * 100
    mutator.propose(parents, [100.0] * 100, rng)
    start = time.perf_counter()
    mutator.propose(parents, [100.0] * 100, rng)
    assert time.perf_counter() - start < 1.0
