"""Baselines run the same model as the engine, and a wrong one is not timed."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from cases import random_config, random_ragged, random_spec, random_weights
from reference import reference_logits
from torch._inductor import config as inductor

from prunetime.baselines import bench, ctranslate2, onnxruntime, openvino, pytorch, pytorch_compiled
from prunetime.baselines.case import BenchmarkCase
from prunetime.baselines.setting import BenchmarkSetting
from prunetime.core.arch import ArchSpec
from prunetime.core.budget import Budget
from prunetime.errors import InputError, PrunetimeError
from prunetime.inference.engine import supported_isas

LENGTHS = (7, 1, 16)

QUICK = {"retry_seconds": 0.0, "idle_us": 1_000.0}


def case(seed: int, pruned: bool = True, **sizes: int) -> BenchmarkCase:
    """A tiny model in memory."""
    rng = np.random.default_rng(seed)
    config = random_config(rng, outputs=2, **sizes)
    spec = random_spec(config, rng) if pruned else ArchSpec.full(config.dims)
    return BenchmarkCase(f"tiny {seed}", config, spec, random_weights(config, spec, rng))


def setting_of(model: BenchmarkCase) -> BenchmarkSetting:
    return model.setting(batch=len(LENGTHS), seq_len=max(LENGTHS), threads=1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("baseline", [pytorch, onnxruntime, openvino])
def test_baselines_give_the_reference_logits_of_ragged_batches(baseline, seed: int) -> None:
    model = case(seed)
    batch = random_ragged(model.config, np.random.default_rng(seed), LENGTHS)
    expected = reference_logits(model.config, model.weights, batch)
    np.testing.assert_allclose(baseline.prepare(setting_of(model), "fp32")(batch)(), expected, atol=2e-5)


def test_ctranslate2_gives_the_reference_logits_and_refuses_what_it_cannot_express() -> None:
    model = case(1, pruned=False)
    batch = random_ragged(model.config, np.random.default_rng(1), LENGTHS)
    expected = reference_logits(model.config, model.weights, batch)
    np.testing.assert_allclose(ctranslate2.prepare(setting_of(model), "fp32")(batch)(), expected, atol=2e-5)
    with pytest.raises(InputError, match="all heads, all rows"):
        ctranslate2.prepare(setting_of(case(0)), "int8")


@pytest.mark.parametrize(
    ("baseline", "precision"),
    [(pytorch, "bf16"), (openvino, "bf16"), (onnxruntime, "int8"), (openvino, "int8"), (ctranslate2, "int8")],
)
def test_low_precision_is_near_the_reference_and_not_float32_in_disguise(baseline, precision: str) -> None:
    if precision not in baseline.precisions():
        assert baseline is openvino  # which has bf16 where the CPU has
        return
    setting = setting_of(case(3, pruned=False))
    for array in setting.weights.values():
        array.flags.writeable = False  # others run the same arrays
    expected = np.concatenate([reference_logits(setting.config, setting.weights, batch) for batch in setting.checked])
    bind = baseline.prepare(setting, precision)
    logits = np.concatenate([bind(batch)().copy() for batch in setting.checked])
    assert 1e-4 < bench.error_of("baseline", precision, logits, expected) < 0.5


@pytest.mark.full
@pytest.mark.filterwarnings("ignore", "error:torch.compile goes on")
@pytest.mark.parametrize("precision", pytorch_compiled.precisions())
def test_compiled_torch_gives_the_reference_logits(precision: str) -> None:
    setting = setting_of(case(0, pruned=False, layers=1))
    expected = np.concatenate([reference_logits(setting.config, setting.weights, batch) for batch in setting.checked])
    bind = pytorch_compiled.prepare(setting, precision)
    logits = np.concatenate([bind(batch)() for batch in setting.checked])
    bench.error_of("baseline", precision, logits, expected)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_compiled_torch_without_a_compiler() -> None:
    with (
        inductor.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}),
        pytest.warns(UserWarning, match="goes on without its C\\+\\+ wrapper"),
        pytest.raises(InputError, match=r"pytorch-compiled cannot be had here: .*InvalidCxx.* apt-get install g\+\+"),
    ):
        pytorch_compiled.prepare(setting_of(case(0, pruned=False, layers=1)), "fp32")


def test_rows_of_every_precision_of_ours_and_of_the_baselines() -> None:
    budget = Budget(share=1.0, seq_len=8, batch=2)
    dense, pruned = case(0, pruned=False), case(0)
    rows = bench.rows([dense, pruned], budget, ["onnxruntime", "pytorch"], **QUICK)
    ours = [("prunetime", "fp32"), ("prunetime", "bf16"), ("prunetime", "int8")]
    theirs = [("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("pytorch", "fp32"), ("pytorch", "bf16")]
    assert [(row["engine"], row["precision"]) for row in rows] == [*ours, *theirs, *ours]
    for row in rows:
        assert (row["batch"], row["seq_len"], row["threads"]) == (2, 8, 1)
        assert 0.0 < row["p50_us"] <= row["p99_us"]
        assert row["idle_p50_us"] > 0.0
        assert row.get("isa") == (supported_isas()[-1] if row["engine"] == "prunetime" else None)
        if row["precision"] == "fp32":
            assert 0.0 <= row["max_logit_error"] < 1e-4
        else:
            assert row["max_logit_error"] > 1e-4
    assert rows[5]["max_logit_error"] == 0.0
    alone = bench.rows([pruned], budget, [], ["bf16"], **QUICK)
    assert [row["precision"] for row in alone] == ["bf16"]


def test_a_model_that_drops_tokens_is_checked_against_torch_that_drops_them() -> None:
    model = case(0, pruned=False)
    dropping = replace(model, spec=model.spec.with_layer(0, tokens=0.5))
    rows = bench.rows([dropping], Budget(share=1.0, seq_len=16), ["pytorch"], ["fp32"], **QUICK)
    assert [row["max_logit_error"] < 1e-4 for row in rows if row["precision"] == "fp32"] == [True, True]
    setting, batch = setting_of(model), setting_of(model).checked[0]
    whole, dropped = (pytorch.prepare(setting, "fp32", each.token_spec)(batch)() for each in (model, dropping))
    assert np.abs(whole - dropped).max() > 1e-3


def with_another_bias(right):
    """`right(setting, ...)`, of a setting with another bias of the head."""

    def wrong(setting: BenchmarkSetting, *more):
        changed = {**setting.weights, "head.output.bias": setting.weights["head.output.bias"] + np.float32(0.02)}
        return right(replace(setting, weights=changed), *more)

    return wrong


WRONG = r"{} fp32 tiny 0: .* differ .* the limit is 0\.001 for fp32"


def test_a_baseline_that_runs_another_model_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "prepare", with_another_bias(onnxruntime.prepare))
    rows = bench.rows([case(0)], Budget(share=1.0, seq_len=8), ["onnxruntime", "pytorch"], ["fp32"], **QUICK)
    refused = next(row for row in rows if row["engine"] == "onnxruntime")
    assert re.match(WRONG.format("onnxruntime"), refused["refused"])
    assert [refused[name] for name in bench.MEASURED] == [None] * len(bench.MEASURED)
    timed = [(row["engine"], row["precision"]) for row in rows if row["p50_us"]]
    assert timed == [("prunetime", "fp32"), ("onnxruntime", "int8"), ("pytorch", "fp32"), ("pytorch", "bf16")]


def test_our_engine_is_not_timed_where_it_runs_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fp32 a bias is too much; bf16 is off by more than that."""
    monkeypatch.setattr(pytorch, "prepare", with_another_bias(pytorch.prepare))
    rows = bench.rows([case(0)], Budget(share=1.0, seq_len=8), [], **QUICK)
    assert re.match(WRONG.format("prunetime"), rows[0]["refused"])
    assert [(row["precision"], row["p50_us"] is None) for row in rows] == [
        ("fp32", True), ("bf16", False), ("int8", False)
    ]  # fmt: skip
    (alone,) = bench.rows([case(0)], Budget(share=1.0, seq_len=8), [], ["fp32"], **QUICK)
    assert "refused" in alone


