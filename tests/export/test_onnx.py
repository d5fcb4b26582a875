import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from cases import family_fields, random_config, random_ragged, random_spec, random_weights
from onnxruntime.transformers import optimizer
from reference import reference_logits

from prunetime.core.arch import ArchSpec
from prunetime.core.config import FAMILIES, EncoderConfig
from prunetime.errors import InputError
from prunetime.export.onnx import OLDEST_OPSET, export_onnx
from prunetime.models.compact import spec_of

RUNTIMES_NEWEST_OPSET = 23
"""ONNX Runtime 1.22, the oldest that is tested with, knows this one."""


@pytest.fixture
def rng():
    return np.random.default_rng(17)


def run(path, ragged, pad_id=0, token_types=True):
    session = onnxruntime.InferenceSession(path)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]
    assert [item.name for item in session.get_inputs()] == names
    inputs = {name: array.astype(np.int64) for name, array in zip(names, ragged.padded(pad_id), strict=False)}
    return session.run(["logits"], inputs)[0]


@pytest.mark.parametrize("opset", [OLDEST_OPSET, 20, RUNTIMES_NEWEST_OPSET])
@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_the_reference_for_uneven_layers(tmp_path, seed, opset):
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    weights = random_weights(config, random_spec(config, rng, blocks=seed % 2 == 1), rng)
    export_onnx(config, weights, tmp_path / "model.onnx", opset)
    for lengths in ([1], [64], [3, 40, 17]):
        ragged = random_ragged(config, rng, lengths)
        logits = run(tmp_path / "model.onnx", ragged, pad_id=5)
        np.testing.assert_allclose(logits, reference_logits(config, weights, ragged), rtol=0, atol=1e-5)


def test_an_encoder_with_every_layer_gone(tmp_path, rng):
    config = random_config(rng, layers=2)
    weights = random_weights(config, ArchSpec.floor(config.dims), rng)
    export_onnx(config, weights, tmp_path / "model.onnx")
    ragged = random_ragged(config, rng, [9, 2])
    expected = reference_logits(config, weights, ragged)
    np.testing.assert_allclose(run(tmp_path / "model.onnx", ragged), expected, rtol=0, atol=1e-5)


def test_rows_per_token(tmp_path, rng):
    config = random_config(rng, layers=2, rows="tokens")
    weights = random_weights(config, random_spec(config, rng), rng)
    export_onnx(config, weights, tmp_path / "model.onnx")
    ragged = random_ragged(config, rng, [9, 2])
    logits = run(tmp_path / "model.onnx", ragged)[ragged.padded(0)[1] == 1]
    np.testing.assert_allclose(logits, reference_logits(config, weights, ragged), rtol=0, atol=1e-5)


def test_dropped_tokens_are_refused(tmp_path, rng):
    config = random_config(rng, layers=2)
    spec = ArchSpec.full(config.dims).with_layer(1, tokens=0.25)
    with pytest.raises(InputError, match=r"layer 1 keeps 0\.25 of its tokens, and the ONNX graph drops none"):
        export_onnx(config, random_weights(config, spec, rng), tmp_path / "model.onnx", spec=spec)
    assert not list(tmp_path.iterdir())


def test_pruned_layers_are_smaller_in_the_file(tmp_path, rng):
    config = random_config(rng, layers=2, heads=4, head_dim=32, ffn=256)
    spec = ArchSpec.of(config.dims, heads=[1, 0], ffn=[32, 64])
    for name, kept in (("full", ArchSpec.full(config.dims)), ("small", spec)):
        export_onnx(config, random_weights(config, kept, rng), tmp_path / name)
    saved = 4 * (ArchSpec.full(config.dims).weights(config.dims) - spec.weights(config.dims))
    assert (tmp_path / "full").stat().st_size - (tmp_path / "small").stat().st_size > saved


