from pathlib import Path

import pytest
from landscape import SPACE, Uneven, latency, predict, reinforced

from prunetime.search.acquisition import surrogate_proposals
from prunetime.search.archive import Archive, Evaluation
from prunetime.search.evolution import SearchSettings, search

BUDGET = 100.0


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> list[Evaluation]:
    return searched(tmp_path_factory.mktemp("search"), BUDGET)


def searched(folder: Path, budget_us: float) -> list[Evaluation]:
    with Archive(folder / "archive", "digest") as archive:
        search(SPACE, predict, Uneven(), archive, SearchSettings(budget_us, 100), mutator=reinforced())
        return list(archive)


def test_it_is_better_than_the_archive_and_nearly_as_good_as_a_search(
    visited: list[Evaluation], tmp_path: Path
) -> None:
    budget_us = 0.7 * BUDGET
    found = surrogate_proposals(SPACE.levels, latency, visited, budget_us, 16)
    assert 1 <= len(found) == len(set(found)) <= 16
    assert max(map(latency, found)) <= budget_us
    assert not set(found) & {e.genome for e in visited}
    best = max(Uneven()([SPACE.spec(genome) for genome in found]))
    own, archived = (
        max(e.score for e in evaluations if e.predicted_us <= budget_us)
        for evaluations in (searched(tmp_path, budget_us), visited)
    )
    assert best > archived
    assert best > own - 0.25 * (own - min(e.score for e in visited if e.kind == "uniform"))


def test_it_is_a_function_of_what_it_is_given(visited: list[Evaluation]) -> None:
    found = surrogate_proposals(SPACE.levels, latency, visited, 70.0, 5)
    assert surrogate_proposals(SPACE.levels, latency, visited, 70.0, 3) == found[:3]


def test_below_the_floor_there_is_nothing(visited: list[Evaluation]) -> None:
    assert surrogate_proposals(SPACE.levels, latency, visited, 19.0, 5) == []
