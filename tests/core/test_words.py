"""The words round-trip through JSON and refuse what does not fit."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetime.core.arch import (
    BLOCK_SHAPES,
    FFN_MATRICES,
    MATRICES,
    TILE,
    ArchSpec,
    Dims,
    KeptBlocks,
    LayerSpec,
    block_grid,
)
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig, HeadLayer
from prunetime.core.mask import PARTS, BlockMask, LayerMask, Mask, rank
from prunetime.core.precision import PLANNED, MatrixPlan, PrecisionPlan
from prunetime.core.task import Task
from prunetime.errors import InputError

DIMS = Dims(layers=3, hidden=96, heads=4, head_dim=24, ffn=200, vocabulary=50, positions=64)


def rows(limit: int) -> st.SearchStrategy[int]:
    """Whole tiles, or all."""
    return st.integers(0, limit // TILE).map(lambda tiles: tiles * TILE) | st.just(limit)


@st.composite
def layers(draw: st.DrawFn) -> LayerSpec:
    heads, attention_rows, ffn, ffn_rows = draw(
        st.tuples(st.integers(0, DIMS.heads), rows(DIMS.hidden), rows(DIMS.ffn), rows(DIMS.hidden))
    )
    spec = LayerSpec(heads, attention_rows, ffn, ffn_rows)
    return replace(spec, tokens=draw(st.floats(0.01, 1.0))) if spec.has_attention else spec


@st.composite
def layers_with_blocks(draw: st.DrawFn) -> LayerSpec:
    spec = draw(layers())
    blocks = []
    for matrix, shape in spec.matrix_shapes(DIMS).items():
        if draw(st.booleans()):
            block_shape = draw(st.sampled_from(BLOCK_SHAPES))
            blocks.append(
                KeptBlocks(matrix, *block_shape, draw(st.integers(0, math.prod(block_grid(shape, *block_shape)))))
            )
    return replace(spec, blocks=tuple(draw(st.permutations(blocks))))


LAYERS = layers()
SPECS = st.tuples(*[LAYERS] * DIMS.layers).map(ArchSpec)


def again(data: object) -> object:
    return json.loads(json.dumps(data, allow_nan=False))


@given(SPECS | st.tuples(*[layers_with_blocks()] * DIMS.layers).map(ArchSpec))
def test_a_spec_survives_json_and_fits_its_dims(spec: ArchSpec) -> None:
    spec.check(DIMS)
    assert ArchSpec.from_json(again(spec.to_json())) == spec
    assert hash(ArchSpec.from_json(again(spec.to_json()))) == hash(spec)


@given(SPECS, st.integers(1, 60))
def test_weights_and_flops_count_what_is_kept(spec: ArchSpec, came_in: int) -> None:
    weights, flops, length = 0, 0, came_in
    for layer in spec.layers:
        if layer.has_attention:
            attention = 4 * layer.heads * 24 * 96 - layer.heads * 24 * (96 - layer.attention_rows)
            flops += 2 * length * attention + 4 * length**2 * 24 * layer.heads
            weights += attention
        length = max(1, math.ceil(layer.tokens * length))
        if layer.has_ffn:
            ffn = layer.ffn * 96 + layer.ffn_rows * layer.ffn
            flops += 2 * length * ffn
            weights += ffn
    assert spec.weights(DIMS) == weights
    assert spec.flops(DIMS, came_in) == flops


@given(layers_with_blocks())
def test_blocks_count_for_what_they_hold(layer: LayerSpec) -> None:
    spec, dense = ArchSpec((layer,)), ArchSpec((replace(layer, blocks=()),))
    saved = {
        block.matrix: math.prod(layer.matrix_shapes(DIMS)[block.matrix]) - block.kept * block.rows * block.columns
        for block in layer.blocks
    }
    assert dense.weights(DIMS) - spec.weights(DIMS) == sum(saved.values())
    in_ffn = sum(saved.get(name, 0) for name in FFN_MATRICES)
    assert dense.flops(DIMS, 16) - spec.flops(DIMS, 16) == (
        32 * (sum(saved.values()) - in_ffn) + 2 * layer.tokens_kept(16) * in_ffn
    )


def test_the_order_in_which_blocks_are_given_is_no_difference() -> None:
    blocks = (KeptBlocks("value", 32, 32, 1), KeptBlocks("query", 32, 16, 2))
    spec, other = (LayerSpec(4, 96, 200, 96, order) for order in (blocks, blocks[::-1]))
    assert spec == other
    assert hash(spec) == hash(other)
    assert spec.blocks_of("query") == blocks[1]
    assert spec.blocks_of("key") is None


def test_the_full_spec_has_the_weights_of_the_encoder_and_the_floor_none() -> None:
    assert ArchSpec.full(DIMS).weights(DIMS) == 3 * (4 * 96 * 96 + 2 * 96 * 200)
    assert ArchSpec.floor(DIMS).weights(DIMS) == 0


def test_tokens_dropped_make_later_layers_cheaper() -> None:
    full = ArchSpec.full(DIMS)
    fewer = full.with_layer(0, tokens=0.5)
    assert fewer.layers[0].tokens_kept(7) == 4
    assert fewer.layers[0].tokens_kept(1) == 1
    assert full.flops(DIMS, 16) > fewer.flops(DIMS, 16) > full.flops(DIMS, 8)


@given(
    st.sampled_from(
        [
            ({"heads": 5}, "heads is 5"),
            ({"heads": -1}, "heads is -1"),
            ({"ffn": 33}, "multiples of 32"),
            ({"ffn": 232}, "from 0 to 200"),
            ({"attention_rows": 40}, "multiples of 32"),
            ({"heads": True}, "heads is True"),
            ({"tokens": 0.0}, "tokens is 0.0"),
            ({"tokens": math.nan}, "tokens is nan"),
            ({"tokens": 0.5, "heads": 0}, "without attention none can be chosen"),
            ({"tokens": 0.5, "attention_rows": 0}, "without attention none can be chosen"),
            ({"blocks": (KeptBlocks("query", 32, 32, 10),)}, "there are 9"),
            ({"blocks": (KeptBlocks("query", 16, 32, 1),)}, "blocks of 16x32; use 32x32, 32x16, 16x16, 32x1"),
            ({"blocks": (KeptBlocks("key", 32, 32, 1), KeptBlocks("key", 32, 1, 1))}, "key are given twice"),
            ({"blocks": (KeptBlocks("ffn_input", 32, 32, 1),), "ffn": 0}, "ffn_input, which this layer does not have"),
        ]
    )
)
def test_a_spec_outside_its_dims_is_refused(case: tuple[dict[str, object], str]) -> None:
    counts, message = case
    with pytest.raises(InputError, match=message):
        ArchSpec.full(DIMS).with_layer(1, **counts).check(DIMS)


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    layers = []
    for _ in range(DIMS.layers):
        widths = (DIMS.heads, DIMS.hidden, DIMS.ffn, DIMS.hidden)
        parts = [np.array(draw(st.lists(st.booleans(), min_size=w, max_size=w))) for w in widths]
        blocks = {}
        if draw(st.booleans()):
            grid = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
            cells = draw(st.lists(st.booleans(), min_size=grid[0] * grid[1], max_size=grid[0] * grid[1]))
            blocks = {draw(st.sampled_from(MATRICES)): BlockMask(32, 16, np.array(cells).reshape(grid))}
        layers.append(LayerMask(*parts, blocks=blocks, tokens=draw(st.floats(0.01, 1.0))))
    return Mask(tuple(layers))


@given(masks())
def test_a_mask_survives_json_and_counts_its_spec(mask: Mask) -> None:
    restored = Mask.from_json(again(mask.to_json()))
    assert restored == mask
    for layer, counts in zip(mask.layers, mask.spec().layers, strict=True):
        assert [getattr(layer, name).sum() for name in PARTS] == [getattr(counts, name) for name in PARTS]


@given(st.tuples(*[layers_with_blocks()] * DIMS.layers).map(ArchSpec), st.integers(0, 2**32 - 1))
def test_ranking_keeps_the_highest_scores_in_the_counts_of_the_spec(spec: ArchSpec, seed: int) -> None:
    rng = np.random.default_rng(seed)
    widths = dict(zip(PARTS, (DIMS.heads, DIMS.hidden, DIMS.ffn, DIMS.hidden), strict=True))
    scores = []
    for layer in spec.layers:
        grids = {block.matrix: block.grid(layer.matrix_shapes(DIMS)[block.matrix]) for block in layer.blocks}
        scores.append({name: rng.integers(0, 5, shape).astype(float) for name, shape in (widths | grids).items()})
    mask = rank(scores, spec)
    assert mask.spec() == spec
    mask.check(DIMS)
    for layer, layer_scores in zip(mask.layers, scores, strict=True):
        parts = {name: getattr(layer, name) for name in PARTS}
        parts |= {matrix: block.kept.ravel() for matrix, block in layer.blocks.items()}
        for name, kept in parts.items():
            order = sorted(range(len(kept)), key=lambda i: (-layer_scores[name].ravel()[i], i))
            assert sorted(order[: kept.sum()]) == np.flatnonzero(kept).tolist()


def test_ranking_without_scores_of_the_blocks_is_refused() -> None:
    spec = ArchSpec((LayerSpec.full(DIMS),)).with_layer(0, blocks=(KeptBlocks("key", 32, 32, 2),))
    widths = dict(zip(PARTS, (DIMS.heads, DIMS.hidden, DIMS.ffn, DIMS.hidden), strict=True))
    with pytest.raises(InputError, match="no scores of the blocks of key, of which the spec keeps 2"):
        rank([{name: np.zeros(width) for name, width in widths.items()}], spec)


def test_a_mask_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Mask.full(DIMS).layers[0].heads[0] = False
    with pytest.raises(ValueError, match="read-only"):
        BlockMask(32, 32, np.ones((3, 3))).kept[0, 0] = False


def test_a_mask_of_another_encoder_is_refused() -> None:
    with pytest.raises(InputError, match="mask of ffn has 200 entries, the encoder 232"):
        Mask.full(DIMS).check(Dims(**{**DIMS.to_json(), "ffn": 232}))


@st.composite
def plans(draw: st.DrawFn) -> PrecisionPlan:
    how = st.builds(MatrixPlan, st.sampled_from(["fp32", "bf16", "int8"]), st.booleans())
    exceptions: list[tuple[int, str, MatrixPlan]] = []
    for layer in draw(st.sets(st.integers(0, 2))):
        if draw(st.booleans()):
            together = draw(how)
            exceptions += [(layer, name, replace(together, sparse=draw(st.booleans()))) for name in MATRICES[:3]]
        exceptions += [(layer, name, draw(how)) for name in draw(st.sets(st.sampled_from(PLANNED[3:])))]
    return PrecisionPlan(draw(how), tuple(draw(st.permutations(exceptions))), draw(st.none() | st.floats(0, 1)))


@given(plans())
def test_a_plan_survives_json(plan: PrecisionPlan) -> None:
    assert PrecisionPlan.from_json(again(plan.to_json())) == plan
    for layer, matrix, how in plan.exceptions:
        assert plan.of(layer, matrix) == how
    assert plan.of(7, "query") == plan.default


def test_a_plan_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="query int8, key fp32, value fp32 in layer 1: the three must have one"):
        PrecisionPlan(exceptions=((1, "query", MatrixPlan("int8")),))
    with pytest.raises(InputError, match="precision is 'fp8'"):
        PrecisionPlan.uniform("fp8")
    with pytest.raises(InputError, match="sparse is 1"):
        MatrixPlan("int8", 1)
    plan = PrecisionPlan(exceptions=((3, "ffn_input", MatrixPlan("bf16")),))
    with pytest.raises(InputError, match="plan names layer 3; the encoder has 3 layers"):
        plan.check(ArchSpec.full(DIMS))
    plan.check(ArchSpec.full(replace(DIMS, layers=4)))


def test_a_uniform_plan_runs_every_matrix_alike() -> None:
    assert PrecisionPlan.uniform("bf16").of(5, "ffn_output") == MatrixPlan("bf16", sparse=True)


CONFIG = EncoderConfig("bert", DIMS, 96, 2, 1e-12, 2)


def test_a_config_without_the_newer_keys_means_their_defaults() -> None:
    config = replace(CONFIG, separator=7, rows="tokens")
    assert EncoderConfig.from_json(again(config.to_json())) == config
    old = {name: value for name, value in CONFIG.to_json().items() if name not in ("separator", "rows")}
    assert EncoderConfig.from_json(again(old)) == CONFIG


HEAD = (HeadLayer("dense", 16, "gelu"), HeadLayer("norm", 16, eps=1e-6), HeadLayer("dense", 2))


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, head=HEAD),
        replace(CONFIG, rows="embedding", outputs=DIMS.hidden, pooling="weightedmean", normalize=True),
        replace(CONFIG, rows="embedding", outputs=8, pooling="lasttoken", head=(HeadLayer("dense", 8, "tanh"),)),
    ],
)
def test_a_config_with_head_layers_goes_through_json(config: EncoderConfig) -> None:
    assert EncoderConfig.from_json(again(config.to_json())) == config


def test_a_config_without_head_layers_reads_as_it_did_before_there_were_any() -> None:
    assert not {"head", "normalize"} & CONFIG.to_json().keys()


def test_head_layers_and_their_shapes() -> None:
    hidden = DIMS.hidden
    own = [(name, layer.kind, layer.width, layer.activation) for name, layer in CONFIG.head_layers]
    assert own == [("head.dense", "dense", hidden, "tanh"), ("head.output", "dense", 2, "identity")]
    assert replace(CONFIG, rows="embedding", outputs=hidden).head_layers == ()
    assert replace(CONFIG, head=HEAD).head_shapes == {
        "head.layers.0.weight": (16, hidden),
        "head.layers.0.bias": (16,),
        "head.layers.1.weight": (16,),
        "head.layers.1.bias": (16,),
        "head.layers.2.weight": (2, 16),
        "head.layers.2.bias": (2,),
    }


def test_what_a_head_cannot_be() -> None:
    with pytest.raises(InputError, match="the activation 'silu' of a head layer is not supported; use one of identity"):
        HeadLayer("dense", 16, "silu")
    with pytest.raises(InputError, match="kind norm has the activation relu"):
        HeadLayer("norm", 16, "relu")
    with pytest.raises(InputError, match="a head layer is 'dropout'; it must be dense or norm"):
        HeadLayer("dropout", 16)
    with pytest.raises(InputError, match="a head layer is 0 wide"):
        HeadLayer("dense", 0)
    with pytest.raises(InputError, match="eps of a head layer is 1"):
        HeadLayer("norm", 16, eps=1)
    with pytest.raises(InputError, match="head has no layer"):
        replace(CONFIG, head=())
    with pytest.raises(InputError, match="outputs is 2; the head's last layer is 16 wide"):
        replace(CONFIG, head=HEAD[:2])
    with pytest.raises(InputError, match=f"a norm of the head is 2 wide, the row that it reads {DIMS.hidden}"):
        replace(CONFIG, head=(HeadLayer("norm", 2),))
    with pytest.raises(InputError, match="rows is tokens, which are not pooled"):
        replace(CONFIG, rows="tokens", head=HEAD)
    with pytest.raises(InputError, match="only embeddings are normalised"):
        replace(CONFIG, normalize=True)


def test_only_where_the_first_token_is_read_are_tokens_dropped() -> None:
    dropping = ArchSpec.full(DIMS).with_layer(1, tokens=0.5)
    for pooling, read in (("mean", "the rows of all tokens"), ("lasttoken", "the last token's row")):
        with pytest.raises(InputError, match=f"layer 1 drops tokens, but the head reads {read}"):
            replace(CONFIG, pooling=pooling).check(dropping)


def test_what_a_config_cannot_be() -> None:
    with pytest.raises(InputError, match="rows is 'all'; use one of pooled, tokens"):
        replace(CONFIG, rows="all")
    with pytest.raises(InputError, match="separator is 50; it must be a token id from 0 to 49"):
        replace(CONFIG, separator=50)
    dropping = ArchSpec.full(DIMS).with_layer(1, tokens=0.5)
    CONFIG.check(dropping)
    with pytest.raises(InputError, match="layer 1 drops tokens, but the head reads the rows of all tokens"):
        replace(CONFIG, rows="tokens").check(dropping)


@pytest.mark.parametrize(
    ("text", "us", "share"),
    [("1.9ms", 1900, None), ("1900us", 1900, None), (" .002 s ", 2000, None), ("40%", None, 0.4), ("100 %", None, 1.0)],
)
def test_a_budget_is_parsed(text: str, us: float | None, share: float | None) -> None:
    budget = Budget.parse(text)
    assert budget.us == (pytest.approx(us) if us else None)
    assert budget.share == (pytest.approx(share) if share else None)
    assert Budget.from_json(again(budget.to_json())) == budget


@pytest.mark.parametrize("text", ["", "fast", "1.9", "-1ms", "0ms", "0%", "101%", "1e3us", "ms", "nan us", "1.9 m"])
def test_a_text_that_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        Budget.parse(text)


def test_a_share_is_of_the_dense_latency() -> None:
    assert Budget.parse("40%").resolve(5000.0) == pytest.approx(2000.0)
    assert Budget.parse("3ms").resolve(5000.0) == pytest.approx(3000.0)


@pytest.mark.parametrize("change", [{"heads": 0}, {"heads": 2.0}, {"layers": "3"}])
def test_dims_are_whole_numbers(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        Dims.from_json({**DIMS.to_json(), **change})


def test_json_with_an_unknown_or_a_missing_key_is_refused() -> None:
    with pytest.raises(InputError, match="unknown depth"):
        Dims.from_json({**DIMS.to_json(), "depth": 3})
    with pytest.raises(InputError, match="ffn missing"):
        LayerSpec.from_json({"heads": 1, "attention_rows": 32, "ffn_rows": 32})
    with pytest.raises(InputError, match="supported: bert"):
        EncoderConfig("gpt2", DIMS, 96, 2, 1e-12, 2)


@pytest.mark.parametrize(
    ("task", "logits", "scores"),
    [
        (Task("classification", ("no", "yes"), ("q",), 16), [[0.0, 0.0], [0.0, 200.0], [300.0, 0.0]], [0.5, 1.0, 0.0]),
        (Task("relevance", (), ("q", "t"), 16), [[0.0], [-1000.0], [1000.0]], [0.5, 0.0, 1.0]),
        (Task("regression", (), ("q",), 16), [[-3.5], [2.0]], [-3.5, 2.0]),
        (Task("classification", ("a", "b", "c"), ("q",), 16), [[1000.0, 1000.0, 0.0]], [[0.5, 0.5, 0.0]]),
    ],
)
def test_logits_become_scores(task: Task, logits: list[list[float]], scores: list[object]) -> None:
    np.testing.assert_allclose(task.scores(np.array(logits, np.float32)), scores, atol=1e-6)
    assert Task.from_json(again(task.to_json())) == task
    assert task.outputs == len(logits[0])
