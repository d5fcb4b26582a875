"""The policy, and the mutator that draws from it, on a small space."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from landscape import IMPORTANCE, SPACE, latency, reinforced

from prunetime.search.mutate import MOST_EDITS, UniformMutator
from prunetime.search.policy import Actions, EditContext, Policy, PolicySettings, Transition, update_policy
from prunetime.search.space import USED, fit_to

GENES = SPACE.genes(latency, IMPORTANCE)
HALF = tuple(level // 2 for level in SPACE.levels)
genomes = st.tuples(*(st.integers(0, level) for level in SPACE.levels))


def chances(policy: Policy, genome=HALF, target_us=100.0) -> np.ndarray:
    """Of every action on `genome`."""
    with torch.no_grad():
        return policy.log_probabilities([EditContext(genome, latency(genome), target_us)])[0].exp().numpy()


def test_costs_and_importance_of_actions_are_those_of_the_genes():
    actions = Actions(GENES, PolicySettings())
    assert len(actions.gene) == sum(level + 1 for level in SPACE.levels)
    us = latency(HALF)
    free, fitting = (actions.on([EditContext(HALF, us, us + 3.0, (2,), fits)])[1][0] for fits in (False, True))
    for action in range(len(actions.gene)):
        gene, level = actions.at(action)
        changed = (*HALF[:gene], level, *HALF[gene + 1 :])
        assert np.isfinite(free[action]) == (gene != 2 and changed != HALF)
        if level:  # the made-up latency adds up but for sub-layers that come or go
            assert np.isfinite(fitting[action]) == (gene != 2 and 0.0 < latency(changed) - us <= 3.0 + 1e-9)
    assert all(mass[-1] <= 1.0 and (np.diff(mass) >= 0.0).all() for mass in GENES.mass)
    assert sum(mass[-1] for mass in GENES.mass) == pytest.approx(1.0)


def test_before_it_learns_it_prefers_to_give_up_what_matters_least_for_its_time():
    actions = Actions(GENES, PolicySettings(prior=1.0, locality=0.0))
    prior = actions.on([EditContext(SPACE.levels, latency(SPACE.levels), 100.0)])[1]
    of_heads = [prior[0, (actions.gene == gene) & (actions.level == 7)][0] for gene in (0, 6)]
    assert of_heads[0] > of_heads[1]  # a head of the last layer costs less time, and matters as much


def trained(policy: Policy, good) -> Policy:
    """After generations in which children gained by edits for which `good` holds, and lost by others."""
    rng = np.random.default_rng(1)
    for _ in range(15):
        edits = policy.choose([EditContext(HALF, latency(HALF), 100.0)] * 24, rng)
        policy = update_policy(policy, [Transition([e], float(good(policy.actions, e.chosen)), True) for e in edits])
    return policy


def test_it_learns_which_layer_to_leave_alone_and_which_way_to_go():
    fresh = Policy.fresh(GENES, PolicySettings(), seed=0)
    first_layer = fresh.actions.gene < 2
    avoided = trained(fresh, lambda actions, chosen: actions.gene[chosen] >= 2)
    assert chances(avoided)[first_layer].sum() < 0.5 * chances(fresh)[first_layer].sum()
    smaller = fresh.actions.level < np.array(HALF)[fresh.actions.gene]
    grown = trained(fresh, lambda actions, chosen: actions.level[chosen] > HALF[actions.gene[chosen]])
    assert chances(grown)[smaller].sum() < 0.5 * chances(fresh)[smaller].sum()


def test_learning_is_a_function_of_its_arguments_and_leaves_the_policy_as_it_was():
    fresh = Policy.fresh(GENES, PolicySettings(), seed=3)
    before = chances(fresh)
    one, other = (trained(fresh, lambda actions, chosen: actions.gene[chosen] == 0) for _ in range(2))
    np.testing.assert_array_equal(chances(one), chances(other))
    np.testing.assert_array_equal(chances(fresh), before)
    assert np.abs(chances(one) - before).sum() > 0.1


def test_gains_of_any_size_teach_the_same_where_they_are_standardised():
    def after(scale: float, settings: PolicySettings) -> np.ndarray:
        policy = trained(Policy.fresh(GENES, settings, 0), lambda a, chosen: scale * a.gene[chosen] - 3.0 * scale)
        return chances(policy)

    np.testing.assert_allclose(after(1e-4, PolicySettings()), after(1e3, PolicySettings()), atol=0.01)
    raw = PolicySettings(standardised=False)
    assert np.abs(after(1e-4, raw) - after(1.0, raw)).max() > 0.02


def test_it_never_becomes_certain():
    policy = Policy.fresh(GENES, PolicySettings(), 0)
    for _ in range(3):
        policy = trained(policy, lambda actions, chosen: actions.gene[chosen] == 0)
    assert chances(policy)[policy.actions.gene == 0].sum() > 0.5
    assert (chances(policy) > 0.0).sum() > 20


def test_what_is_not_allowed_is_never_chosen_and_where_nothing_is_there_is_no_edit():
    policy = Policy.fresh(GENES, PolicySettings(), 0)
    us = latency(HALF)
    others = tuple(gene for gene in range(8) if gene != 3)
    edits = policy.choose([EditContext(HALF, us, 0.9 * us, others, fitting=True)] * 300, np.random.default_rng(0))
    drawn = {policy.actions.at(edit.chosen) for edit in edits}
    assert drawn == {(3, level) for level in range(HALF[3])}
    assert policy.choose([EditContext(HALF, us, us, fitting=True)], np.random.default_rng(0)) == [None]


def test_actions_are_drawn_as_often_as_their_probability():
    policy = trained(Policy.fresh(GENES, PolicySettings(), 0), lambda actions, chosen: actions.gene[chosen] == 5)
    edits = policy.choose([EditContext(HALF, latency(HALF), 100.0)] * 20_000, np.random.default_rng(0))
    found = np.bincount([edit.chosen for edit in edits], minlength=len(policy.actions.gene)) / 20_000
    np.testing.assert_allclose(found, chances(policy), atol=0.012)
    assert all(np.exp(e.log_probability) == pytest.approx(chances(policy)[e.chosen], rel=1e-4) for e in edits[:50])


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
        if not child.edits:
            assert child.predicted_us <= target_us
        else:
            genes = [mutator.policy.actions.at(edit.chosen)[0] for edit in child.edits]
            assert len(set(genes)) == len(genes)
            assert {i for i, (a, b) in enumerate(zip(parent, child.genome, strict=True)) if a != b} == set(genes)


def test_some_children_of_a_policy_are_left_to_uniform_mutation_and_teach_it_nothing():
    mutator = reinforced()
    children = mutator.propose([HALF] * 400, [100.0] * 400, np.random.default_rng(0))
    explored = [child for child in children if not child.edits]
    assert 0.4 < len(explored) / 400 < 0.6
    assert mutator.updated([Transition(child.edits, 1.0, True) for child in explored]) is mutator
    assert mutator.updated([Transition(child.edits, 1.0, True) for child in children]) is not mutator


def test_preferences_are_the_chances_of_the_first_edit():
    mutator = reinforced()
    found = mutator.preferences(HALF, 100.0)
    assert found.shape == (8, 2)
    assert found.sum() == pytest.approx(1.0)
    drawn = mutator.policy.choose([EditContext(HALF, latency(HALF), 100.0)] * 5000, np.random.default_rng(0))
    rises = [level > HALF[gene] for gene, level in (mutator.policy.actions.at(edit.chosen) for edit in drawn)]
    assert np.mean(rises) == pytest.approx(found[:, 1].sum(), abs=0.03)


def test_most_reinforced_children_of_parents_inside_the_budget_use_it():
    rng = np.random.default_rng(0)
    parents = [fit_to(SPACE.levels, latency, SPACE.random(rng), 100.0, rng)[0] for _ in range(200)]
    fitting = [USED * 100.0 <= c.predicted_us <= 100.0 for c in reinforced().propose(parents, [100.0] * 200, rng)]
    assert np.mean(fitting) > 0.8


def test_a_hundred_children_are_proposed_by_one_pass_of_the_policy_an_edit(monkeypatch):
    passes, fixed_log_probabilities = [], Policy.fixed_log_probabilities

    def watched(policy, contexts):
        passes.append(len(contexts))
        return fixed_log_probabilities(policy, contexts)

    monkeypatch.setattr(Policy, "fixed_log_probabilities", watched)
    reinforced().propose([HALF] * 100, [100.0] * 100, np.random.default_rng(0))
    assert 1 < len(passes) <= MOST_EDITS
    assert passes[0] > 50


def test_settings_take_the_names_of_the_last_release_for_one_more():
    with pytest.warns(DeprecationWarning, match="remembered will go in the next release: use replay_size"):
        settings = PolicySettings(remembered=9)
    with pytest.warns(DeprecationWarning, match="use max_importance_weight"):
        assert PolicySettings(replay_size=9, truncated=2.0) == settings
