import dataclasses

import numpy as np
import pytest
from cases import random_config, random_ragged
from hypothesis import given
from hypothesis import strategies as st

from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.models.batches import ROWS_OF_GROUP, WINDOW, LengthBucketedBatches, TrainingData

CLASSES = Task("classification", ("a", "b", "c"), ("text",), 32)


def order(lengths, batch_size, steps, seed=0):
    return list(LengthBucketedBatches(np.asarray(lengths, np.int32), batch_size, steps, seed))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 3))
def test_every_epoch_reads_every_row_once(lengths, batch_size, seed):
    per_epoch = -(-len(lengths) // batch_size)
    batches = order(lengths, batch_size, 3 * per_epoch, seed)
    assert len(batches) == 3 * per_epoch
    assert max(map(len, batches)) <= batch_size
    for epoch in range(3):
        rows = [row for batch in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for row in batch]
        assert sorted(rows) == list(range(len(lengths)))


def test_epochs_and_seeds_differ_and_the_same_seed_does_not():
    lengths = np.random.default_rng(0).integers(1, 30, 400)
    batches = order(lengths, 16, 50)
    assert batches == order(lengths, 16, 50)
    assert batches[:25] != batches[25:]
    assert batches != order(lengths, 16, 50, seed=1)


def test_a_shorter_run_reads_the_same_rows_first():
    lengths = np.random.default_rng(0).integers(1, 30, 400)
    assert order(lengths, 16, 37) == order(lengths, 16, 50)[:37]


def test_there_is_little_padding_and_lengths_are_not_read_in_order():
    lengths = np.random.default_rng(0).integers(5, 60, 32 * WINDOW * 2)
    batches = order(lengths, 32, 2 * WINDOW)
    padded = sum(len(rows) * lengths[rows].max() for rows in batches)
    assert padded < 1.05 * lengths.sum()
    longest = np.array([lengths[rows].max() for rows in batches])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3


GROUPS = st.lists(st.integers(0, 6), min_size=1, max_size=80)


def grouped(groups, lengths, batch_size, steps, **part):
    groups, lengths = np.asarray(groups, np.int64), np.asarray(lengths, np.int32)
    return list(LengthBucketedBatches(lengths, batch_size, steps, 0, groups=groups, **part))


@given(GROUPS, st.integers(1, 9))
def test_with_groups_every_epoch_reads_every_row_once_in_as_many_batches(groups, batch_size):
    per_epoch = -(-len(groups) // batch_size)
    batches = grouped(groups, np.arange(len(groups)) % 7 + 1, batch_size, 2 * per_epoch)
    for epoch in (batches[:per_epoch], batches[per_epoch:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(len(groups)))
        assert sum(len(batch) < batch_size for batch in epoch) <= 1
    shorter = grouped(groups, np.arange(len(groups)) % 7 + 1, batch_size, per_epoch)
    assert shorter == batches[:per_epoch]
    parts = [
        grouped(groups, np.arange(len(groups)) % 7 + 1, batch_size, per_epoch, rank=r, world_size=2) for r in (0, 1)
    ]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(batch) for batch in shorter]


def test_rows_of_a_group_are_in_few_batches_and_a_large_group_is_in_many():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(401), [400] + [5] * 400)[rng.permutation(2_400)]
    lengths = rng.integers(5, 60, 2_400)
    batches = grouped(groups, lengths, 32, 75)
    where = {row: number for number, batch in enumerate(batches) for row in batch}
    spread = [len({where[row] for row in np.flatnonzero(groups == group)}) for group in range(1, 401)]
    assert max(spread) <= 2
    assert np.mean(spread) < 1.2  # a group is cut only at the end of a batch
    of_largest = [count for batch in batches if (count := np.count_nonzero(groups[batch] == 0))]
    assert np.mean(of_largest) <= ROWS_OF_GROUP
    alike = rng.integers(5, 60, 401)[groups] + rng.integers(0, 4, 2_400)
    assert sum(len(rows) * alike[rows].max() for rows in grouped(groups, alike, 32, 75)) < 1.2 * alike.sum()


def data(labels, task=CLASSES, rows=5):
    rng = np.random.default_rng(0)
    return TrainingData(random_ragged(random_config(rng), rng, [3, 5, 2, 7, 4][:rows]), np.asarray(labels), task, 0)


def test_a_batch_holds_the_rows_asked_for():
    whole = data([0, 1, 2, 1, 0])
    batch = whole.batch([3, 0])
    assert batch["labels"].tolist() == [1, 0]
    assert batch["attention_mask"].sum(1).tolist() == [7, 3]
    assert batch["input_ids"][1, :3].tolist() == whole.tokens.ids[:3].tolist()
    assert batch["input_ids"][1, 3:].tolist() == [0] * 4
    assert batch["token_type_ids"].shape == batch["input_ids"].shape == (2, 7)


def test_the_digest_depends_on_tokens_labels_and_task():
    labels = [0, 1, 2, 1, 0]
    digests = {
        data(labels).digest(),
        data([0, 1, 2, 1, 1]).digest(),
        data(labels, Task("classification", ("a", "b", "d"), ("text",), 32)).digest(),
        data(labels).select([1, 0, 2, 3, 4]).digest(),
    }
    assert len(digests) == 4
    assert data(labels).digest() == data(labels).digest()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "one label per row"),
        ([0, 1, 2, 3, 0], "0 to 2"),
        ([0, 1, 2, 0.5, 0], "0 to 2"),
        ([np.nan] * 5, "finite"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        data(labels)


def test_groups_go_with_their_examples():
    whole = dataclasses.replace(data([0, 1, 2, 1, 0]), groups=np.array([7, 8, 7, 9, 8]))
    assert whole.batch([3, 0])["groups"].tolist() == [9, 7]
    assert whole.select([4, 2]).batch([0, 1])["groups"].tolist() == [8, 7]
    others = (np.array([7, 8, 7, 9, 9]), None)
    assert len({whole.digest(), *(dataclasses.replace(whole, groups=groups).digest() for groups in others)}) == 3
    with pytest.raises(InputError, match="one group per example"):
        dataclasses.replace(whole, groups=np.zeros(4, np.int64))
