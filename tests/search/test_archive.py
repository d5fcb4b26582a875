import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetime.errors import InputError
from prunetime.search.archive import Archive, Evaluation, elites, spread

FIRST = Evaluation((1, 2), 100.0, 0.7, "uniform")
SECOND = Evaluation((0, 2), 80.0, 0.6, "evolution", 3, (1, 2))
THIRD = Evaluation((2, 2), 120.0, 0.65, "depth")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    with Archive(path, "d1") as archive:
        for evaluation in (FIRST, SECOND, THIRD):
            archive.add(evaluation)
    return path


def test_what_was_added_is_read_back_in_order(path):
    with Archive(path, "d1") as archive:
        assert list(archive) == [FIRST, SECOND, THIRD]
        assert (0, 2) in archive
        assert archive[0, 2] == SECOND
        assert (9, 9) not in archive


def test_every_cut_of_the_file_loses_at_most_the_torn_line(path):
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kept = max(0, whole[:size].count(b"\n") - 1)
        with Archive(path, "d1") as archive:
            assert list(archive) == [FIRST, SECOND, THIRD][:kept]
            for evaluation in [FIRST, SECOND, THIRD][kept:]:
                archive.add(evaluation)
        assert path.read_bytes() == whole


def test_a_line_is_in_the_file_as_soon_as_it_is_added(path):
    with Archive(path, "d1") as archive:
        archive.add(Evaluation((3, 3), 150.0, 0.8, "evolution"))
        assert path.read_bytes().count(b"\n") == 5


def test_a_genome_is_added_once(path):
    with Archive(path, "d1") as archive, pytest.raises(ValueError, match="already"):
        archive.add(FIRST)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (0, b'{"format": "prunetime-evaluations-1", "digest": "d2"}', "another space, model or data"),
        (0, b'{"format": "prunetime-evaluations-9", "digest": "d1"}', "prunetime-evaluations-9"),
        (0, b"genome,score", "no header"),
        (0, b"[1]", "no header"),
        (2, b'{"genome": [0, 2], "predi', "line 3 is corrupt"),
        (2, b'{"genome": 7, "predicted_us": 1.0, "score": 1.0, "kind": "depth"}', "line 3 is corrupt"),
        (2, b'{"genome": [0, 2]}', "line 3 is corrupt"),
        (2, b"\xff\xfe", "line 3 is corrupt"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_and_left_as_it_is(path, line, text, message):
    lines = path.read_bytes().split(b"\n")
    lines[line] = text
    path.write_bytes(b"\n".join(lines))
    before = path.read_bytes()
    with pytest.raises(InputError, match=message):
        Archive(path, "d1")
    assert path.read_bytes() == before


def test_the_best_within_a_budget_is_better_or_as_good_and_faster(path):
    with Archive(path, "d1") as archive:
        assert archive.best_within(79.0) is None
        assert archive.best_within(80.0) == SECOND
        assert archive.best_within(1000.0) == FIRST
        faster = Evaluation((1, 1), 90.0, FIRST.score, "evolution")
        archive.add(faster)
        assert archive.best_within(1000.0) == faster
        assert archive.within(100.0) == [faster, FIRST, SECOND]


evaluations = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), unique=True, min_size=1, max_size=20).flatmap(
    lambda genomes: st.tuples(*(st.tuples(st.just(g), st.integers(1, 12), st.integers(0, 5)) for g in genomes))
)


@given(evaluations)
def test_the_front_is_what_nothing_dominates(tmp_path_factory, rows):
    with Archive(tmp_path_factory.mktemp("archive") / "a.jsonl", "d") as archive:
        for genome, us, score in rows:
            archive.add(Evaluation(genome, us, score, "evolution"))
        points = {(e.predicted_us, e.score) for e in archive}
        undominated = {
            (us, score)
            for us, score in points
            if not any(u <= us and s >= score and (u, s) != (us, score) for u, s in points)
        }
        assert [(e.predicted_us, e.score) for e in archive.front()] == sorted(undominated)


def test_points_spread_over_a_front_have_its_ends_and_the_chosen_one():
    front = [Evaluation((i, 0), us, us, "evolution") for i, us in enumerate([10.0, 11.0, 12.0, 29.0, 41.0, 50.0])]
    beside = Evaluation((9, 9), 32.0, 0.0, "evolution")
    assert [e.predicted_us for e in spread(front, beside, 3)] == [10.0, 32.0, 50.0]
    assert [e.predicted_us for e in spread(front, front[4], 5)] == [10.0, 12.0, 29.0, 41.0, 50.0]
    assert [e.predicted_us for e in spread(front, front[0], 2)] == [10.0, 50.0]
    assert spread(front[:1], front[0], 6) == front[:1]


@given(evaluations)
def test_an_elite_is_the_best_of_its_bin(rows):
    edges = [2.0, 5.0, 6.0, 11.0]
    pool = [Evaluation(genome, us, score, "evolution") for genome, us, score in rows]
    found = elites(pool, edges)
    for low, high in pairwise(edges):
        inside = [e.score for e in pool if low < e.predicted_us <= high]
        assert [e.score for e in found if low < e.predicted_us <= high] == ([max(inside)] if inside else [])


def test_lines_are_synced_to_the_disk(path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Archive(path, "d1") as archive:
        archive.add(Evaluation((3, 3), 150.0, 0.8, "evolution"))
        assert synced == [archive._file.fileno()]
