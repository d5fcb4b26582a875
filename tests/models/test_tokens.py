"""Which tokens of a padded batch stay."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import most_attended as most_attended_of_one

from prunetime.core.arch import tokens_kept
from prunetime.models.tokens import kinds_of, most_attended


@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    share=st.floats(0.01, 1.0),
    separator=st.sampled_from([None, 2]),
)
def test_what_stays_is_what_stays_of_each_sequence_alone(seed, lengths, share, separator):
    rng = np.random.default_rng(seed)
    longest = max(lengths) + int(rng.integers(3))
    mask = np.arange(longest) < np.array(lengths)[:, None]
    ids = rng.integers(0, 4, mask.shape)
    received = rng.integers(0, 3, mask.shape).astype(np.float64)  # many ties; padding may have received the most
    kinds = kinds_of(torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)), separator)
    kept = most_attended(torch.from_numpy(received), kinds, share)
    assert kept.shape == (len(lengths), tokens_kept(share, longest))
    for row, length in enumerate(lengths):
        count = tokens_kept(share, length)
        expected = most_attended_of_one(received[row, :length], ids[row, :length], count, separator)
        assert kept[row].tolist() == [*expected, *[-1] * (kept.shape[1] - count)]


def test_the_first_token_stays_before_separators_and_these_before_the_rest():
    ids = torch.tensor([[7, 1, 9, 1, 9]])
    received = torch.tensor([[0.0, 5.0, 1.0, 6.0, 2.0]])
    kinds = kinds_of(ids, torch.ones_like(ids), separator=9)
    kept = [most_attended(received, kinds, share / 5).tolist()[0] for share in (1, 2, 3, 4, 5)]
    assert kept == [[0], [0, 4], [0, 2, 4], [0, 2, 3, 4], [0, 1, 2, 3, 4]]
