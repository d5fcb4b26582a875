"""One model, five ways to run it: masked with the unpruned weights, compact in torch, the engine, ONNX Runtime, and
through transformers; all against the float64 reference.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from cases import any_family, random_config, random_mask, random_ragged, random_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from masked import from_mask
from reference import reference_logits
from safetensors.numpy import save_file
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from prunetime.core.arch import ArchSpec
from prunetime.core.task import Task
from prunetime.export.onnx import export_onnx
from prunetime.inference.engine import Engine
from prunetime.models.compact import compact
from prunetime.models.encoder import from_weights
from prunetime.models.hf import config_json
from prunetime.models.modeling import PrunetimeForSequenceClassification

TOLERANCE = 1e-5
"""Logits are of order one, and float32 forward passes of three layers stay well inside this."""

logging.disable_progress_bar()


def torch_logits(model, ragged, mask_variables=None):
    ids, mask, types = (torch.from_numpy(array) for array in ragged.padded(0))
    extra = {} if mask_variables is None else {"mask_variables": mask_variables}
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=mask, token_type_ids=types, **extra).logits.numpy()


def onnx_logits(config, weights, ragged, folder):
    export_onnx(config, weights, folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = ("input_ids", "attention_mask", "token_type_ids")
    known = {each.name for each in session.get_inputs()}
    arrays = zip(names, ragged.padded(0), strict=True)
    inputs = {name: array.astype(np.int64) for name, array in arrays if name in known}
    (logits,) = session.run(None, inputs)
    return logits


def transformers_logits(config, spec, weights, ragged, folder, dtype=torch.float32):
    task = (
        Task("relevance", (), ("text",), 16)
        if config.outputs == 1
        else Task("classification", tuple("abcd"[: config.outputs]), ("text",), 16)
    )
    (folder / "config.json").write_bytes(config_json(config, spec, task))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert isinstance(model, PrunetimeForSequenceClassification)
    return torch_logits(model.to(dtype), ragged)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_way_to_run_a_pruned_model_gives_the_same_logits(seed):
    rng = np.random.default_rng(seed)
    config = random_config(rng, **any_family(rng))
    full = random_weights(config, ArchSpec.full(config.dims), rng)
    mask = random_mask(config, rng)
    ragged = random_ragged(config, rng, rng.integers(1, 24, size=3))
    weights = compact(full, mask, config.dims)
    expected = reference_logits(config, weights, ragged)
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "masked": torch_logits(from_weights(config, full), ragged, from_mask(mask)),
            "compact": torch_logits(from_weights(config, weights), ragged),
            "engine": Engine(config, weights).logits(ragged),
            "ONNX Runtime": onnx_logits(config, weights, ragged, Path(folder)),
            "transformers": transformers_logits(config, mask.spec(), weights, ragged, Path(folder)),
        }
    for way, logits in ways.items():
        np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE, err_msg=way)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.booleans())
def test_every_way_to_run_blocks_and_fewer_tokens_gives_the_same_logits(seed, tokens):
    """In double precision, so that rounding decides no tie between tokens; ONNX drops none."""
    rng = np.random.default_rng(seed)
    config = random_config(rng, separator=5, **any_family(rng))
    tokens = tokens and config.drops_tokens
    full = random_weights(config, ArchSpec.full(config.dims), rng)
    mask = random_mask(config, rng, blocks=True, tokens=tokens)
    ragged = random_ragged(config, rng, rng.integers(1, 24, size=3))
    weights, spec = compact(full, mask, config.dims), mask.spec()
    expected = reference_logits(config, weights, ragged, spec)
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "masked": torch_logits(from_weights(config, full).double(), ragged, from_mask(mask)),
            "compact": torch_logits(from_weights(config, weights, spec=spec).double(), ragged),
            "transformers": transformers_logits(config, spec, weights, ragged, Path(folder), torch.float64),
        }
        if not tokens:
            ways["ONNX Runtime"] = onnx_logits(config, weights, ragged, Path(folder))
    for way, logits in ways.items():
        tolerance = TOLERANCE if logits.dtype == np.float32 else 1e-10
        np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance, err_msg=way)