def test_metadata_carry_encoder_and_spec(tmp_path, rng):
    config = random_config(rng)
    weights = random_weights(config, random_spec(config, rng), rng)
    export_onnx(config, weights, tmp_path / "model.onnx")
    metadata = onnxruntime.InferenceSession(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    assert EncoderConfig.from_json(json.loads(metadata["encoder"])) == config
    assert ArchSpec.from_json(json.loads(metadata["spec"])) == spec_of(weights, config.dims)


def test_onnx_runtime_fuses_what_it_has_kernels_for(tmp_path, rng):
    config = random_config(rng, layers=2)
    export_onnx(config, random_weights(config, ArchSpec.full(config.dims), rng), tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(tmp_path / "model.onnx", options)
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert operators.count("SkipLayerNormalization") == 4
    assert operators.count("BiasGelu") == 2


@pytest.mark.parametrize("opset", [OLDEST_OPSET, RUNTIMES_NEWEST_OPSET])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_onnx_runtimes_transformer_optimiser_fuses_layers_with_fewer_heads(tmp_path, rng, family, opset):
    config = random_config(rng, layers=3, heads=3, **family_fields(family))
    whole, *_ = ArchSpec.full(config.dims).layers
    spec = ArchSpec((whole, replace(whole, heads=0), replace(whole, heads=1, ffn=32)))
    weights, ragged = random_weights(config, spec, rng), random_ragged(config, rng, [9, 3, 17])
    export_onnx(config, weights, tmp_path / "model.onnx", opset)
    optimised = optimizer.optimize_model(str(tmp_path / "model.onnx"), "bert", opt_level=0)
    fused = optimised.get_fused_operator_statistics()
    assert (fused["Attention"], fused["BiasGelu"]) == (2, 3)
    assert fused["SkipLayerNormalization"] >= 5
    optimised.save_model_to_file(str(tmp_path / "optimised.onnx"))
    logits = run(tmp_path / "optimised.onnx", ragged, token_types=FAMILIES[family].token_types)
    np.testing.assert_allclose(logits, reference_logits(config, weights, ragged), rtol=0, atol=1e-5)


def test_the_same_weights_give_the_same_bytes(tmp_path, rng):
    config = random_config(rng)
    weights = random_weights(config, random_spec(config, rng), rng)
    for name in ("a", "b"):
        export_onnx(config, weights, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("opset", [OLDEST_OPSET - 1, 1000])
def test_an_opset_out_of_range(tmp_path, rng, opset):
    config = random_config(rng)
    weights = random_weights(config, ArchSpec.full(config.dims), rng)
    with pytest.raises(InputError, match=f"opset is {opset}; it must be from 17 to"):
        export_onnx(config, weights, tmp_path / "model.onnx", opset)
    assert not list(tmp_path.iterdir())


def test_weights_beyond_what_a_file_holds(tmp_path, rng):
    config = random_config(rng)
    weights = random_weights(config, ArchSpec.full(config.dims), rng)
    weights["embeddings.word.weight"] = np.broadcast_to(np.float32(0), (10**9, config.dims.hidden))
    with pytest.raises(InputError, match="bytes; an ONNX file holds at most 2146435072"):
        export_onnx(config, weights, tmp_path / "model.onnx")


def test_a_failed_write_leaves_what_was_there(tmp_path, rng):
    config = random_config(rng)
    weights = random_weights(config, ArchSpec.full(config.dims), rng)
    target = tmp_path / "model.onnx"
    target.mkdir()
    (target / "kept").write_text("here before")
    with pytest.raises(InputError, match=r"cannot write .*model\.onnx"):
        export_onnx(config, weights, target)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (target / "kept").read_text() == "here before"


def test_exporting_needs_no_torch():
    code = "import prunetime.export.onnx, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_checker_accepts_the_file(tmp_path, rng):
    config = random_config(rng)
    export_onnx(config, random_weights(config, random_spec(config, rng), rng), tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
