import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.tasks.data import Columns, examples
from prunetime.tasks.roles import Roles, group_hash_split, parse_slice, split_roles
from prunetime.tasks.table import Table

TASK = Task("classification", ("0", "1"), ("query", "title"), 48)


def made(queries, *, group=None, start=0, name="data.tsv"):
    """One row for each of `queries`, with its own title and labels that alternate."""
    rows = len(queries)
    columns = {
        "query": list(queries),
        "title": [f"title {start + i}" for i in range(rows)],
        "uid": [f"product {(start + i) % 17}" for i in range(rows)],
        "label": [str(i % 2) for i in range(rows)],
    }
    return examples(Table(name, columns), Columns(("query", "title"), "label", group), TASK)


def parts(roles: Roles):
    return {"train": roles.train, "valid": roles.valid, "test": roles.test}


def assert_disjoint(roles: Roles):
    seen = [set(role.groups.tolist()) for role in parts(roles).values()]
    assert len(set.union(*seen)) == sum(map(len, seen))


def repeated(extra):
    """300 queries, and `extra` more rows of them."""
    return [f"query {i}" for i in (*range(300), *extra)]


queries_of = st.lists(st.integers(0, 299), max_size=200).map(repeated)


@given(queries_of, st.integers(0, 100), st.sampled_from([None, "query", "uid"]))
@settings(max_examples=30, deadline=None)
def test_roles_share_no_group_and_lose_no_row(queries, seed, group):
    data = made(queries, group=group)
    try:
        roles = split_roles(data, None, None, seed)
    except InputError:
        assert group == "uid", "17 products can leave a role empty, 300 queries cannot"
        return
    assert_disjoint(roles)
    rows = np.concatenate([role.rows for role in parts(roles).values()])
    assert sorted(rows.tolist()) == list(range(len(queries)))
    for role in parts(roles).values():
        assert role.texts == [data.texts[row] for row in role.rows]
    if group == "query":
        assert not roles.warnings


