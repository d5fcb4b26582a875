import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from cases import any_family, random_config, random_mask, random_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetime.core.arch import ArchSpec, LayerSpec
from prunetime.core.artifact import check_weights
from prunetime.core.blocks import expand
from prunetime.core.mask import Mask
from prunetime.errors import InputError
from prunetime.models.compact import compact, spec_of


def without_counts_of_gone_sublayers(spec, dims):
    return ArchSpec(
        tuple(
            LayerSpec(
                heads=layer.heads if layer.has_attention else 0,
                attention_rows=layer.attention_rows if layer.has_attention else dims.hidden,
                ffn=layer.ffn if layer.has_ffn else 0,
                ffn_rows=layer.ffn_rows if layer.has_ffn else dims.hidden,
                blocks=layer.blocks,
            )
            for layer in spec.layers
        )
    )


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), blocks=st.booleans())
def test_compact_weights_are_those_of_the_masks_spec(seed, blocks):
    rng = np.random.default_rng(seed)
    config = random_config(rng, **any_family(rng))
    full = random_weights(config, ArchSpec.full(config.dims), rng)
    mask = random_mask(config, rng, blocks, tokens=blocks)
    weights = compact(full, mask, config.dims)
    check_weights(weights, config, mask.spec())
    assert spec_of(weights, config.dims) == without_counts_of_gone_sublayers(mask.spec(), config.dims)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_kept_rows_and_columns_are_those_the_mask_names(seed):
    rng = np.random.default_rng(seed)
    config = random_config(rng, layers=1, heads=4, head_dim=16)
    full = random_weights(config, ArchSpec.full(config.dims), rng)
    mask = random_mask(config, rng)
    weights = compact(full, mask, config.dims)
    layer = mask.layers[0]
    inner = [head * 16 + i for head in range(4) if layer.heads[head] for i in range(16)]
    if layer.spec().has_attention:
        rows = [row for row in range(config.dims.hidden) if layer.attention_rows[row]]
        for new_column, column in enumerate(inner):
            np.testing.assert_array_equal(
                weights["layers.0.value.weight"][new_column], full["layers.0.value.weight"][column]
            )
            for new_row, row in enumerate(rows):
                matrix = "layers.0.attention_output.weight"
                assert weights[matrix][new_row, new_column] == full[matrix][row, column]
        assert weights.get("layers.0.attention_rows", np.arange(config.dims.hidden)).tolist() == rows


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_kept_blocks_are_those_of_the_weights_that_heads_and_rows_leave(seed):
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    full = random_weights(config, ArchSpec.full(config.dims), rng)
    mask = random_mask(config, rng, blocks=True)
    without_blocks = Mask(tuple(replace(layer, blocks={}) for layer in mask.layers))
    whole = compact(full, without_blocks, config.dims)
    got = expand(compact(full, mask, config.dims), config, mask.spec())
    assert got.keys() == whole.keys()
    for index, layer in enumerate(mask.layers):
        for matrix, blocks in layer.blocks.items():
            name = f"layers.{index}.{matrix}.weight"
            rows, columns = (np.arange(size)[:, None] for size in whole[name].shape)
            kept = blocks.kept[rows // blocks.rows, (columns // blocks.columns).T]
            np.testing.assert_array_equal(got.pop(name), np.where(kept, whole[name], 0))
    for name, array in got.items():
        np.testing.assert_array_equal(array, whole[name])


def test_a_full_mask_changes_nothing():
    rng = np.random.default_rng(0)
    config = random_config(rng)
    full = random_weights(config, ArchSpec.full(config.dims), rng)
    weights = compact(full, Mask.full(config.dims), config.dims)
    assert weights.keys() == full.keys()
    for name, array in full.items():
        np.testing.assert_array_equal(weights[name], array)


def test_compact_of_compact_is_refused():
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2)
    spec = ArchSpec.full(config.dims).with_layer(1, heads=1)
    with pytest.raises(InputError, match="pruned already"):
        compact(random_weights(config, spec, rng), Mask.full(config.dims), config.dims)


def test_a_mask_of_another_encoder_is_refused():
    rng = np.random.default_rng(0)
    config, other = random_config(rng, heads=2), random_config(rng, heads=4)
    full = random_weights(config, ArchSpec.full(config.dims), rng)
    with pytest.raises(InputError, match="layer 0: mask of heads has 4 entries, the encoder 2"):
        compact(full, Mask.full(other.dims), config.dims)


def test_compacting_needs_no_torch():
    code = "import prunetime.models.compact, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