def test_a_precision_that_does_badly_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.LARGEST_ERROR, "int8", 1e-9)
    rows = bench.rows([case(0)], Budget(share=1.0, seq_len=8), [], **QUICK)
    assert re.search(r"limit is 1e-09 for int8: they are too far off to be of use", rows[2]["refused"])
    assert all(row["p50_us"] > 0 for row in rows[:2])


def test_a_baseline_that_cannot_run_the_model_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """CTranslate2 has no uneven layers, and a library may fail in a way of its own."""

    def fails(*_: object) -> None:
        raise RuntimeError("no such kernel\n  at line 1")

    monkeypatch.setattr(onnxruntime, "prepare", fails)
    rows = bench.rows([case(0)], Budget(share=1.0, seq_len=8), ["ctranslate2", "onnxruntime"], ["fp32"], **QUICK)
    refused = [row["refused"] for row in rows[1:]]
    assert "all heads, all rows" in refused[0]
    assert refused[1:] == [
        f"onnxruntime {p} tiny 0: it cannot run this model: no such kernel" for p in ("fp32", "int8")
    ]
    assert rows[0]["p50_us"] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_logits_of_another_model_a_constant_or_none_are_refused(precision: str) -> None:
    expected, other = (np.random.default_rng(seed).normal(0.3, 1.0, (32, 2)).astype(np.float32) for seed in (0, 1))
    assert bench.error_of("baseline", precision, expected + np.float32(1e-5), expected) == pytest.approx(1e-5, rel=0.1)
    for wrong in (other, np.broadcast_to(expected.mean(axis=0), (32, 2)), np.full((32, 2), np.nan), np.zeros((32, 3))):
        with pytest.raises(PrunetimeError, match="baseline: the logits differ"):
            bench.error_of("baseline", precision, np.asarray(wrong, np.float32), expected)


def test_unknown_baseline() -> None:
    with pytest.raises(
        InputError, match="unknown baseline 'tensorrt'; known are pytorch, pytorch-compiled, onnxruntime"
    ):
        bench.rows([case(0)], Budget(share=1.0, seq_len=8), ["tensorrt"])


@pytest.mark.parametrize(("baseline", "package"), [("onnxruntime", "onnxruntime"), ("openvino", "nncf")])
def test_baseline_that_is_not_installed(baseline: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"prunetime.baselines.{baseline}")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{baseline} needs {package}, which is not installed: .*pytorch, .*onnx"):
        bench.rows([case(0)], Budget(share=1.0, seq_len=8), [baseline])


def test_sequences_that_are_too_long() -> None:
    with pytest.raises(InputError, match="--seq-len 65 is longer than the 64 positions of tiny 0"):
        bench.rows([case(0)], Budget(share=1.0, seq_len=65), [])