@given(queries_of, st.randoms(use_true_random=False), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_a_group_has_its_role_whatever_the_order_and_the_other_rows(queries, random, seed):
    def role_of_query(data):
        roles = split_roles(data, None, None, seed)
        return {query: name for name, role in parts(roles).items() for query, _ in role.texts}

    whole = role_of_query(made(queries))
    shuffled = list(queries)
    random.shuffle(shuffled)
    assert role_of_query(made(shuffled)) == whole
    more = role_of_query(made([*(f"other {i}" for i in range(200)), *queries]))
    assert {query: more[query] for query in whole} == whole


def test_only_train_is_split_80_10_10_and_by_seed():
    data = made([f"query {i // 4}" for i in range(8000)])
    roles = split_roles(data, None, None, 0)
    assert [round(len(role) / 8000, 1) for role in parts(roles).values()] == [0.8, 0.1, 0.1]
    assert split_roles(data, None, None, 0).test.texts == roles.test.texts
    assert split_roles(data, None, None, 1).test.texts != roles.test.texts
    assert roles.warnings == ()


def test_without_a_group_column_rows_of_the_same_text_stay_together():
    spellings = ("red sofa {}", "Red  Sofa {}", " red sofa {} ", "RED SOFA {}")
    roles = split_roles(made([spellings[i % 4].format(i // 4) for i in range(2000)]), None, None, 0)
    assert_disjoint(roles)
    assert all(len(role) % 4 == 0 for role in parts(roles).values())
    assert roles.warnings == ()


def test_half_of_valid_becomes_test_and_a_tenth_of_train_becomes_valid():
    train = made([f"train {i // 4}" for i in range(4000)], group="query")
    given_valid = made([f"valid {i // 4}" for i in range(4000)], group="query", start=9000)
    roles = split_roles(train, given_valid, None, 0)
    assert len(roles.train) == 4000
    assert len(roles.valid) + len(roles.test) == 4000
    assert abs(len(roles.valid) - 2000) < 200
    assert_disjoint(roles)
    roles = split_roles(train, None, given_valid, 0)
    assert len(roles.test) == 4000
    assert abs(len(roles.valid) - 400) < 100
    assert_disjoint(roles)


def test_three_given_roles_are_taken_as_they_are():
    three = [made([f"{name} {i}" for i in range(20)], name=name) for name in ("a", "b", "c")]
    roles = split_roles(*three, 0)
    assert list(parts(roles).values()) == three
    assert roles.warnings == ()


def test_groups_shared_by_given_roles_are_warned_of():
    train = made([f"query {i}" for i in range(40)], group="query")
    valid = made([f"valid {i}" for i in range(40)], group="query", start=100)
    test = made([f"query {i}" for i in range(38, 78)], group="query", start=200)
    (warning,) = split_roles(train, valid, test, 0).warnings
    assert "Leakage: 2 of the 40 groups (query) of test are also in train, such as 'query 3" in warning


def test_rows_that_two_roles_hold_are_counted():
    queries = [f"query {i}" for i in range(40)]
    train, valid = made(queries), made([f"valid {i}" for i in range(40)], start=100)
    test = made([q.upper() for q in queries[:10]] + [f"test {i}" for i in range(30)])
    (warning,) = split_roles(train, valid, test, 0).warnings
    assert warning == "10 of the 40 rows of test have the texts of a row of train."


def test_roles_that_are_too_small_are_errors():
    with pytest.raises(InputError, match=r"has \d rows in \d groups; it needs at least 8 rows in 2 groups: give more"):
        split_roles(made([f"query {i}" for i in range(30)]), None, None, 0)
    with pytest.raises(InputError, match=r"train .* has 100 rows in 1 groups"):
        split_roles(made(["one query"] * 100), None, None, 0)
    alternating = made([f"query {i % 2}" for i in range(2000)])
    three = [made([f"{name} {i}" for i in range(20)]) for name in "abc"]
    one_label = three[2].select(three[2].labels == 1)
    with pytest.raises(InputError, match="test has 10 rows of one label only"):
        split_roles(three[0], three[1], one_label, 0)
    with pytest.raises(InputError, match=r"in [01] groups"):
        split_roles(alternating, None, None, 0)


@given(queries_of, st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_hash_split_takes_whole_groups_and_shares_are_nested(queries, seed):
    groups = made(queries).groups
    few, many = group_hash_split(groups, 0.2, seed), group_hash_split(groups, 0.5, seed)
    assert not set(groups[few]) & set(groups[~few])
    assert not (few & ~many).any()
    assert not group_hash_split(groups, 0.0, seed).any()
    assert group_hash_split(groups, 1.0, seed).all()


def test_hash_split_takes_about_its_share():
    groups = made([f"query {i}" for i in range(10_000)]).groups
    assert group_hash_split(groups, 0.2, 0).mean() == pytest.approx(0.2, abs=0.02)


def test_slices():
    train = made([f"query {i}" for i in range(10)])
    test = made([f"query {i}" for i in range(5, 25)], start=5, name="test.tsv")
    unseen = parse_slice("unseen:uid").select(test, train)
    assert set(unseen.column("uid")) == {f"product {i}" for i in range(10, 17)}
    chosen = parse_slice("query=query 7").select(test, train)
    assert chosen.texts == [("query 7", "title 7")]
    with pytest.raises(InputError, match=r"slice query=lamp: none of the 20 rows of test\.tsv is in it"):
        parse_slice("query=lamp").select(test, train)
    with pytest.raises(InputError, match="no column 'brand'; it has query, title, uid, label"):
        parse_slice("unseen:brand").select(test, train)


@pytest.mark.parametrize("text", ["", "unseen:", "seen", "=x"])
def test_bad_slices(text):
    with pytest.raises(InputError, match="write unseen:COLUMN or COLUMN=VALUE"):
        parse_slice(text)
