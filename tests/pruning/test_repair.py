from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import family_fields, random_config, random_ragged, random_weights

from prunetime.core.arch import ArchSpec, KeptBlocks
from prunetime.core.config import FAMILIES
from prunetime.core.mask import Mask, rank
from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.models.batches import TrainingData
from prunetime.models.compact import compact, ordered, prefix_mask
from prunetime.models.encoder import from_weights, weights_of
from prunetime.models.threads import training_on
from prunetime.pruning import repair as module
from prunetime.pruning.prefix_repair import RIDGE, PrefixRepair
from prunetime.pruning.repair import batches_to_read, repair

TASK = Task("classification", ("a", "b", "c"), ("text",), 32)
COUNTS = {"layers": 3, "heads": 4, "head_dim": 16, "ffn": 128, "outputs": 3}


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny products on several threads of a busy machine take seconds."""
    with training_on(1):
        yield


def data_of(config, rows=96, seed=0, longest=20):
    rng = np.random.default_rng(seed)
    return TrainingData(random_ragged(config, rng, rng.integers(2, longest, rows)), rng.integers(0, 3, rows), TASK, 0)


def made(family="bert", **fields):
    rng = np.random.default_rng(0)
    config = random_config(rng, **(family_fields(family) | COUNTS | fields))
    return config, random_weights(config, ArchSpec.full(config.dims), rng)


def scores_of(dims, seed=1):
    """Scores that keep heads and neurons in any order."""
    rng = np.random.default_rng(seed)
    widths = {"heads": dims.heads, "attention_rows": dims.hidden, "ffn": dims.ffn, "ffn_rows": dims.hidden}
    return [{part: rng.random(width) for part, width in widths.items()} for _ in range(dims.layers)]


def half(config, weights):
    """A student with half of heads and FFN neurons, and its spec."""
    dims = config.dims
    mask = rank(scores_of(dims), ArchSpec.of(dims, [dims.heads // 2] * dims.layers, [dims.ffn // 2] * dims.layers))
    return from_weights(config, compact(weights, mask, dims), spec=mask.spec())


def logits(model, data):
    model.eval()
    batch = data.batch(range(len(data)))
    with torch.no_grad():
        return model(*(batch[name] for name in ("input_ids", "attention_mask", "token_type_ids"))).logits.numpy()


def off(student, dense, data):
    expected = logits(dense, data)
    return float(np.abs(logits(student, data) - expected).max() / expected.std())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_a_copy_of_something_else_is_not_missed(family):
    """Every other head and neuron is a copy of the one before: without them there is a solution that loses nothing."""
    config, weights = made(family)
    dims = config.dims
    for name, array in weights.items():
        part = name.split(".")[2] if name.startswith("layers.") else ""
        if part in ("query", "key", "value"):
            each = array.reshape(dims.heads, dims.head_dim, -1)
            each[1::2] = each[::2]
        if part in ("ffn_input", "ffn_gate", "position_bias"):
            array[1::2] = array[::2]
    kept = [np.arange(width) % 2 == 0 for width in (dims.heads, dims.ffn)]
    full = Mask.full(dims)
    mask = Mask(tuple(replace(layer, heads=kept[0], ffn=kept[1]) for layer in full.layers))
    dense = from_weights(config, weights)
    student = from_weights(config, compact(weights, mask, dims))
    fresh = data_of(config, seed=5)
    assert off(student, dense, fresh) > 0.3
    found = repair(student, dense, data_of(config))
    assert off(student, dense, fresh) < 0.02
    assert len(found) == 2 * dims.layers
    assert all(each.error < 1e-3 for each in found)


def test_it_is_the_least_squares_solution_of_what_is_off():
    config, weights = made(layers=1)
    dense, student = from_weights(config, weights), half(config, weights)
    data, before = data_of(config), weights_of(student)
    attention, ffn = repair(student, dense, data)
    read, is_off = [], []
    with torch.no_grad():
        student.eval()
        dense.eval()
        output = student.layers[0].ffn_output
        old = (
            torch.from_numpy(before["layers.0.ffn_output.weight"]),
            torch.from_numpy(before["layers.0.ffn_output.bias"]),
        )
        for batch in batches_to_read(data, 0):
            inputs = [batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")]
            seen = {}
            handles = [
                output.register_forward_pre_hook(lambda _, args, seen=seen: seen.update(x=args[0])),
                student.layers[0].ffn_norm.register_forward_pre_hook(
                    lambda _, args, seen=seen: seen.update(own=args[0])
                ),
                dense.layers[0].ffn_norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.update(all=args[0])),
            ]
            student(*inputs)
            dense(*inputs)
            for handle in handles:
                handle.remove()
            real = batch["attention_mask"] == 1
            without = seen["own"] - output(seen["x"]) + torch.nn.functional.linear(seen["x"], *old)
            read.append(seen["x"][real].double().numpy())
            is_off.append((seen["all"] - without)[real].double().numpy())
    x, r = (np.concatenate(parts) for parts in (read, is_off))
    ridge = np.sqrt(ffn.ridge * np.square(x).sum(0).mean())
    stacked = np.block([[np.ones((len(x), 1)), x], [np.zeros((x.shape[1], 1)), ridge * np.eye(x.shape[1])]])
    solution = np.linalg.lstsq(stacked, np.concatenate((r, np.zeros((x.shape[1], r.shape[1])))), rcond=None)[0]
    after = weights_of(student)
    np.testing.assert_allclose(
        after["layers.0.ffn_output.weight"], before["layers.0.ffn_output.weight"] + solution[1:].T, atol=2e-4
    )
    np.testing.assert_allclose(
        after["layers.0.ffn_output.bias"], before["layers.0.ffn_output.bias"] + solution[0], atol=2e-4
    )
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert changed == {f"layers.0.{part}_output.{kind}" for part in ("attention", "ffn") for kind in ("weight", "bias")}
    assert attention.error < 1.0


def test_rows_that_are_too_few_to_know_better_make_nothing_worse(monkeypatch):
    config, weights = made()
    dense, fresh = from_weights(config, weights), data_of(config, seed=5)
    before = off(half(config, weights), dense, fresh)
    few = data_of(config, rows=6, seed=7, longest=4)
    guarded = half(config, weights)
    found = repair(guarded, dense, few)
    assert off(guarded, dense, fresh) < 1.1 * before
    assert any(each.ridge is None or each.ridge == 1.0 for each in found)
    monkeypatch.setattr(module, "RIDGES", (1e-6,))
    guarded = half(config, weights)
    assert any(each.ridge is None for each in repair(guarded, dense, few))
    assert off(guarded, dense, fresh) < 1.1 * before
    monkeypatch.setattr(module.Moments, "error", lambda *_: 0.0)
    unguarded = half(config, weights)
    repair(unguarded, dense, few)
    assert off(unguarded, dense, fresh) > 1.1 * before


def test_output_rows_that_are_gone_stay_gone():
    config, weights = made()
    dims, scores = config.dims, scores_of(config.dims)
    spec = ArchSpec.of(dims, [2, 0, 4], [32, 128, 0])
    spec = spec.with_layer(0, attention_rows=32, ffn_rows=32)
    mask = rank(scores, spec)
    student, dense = from_weights(config, compact(weights, mask, dims)), from_weights(config, weights)
    fresh = data_of(config, seed=5)
    before = off(student, dense, fresh)
    found = repair(student, dense, data_of(config))
    assert [(each.layer, each.sublayer) for each in found] == [
        (0, "attention"),
        (0, "ffn"),
        (1, "ffn"),
        (2, "attention"),
    ]
    assert student.spec == mask.spec()
    assert off(student, dense, fresh) < before


def test_matrices_in_blocks_stay_and_dropped_tokens_are_refused():
    config, weights = made()
    dims = config.dims
    spec = ArchSpec.of(dims, [4, 4, 4], [128, 128, 128])
    blocks = spec.with_layer(1, blocks=(KeptBlocks("ffn_output", 16, 16, 4),))
    mask = prefix_mask(weights, blocks, dims)
    student, dense = from_weights(config, compact(weights, mask, dims), spec=mask.spec()), from_weights(config, weights)
    before = weights_of(student)
    found = repair(student, dense, data_of(config))
    assert (1, "ffn") not in [(each.layer, each.sublayer) for each in found]
    after = weights_of(student)
    np.testing.assert_array_equal(after["layers.1.ffn_output.blocks"], before["layers.1.ffn_output.blocks"])
    dropping = spec.with_layer(0, tokens=0.5)
    with pytest.raises(InputError, match="drops tokens"):
        repair(from_weights(config, weights, spec=dropping), dense, data_of(config))


def test_the_first_layers_alone_have_nothing_to_make_up_for():
    config, weights = made()
    mask = Mask.first_layers(config.dims, 2)
    student, dense = from_weights(config, compact(weights, mask, config.dims)), from_weights(config, weights)
    assert repair(student, dense, data_of(config)) == []
    last = replace(mask.layers[2], ffn=np.arange(config.dims.ffn) < 32)
    student = from_weights(config, compact(weights, Mask((*mask.layers[:2], last)), config.dims))
    assert [(each.layer, each.sublayer) for each in repair(student, dense, data_of(config))][-1] == (2, "ffn")


def ordered_encoder():
    config, weights = made()
    return config, ordered(weights, scores_of(config.dims), config.dims)


def test_every_prefix_has_its_least_squares_solution():
    config, weights = ordered_encoder()
    dims, data, model = config.dims, data_of(config), from_weights(config, weights)
    found = PrefixRepair.of(model, data)
    read = []
    model.eval()
    handle = model.layers[1].ffn_output.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    with torch.no_grad():
        real = []
        for batch in batches_to_read(data, 0):
            model(*(batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")))
            real.append(read.pop()[batch["attention_mask"] == 1].double().numpy())
    handle.remove()
    x, name = np.concatenate(real), "layers.1.ffn_output"
    weight, bias = (weights[f"{name}.{kind}"].astype(np.float64) for kind in ("weight", "bias"))
    ridge = np.sqrt(RIDGE * np.square(x).sum(0).mean())
    for kept in (32, 96, 128):
        missing = x @ weight.T - x[:, :kept] @ weight[:, :kept].T
        stacked = np.block([[np.ones((len(x), 1)), x[:, :kept]], [np.zeros((kept, 1)), ridge * np.eye(kept)]])
        solution = np.linalg.lstsq(stacked, np.concatenate((missing, np.zeros((kept, dims.hidden)))), rcond=None)[0]
        spec = ArchSpec.of(dims, [4, 4, 4], [128, kept, 128])
        part = compact(weights, prefix_mask(weights, spec, dims), dims)
        repaired = found.applied(part)
        np.testing.assert_allclose(repaired[f"{name}.weight"], weight[:, :kept] + solution[1:].T, atol=2e-4)
        np.testing.assert_allclose(repaired[f"{name}.bias"], bias + solution[0], atol=2e-4)
        np.testing.assert_allclose(
            repaired["layers.0.ffn_output.weight"], part["layers.0.ffn_output.weight"], atol=2e-5
        )


def test_what_is_gone_or_in_blocks_is_left_out_of_the_repair():
    config, weights = ordered_encoder()
    dims = config.dims
    found = PrefixRepair.of(from_weights(config, weights), data_of(config))
    spec = ArchSpec.of(dims, [0, 2, 4], [128, 0, 32]).with_layer(2, blocks=(KeptBlocks("ffn_output", 16, 16, 4),))
    part = compact(weights, prefix_mask(weights, spec, dims), dims)
    repaired = found.applied(part)
    assert repaired.keys() == part.keys()
    changed = {name for name in part if not np.allclose(repaired[name], part[name], atol=1e-3)}
    assert changed == {"layers.1.attention_output.weight", "layers.1.attention_output.bias"}


def test_factors_are_read_as_they_were_written(tmp_path):
    config, weights = ordered_encoder()
    found = PrefixRepair.of(from_weights(config, weights), data_of(config))
    path = tmp_path / "repair.safetensors"
    found.save(path)
    read = PrefixRepair.load(path, config.dims)
    for kind in ("factors", "targets"):
        expected, got = getattr(found, kind), getattr(read, kind)
        assert got.keys() == expected.keys()
        assert all(np.array_equal(got[name], array) for name, array in expected.items())
    with pytest.raises(InputError, match="another encoder"):
        PrefixRepair.load(path, replace(config.dims, ffn=32))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="remove it"):
        PrefixRepair.load(path, config.dims)
