"""Under fake quantisation torch computes what the engine does, and gradients pass the rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import family_fields, random_config, random_ragged, random_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import prunetime._engine as _engine
from prunetime.core.arch import ArchSpec, KeptBlocks
from prunetime.core.precision import MatrixPlan, Precision, PrecisionPlan
from prunetime.errors import InputError
from prunetime.inference.engine import Engine
from prunetime.inference.ragged import Ragged
from prunetime.models.encoder import SequenceClassifier, from_weights
from prunetime.models.fake_quant import fake_quantised
from prunetime.models.prefix import run_prefix
from prunetime.models.rounding import quantised_rows, quantised_weight

Floats = NDArray[np.float32]

ISA = "portable"
"""The instruction set that every CPU has; in it, attention is never rounded."""

narrow = pytest.mark.parametrize("precision", ["bf16", "int8"])


def numbers(seed: int, rows: int, columns: int) -> Floats:
    """Rows of different scales and offsets, some of one sign, one of zeros."""
    rng = np.random.default_rng(seed)
    scales, offsets = 10.0 ** rng.integers(-3, 4, (rows, 1)), rng.integers(-3, 4, (rows, 1))
    found = scales * (rng.standard_normal((rows, columns)) + offsets)
    found[0] = 0.0
    return found.astype(np.float32)


@narrow
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_activations_are_rounded_to_the_bits_of_the_engine(precision: Precision, seed: int) -> None:
    x = numbers(seed, 9, 70)
    found = quantised_rows(torch.from_numpy(x).view(3, 3, 70), precision).view(9, 70).numpy()
    np.testing.assert_array_equal(found, _engine.testing.quantise(ISA, x, precision))


@narrow
def test_weights_are_rounded_as_they_are_packed(precision: Precision) -> None:
    weight = numbers(1, 40, 64)
    ones = np.eye(64, dtype=np.float32)  # which both precisions have
    packed = _engine.testing.gemm(ISA, ones, weight, np.zeros(40, np.float32), precision=precision).T
    np.testing.assert_allclose(quantised_weight(torch.from_numpy(weight), precision).numpy(), packed, rtol=1e-6)


def test_gradients_pass_the_rounding() -> None:
    x, weight = (torch.from_numpy(numbers(seed, 5, 32)).requires_grad_() for seed in (2, 3))
    (quantised_rows(x, "int8") @ quantised_weight(weight, "int8").T).sum().backward()
    for given_to, other, quantised in ((x, weight, quantised_weight), (weight, x, quantised_rows)):
        assert given_to.grad is not None
        torch.testing.assert_close(given_to.grad, quantised(other.detach(), "int8").sum(0).expand(5, 32))


def rounded(precision: Precision, ffn_output: Precision, layers: int = 1) -> PrecisionPlan:
    return PrecisionPlan(
        MatrixPlan(precision), tuple((index, "ffn_output", MatrixPlan(ffn_output)) for index in range(layers))
    )


def error(values: Any, expected: Any) -> float:
    return float(np.sqrt(np.square(values - expected).mean()))


def logits_of(model: SequenceClassifier, ragged: Ragged) -> Floats:
    """As the engine gives them: of tokens without those of padding."""
    ids, mask, types = (torch.from_numpy(array).long() for array in ragged.padded(0))
    with torch.no_grad():
        found = model(ids, mask, types).logits
    logits: Floats = (found if found.ndim == 2 else found[mask.bool()]).numpy()
    return logits


CASES: dict[str, dict[str, Any]] = {
    "bert": {},
    "modernbert": family_fields("modernbert"),
    "mpnet": family_fields("mpnet"),
    "words": {"rows": "tokens"},
}


@narrow
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_engine(case: str, precision: Precision) -> None:
    """One layer: in several, the last bits of one decide about roundings in the next.

    The engine's GELU before a narrow matrix is only as close as that rounds; before a float32 matrix it is as torch's.
    """
    rng = np.random.default_rng(5)
    sizes = {"layers": 1, "heads": 4, "head_dim": 32, "ffn": 256}
    config = random_config(rng, **sizes, outputs=3, **CASES[case])
    blocks = (KeptBlocks("ffn_input", 32, 32, 20), KeptBlocks("key", 16, 16, 30)) if case == "bert" else ()
    spec = ArchSpec.full(config.dims).with_layer(0, blocks=blocks)
    weights, ragged = random_weights(config, spec, rng), random_ragged(config, rng, rng.integers(3, 30, 30))
    model = from_weights(config, weights).eval()
    plain = logits_of(model, ragged)
    for ffn_output, times in (("fp32", 10.0), (precision, 3.0)):
        plan = rounded(precision, ffn_output)
        engine = Engine(config, weights, isa=ISA, plan=plan).logits(ragged)
        with fake_quantised(model, plan):
            found = logits_of(model, ragged)
        assert error(found, engine) < error(plain, engine) / times
    np.testing.assert_array_equal(logits_of(model, ragged), plain)


def test_sub_networks_are_rounded_like_the_whole() -> None:
    rng = np.random.default_rng(6)
    config = random_config(rng, layers=2)
    ragged, plan = random_ragged(config, rng, [5, 9]), PrecisionPlan.uniform("int8")
    model = from_weights(config, random_weights(config, ArchSpec.full(config.dims), rng)).eval()
    inputs: Any = tuple(torch.from_numpy(array).long() for array in ragged.padded(0))
    with torch.no_grad(), fake_quantised(model, plan):
        whole, part = model(*inputs).logits, run_prefix(model, ArchSpec.full(config.dims), inputs).logits
    torch.testing.assert_close(part, whole)
    assert not torch.allclose(model(*inputs).logits, whole, atol=1e-4)


def test_a_plan_of_more_layers_is_refused() -> None:
    rng = np.random.default_rng(7)
    config = random_config(rng, layers=1)
    model = from_weights(config, random_weights(config, ArchSpec.full(config.dims), rng))
    with pytest.raises(InputError, match="plan names layer 1"), fake_quantised(model, rounded("int8", "fp32", 2)):
        pass
