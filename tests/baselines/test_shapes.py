"""Names of shapes, and the weights that are drawn for them."""

from pathlib import Path

import numpy as np
import pytest
from tiny import bert_folder

from prunetime.baselines import shapes
from prunetime.baselines.case import benchmark_case
from prunetime.baselines.pytorch import prepare
from prunetime.errors import InputError
from prunetime.inference.engine import Engine


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "VOCABULARY", 500)


def test_a_dense_shape() -> None:
    found = benchmark_case("minilm")
    dims = found.config.dims
    assert (dims.layers, dims.hidden, dims.heads, dims.head_dim, dims.ffn) == (6, 384, 12, 32, 1536)
    assert (dims.positions, found.config.outputs, found.config.token_types) == (512, 2, 2)
    assert found.weights["layers.5.ffn_output.weight"].shape == (384, 1536)
    again = shapes.encoder("minilm")[2]
    assert all(np.array_equal(array, again[name]) for name, array in found.weights.items())


def test_logits_of_drawn_weights_are_of_order_one() -> None:
    for name in ("mini", "mini@blocks=0.2", "mini@heads=0.5,ffn=0.5"):
        setting = benchmark_case(name).setting(batch=32, seq_len=32, threads=1)
        deviation = prepare(setting, "fp32")(setting.checked[0])().std(axis=0)
        assert (deviation > 0.3).all(), name
        assert (deviation < 5.0).all(), name


@pytest.mark.parametrize(("name", "block_shape"), [("mini@blocks=0.2", (32, 32)), ("mini@blocks=0.2:32x16", (32, 16))])
def test_blocks_are_drawn_uniformly_in_every_matrix_and_panels_are_unequal(
    name: str, block_shape: tuple[int, int]
) -> None:
    found = benchmark_case(name)
    setting = found.setting(batch=1, seq_len=8, threads=1)
    for index, layer in enumerate(found.spec.layers):
        assert [block.matrix for block in layer.blocks] == list(layer.matrix_shapes(setting.config.dims))
        for block in layer.blocks:
            array = f"layers.{index}.{block.matrix}"
            assert found.weights[f"{array}.blocks"].shape == (block.kept, *block_shape)
            dense = setting.weights[f"{array}.weight"]
            assert np.count_nonzero(dense) / dense.size == pytest.approx(0.2, abs=0.01)
            panels = np.count_nonzero(dense.reshape(-1, block_shape[0], dense.shape[1]), axis=(1, 2))
            assert len(set(panels)) > 1
    batch = setting.checked[0]
    ours = Engine(found.config, found.weights, spec=found.spec).logits(batch)
    np.testing.assert_allclose(ours, prepare(setting, "fp32")(batch)(), atol=1e-4)


def test_half_the_heads_and_half_the_ffn_rows() -> None:
    found = benchmark_case("mini@heads=0.5,ffn=0.5")
    assert {(layer.heads, layer.ffn) for layer in found.spec.layers} == {(2, 512)}
    assert found.weights["layers.0.attention_output.weight"].shape == (256, 128)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mini@blocks=0", "share '0' must be above 0 and at most 1"),
        ("mini@heads=half", "share 'half' must be above 0"),
        ("mini@blocks=0.2:32", "write blocks=0.2 or 0.2:32x16"),
        ("mini@layers=2", "unknown 'layers'; a shape is one of mini, minilm, base"),
        ("mini@", "unknown ''"),
    ],
)
def test_names_that_mean_nothing(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        benchmark_case(name)


def test_a_transformers_folder(tmp_path: Path) -> None:
    found = benchmark_case(str(bert_folder(tmp_path / "bert")))
    assert (found.config.dims.hidden, found.config.outputs) == (64, 2)
    assert Engine(found.config, found.weights, spec=found.spec).spec == found.spec


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no artifact"):
        benchmark_case(str(tmp_path))
