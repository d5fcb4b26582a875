"""The Python side of the engine."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from cases import random_config, random_ragged, random_spec, random_weights
from reference import reference_logits

from prunetime.core.arch import ArchSpec
from prunetime.errors import EngineError
from prunetime.inference.engine import Engine, ReferenceKernel, engine_build, supported_isas
from prunetime.inference.ragged import Ragged


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=3, heads=4, head_dim=16, ffn=96)
    spec = ArchSpec.full(config.dims).with_layer(1, heads=0).with_layer(2, ffn=32, ffn_rows=32)
    return config, spec, random_weights(config, spec, rng), random_ragged(config, rng, [9, 1, 30])


def test_properties(case):
    config, _, weights, _ = case
    engine = Engine(config, weights, 2)
    assert engine.threads == 2
    assert engine.isa == supported_isas()[-1]
    floats = sum(array.size for array in weights.values())
    assert 4 * floats <= engine.weight_bytes <= 8 * floats


@pytest.mark.parametrize("seed", range(10))
def test_spec_is_derived_from_the_weights(seed):
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    spec = random_spec(config, rng)
    for derived, layer in zip(Engine(config, random_weights(config, spec, rng)).spec.layers, spec.layers, strict=True):
        assert derived.has_attention == layer.has_attention
        assert derived.has_ffn == layer.has_ffn
        if layer.has_attention:
            assert (derived.heads, derived.attention_rows) == (layer.heads, layer.attention_rows)
        if layer.has_ffn:
            assert (derived.ffn, derived.ffn_rows) == (layer.ffn, layer.ffn_rows)


@pytest.mark.parametrize("threads", [1, 2])
def test_timed(case, threads):
    config, _, weights, batch = case
    engine = Engine(config, weights, threads)
    logits, microseconds = engine.timed(batch)
    assert np.array_equal(logits, engine.logits(batch))
    assert microseconds.shape == (2 * config.dims.layers + 2,)
    gone = np.zeros(8, bool)
    gone[3] = True  # attention of layer 1
    assert ((microseconds == 0) == gone).all()


def test_weights_are_copied(case):
    config, _, weights, batch = case
    engine = Engine(config, weights)
    before = engine.logits(batch)
    for array in weights.values():
        array[...] = 0
    assert np.array_equal(engine.logits(batch), before)


def test_concurrent_calls_give_the_answers_of_calls_in_turn(case):
    config, _, weights, _ = case
    rng = np.random.default_rng(1)
    engine = Engine(config, weights, 2)
    batches = [random_ragged(config, rng, rng.integers(1, 60, 5)) for _ in range(40)]
    expected = [engine.logits(batch) for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        for got, want in zip(pool.map(engine.logits, batches), expected, strict=True):
            assert np.array_equal(got, want)


def test_denormals_of_the_calling_thread_are_left_alone(case):
    config, _, weights, batch = case
    tiny = np.float32(1e-40)
    Engine(config, weights).logits(batch)
    assert tiny * np.float32(0.5) != 0


@pytest.mark.parametrize("isa", supported_isas())
def test_the_environment_forces_an_isa(case, isa, monkeypatch):
    config, _, weights, batch = case
    monkeypatch.setenv("PRUNETIME_ISA", isa)
    engine = Engine(config, weights)
    assert engine.isa == isa
    assert ReferenceKernel().isa == isa
    np.testing.assert_allclose(engine.logits(batch), reference_logits(config, weights, batch), atol=1e-5)
    assert Engine(config, weights, isa="portable").isa == "portable"


@pytest.mark.parametrize("name", ["sse9", "AVX2", "portable,avx2"])
def test_an_unknown_isa_in_the_environment_is_refused(case, name, monkeypatch):
    config, _, weights, _ = case
    monkeypatch.setenv("PRUNETIME_ISA", name)
    names = ", ".join(supported_isas())
    with pytest.raises(EngineError, match=f"PRUNETIME_ISA is '{name}'; this CPU runs {names}"):
        Engine(config, weights)


def test_embeddings_of_another_width_are_refused(case):
    config, _, weights, _ = case
    with pytest.raises(EngineError, match=r"embeddings\.word\.weight has shape \[75, 64\]; it must have \[75, 8\]"):
        Engine(replace(config, embedding=8), weights)


@pytest.mark.parametrize("isa", supported_isas())
def test_the_reference_kernel_always_does_the_same(isa):
    kernel = ReferenceKernel(isa)
    first = kernel.run()
    assert np.isfinite(first)
    assert first != 0
    assert [kernel.run() for _ in range(3)] == [first] * 3
    assert ReferenceKernel(isa).run() == first


def test_the_build_names_version_and_compiler():
    version, compiler, digest = engine_build().split()
    assert version[0].isdigit()
    assert compiler.split("-")[0] in ("GNU", "Clang", "AppleClang")
    assert len(digest) == 16


def test_no_torch_is_needed():
    code = "import sys, prunetime.inference.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


def test_a_part_of_a_batch_skips_what_its_sequences_skip(case):
    config, _, weights, ragged = case
    config = replace(config, pooling="mean")
    engine = Engine(config, weights)
    skipping = replace(ragged, skipped=np.int32([3, 0, 12]))
    logits, plain = engine.logits(skipping), engine.logits(ragged)
    assert not np.allclose(logits[[0, 2]], plain[[0, 2]])
    assert np.array_equal(logits[1], plain[1])
    assert np.array_equal(engine.logits(skipping.select([2, 0])), logits[[2, 0]])
    assert np.array_equal(np.concatenate([engine.logits(part) for part in skipping.batches(10)]), logits)
    both = Ragged.joined([ragged, skipping])
    assert np.array_equal(engine.logits(both), np.concatenate([plain, logits]))
