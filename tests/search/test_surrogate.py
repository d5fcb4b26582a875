import numpy as np
import pytest
from scipy.stats import spearmanr

from prunetime.search.archive import Evaluation
from prunetime.search.surrogate import Surrogate

LEVELS = (8, 16) * 4
RNG = np.random.default_rng(0)


def quality(genome) -> float:
    share = np.array(genome) / LEVELS
    return float(share**0.5 @ np.linspace(1.0, 3.0, 8) + 2.0 * share[0] * share[3]) * 0.01 + 0.7


def drawn(count: int):
    genomes = {tuple(int(g) for g in RNG.integers(0, np.array(LEVELS) + 1)) for _ in range(count)}
    return [Evaluation(genome, 1.0, quality(genome), "evolution") for genome in sorted(genomes)]


def test_it_orders_what_it_has_not_seen_and_knows_what_it_has():
    seen, unseen = drawn(150), drawn(200)
    surrogate = Surrogate.fit(LEVELS, seen)
    assert spearmanr(surrogate.predict([e.genome for e in unseen]), [e.score for e in unseen]).statistic > 0.97
    np.testing.assert_allclose(surrogate.predict([e.genome for e in seen]), [e.score for e in seen], atol=0.003)


def test_it_does_not_depend_on_the_unit_of_scores():
    seen, unseen = drawn(60), drawn(20)
    predicted = Surrogate.fit(LEVELS, seen).predict([e.genome for e in unseen])
    moved = [Evaluation(e.genome, 1.0, -5.0 + 1000.0 * e.score, "evolution") for e in seen]
    found = Surrogate.fit(LEVELS, moved).predict([e.genome for e in unseen])
    np.testing.assert_allclose(found, -5.0 + 1000.0 * predicted, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_of_few_or_equal_scores_it_expects_their_mean(count):
    seen = [Evaluation(LEVELS, 1.0, 0.5, "evolution"), Evaluation((0,) * 8, 1.0, 0.5, "evolution")][:count]
    assert Surrogate.fit(LEVELS, seen).predict([(4, 8) * 4]) == pytest.approx([0.5])
