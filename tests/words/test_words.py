"""The words round-trip through JSON and refuse what does not fit."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetime.arch import MATRICES, TILE, ArchSpec, Dims, KeptBlocks, LayerSpec
from prunetime.budget import Budget
from prunetime.config import EncoderConfig
from prunetime.errors import InputError
from prunetime.mask import PARTS, BlockMask, LayerMask, Mask, rank
from prunetime.plan import MatrixPlan, Plan
from prunetime.task import Task

DIMS = Dims(layers=3, hidden=96, heads=4, head_dim=24, ffn=200, vocabulary=50, positions=64)


def rows(limit: int) -> st.SearchStrategy[int]:
    """Whole tiles, or all."""
    return st.integers(0, limit // TILE).map(lambda tiles: tiles * TILE) | st.just(limit)


LAYERS = st.builds(
    LayerSpec,
    heads=st.integers(0, DIMS.heads),
    attention_rows=rows(DIMS.hidden),
    ffn=rows(DIMS.ffn),
    ffn_rows=rows(DIMS.hidden),
    tokens=st.floats(0.01, 1.0),
)
SPECS = st.tuples(*[LAYERS] * DIMS.layers).map(ArchSpec)


def again(data: object) -> object:
    return json.loads(json.dumps(data, allow_nan=False))


@given(SPECS)
def test_a_spec_survives_json_and_fits_its_dims(spec: ArchSpec) -> None:
    spec.check(DIMS)
    assert ArchSpec.from_json(again(spec.to_json())) == spec
    assert hash(ArchSpec.from_json(again(spec.to_json()))) == hash(spec)


@given(SPECS)
def test_weights_and_flops_count_what_is_kept(spec: ArchSpec) -> None:
    expected = sum(
        (4 * layer.heads * 24 * 96 - layer.heads * 24 * (96 - layer.attention_rows)) * layer.has_attention
        + (layer.ffn * 96 + layer.ffn_rows * layer.ffn) * layer.has_ffn
        for layer in spec.layers
    )
    assert spec.weights(DIMS) == expected
    assert spec.flops(DIMS, 1) == 2 * expected + sum(4 * 24 * x.heads for x in spec.layers if x.has_attention)


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
            ({"blocks": (KeptBlocks("query", 32, 32, 10),)}, "there are 9"),
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


@given(SPECS, st.integers(0, 2**32 - 1))
def test_ranking_keeps_the_highest_scores_in_the_counts_of_the_spec(spec: ArchSpec, seed: int) -> None:
    rng = np.random.default_rng(seed)
    widths = dict(zip(PARTS, (DIMS.heads, DIMS.hidden, DIMS.ffn, DIMS.hidden), strict=True))
    scores = [{name: rng.integers(0, 5, width).astype(float) for name, width in widths.items()} for _ in spec.layers]
    mask = rank(scores, spec)
    assert mask.spec() == spec
    for layer, layer_scores in zip(mask.layers, scores, strict=True):
        for name in PARTS:
            kept = getattr(layer, name)
            order = sorted(range(len(kept)), key=lambda i: (-layer_scores[name][i], i))
            assert sorted(order[: kept.sum()]) == np.flatnonzero(kept).tolist()


def test_a_mask_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Mask.full(DIMS).layers[0].heads[0] = False


def test_a_mask_of_another_encoder_is_refused() -> None:
    with pytest.raises(InputError, match="mask of ffn has 200 entries, the encoder 232"):
        Mask.full(DIMS).check(Dims(**{**DIMS.to_json(), "ffn": 232}))


PLANS = st.builds(
    Plan,
    default=st.builds(
        MatrixPlan, st.sampled_from(["fp32", "bf16", "int8"]), st.none() | st.tuples(st.just(32), st.just(16))
    ),
    exceptions=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(MATRICES), st.just(MatrixPlan("int8"))),
        unique_by=lambda e: e[:2],
    ).map(tuple),
    quality_loss=st.none() | st.floats(0, 1),
)


@given(PLANS)
def test_a_plan_survives_json(plan: Plan) -> None:
    assert Plan.from_json(again(plan.to_json())) == plan
    for layer, matrix, how in plan.exceptions:
        assert plan.of(layer, matrix) == how
    assert plan.of(7, "query") == plan.default


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
