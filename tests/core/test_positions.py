"""Buckets of distances are those of transformers, wherever their edges are."""

import numpy as np
import pytest

from prunetime.core.positions import buckets


@pytest.mark.parametrize("longest", [1, 2, 9, 64, 512, 2048])
def test_buckets_are_those_of_transformers(longest: int) -> None:
    import torch
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    distances = torch.arange(1 - longest, longest)
    expected = MPNetEncoder.relative_position_bucket(distances, num_buckets=32)
    np.testing.assert_array_equal(buckets(longest), expected.numpy())
