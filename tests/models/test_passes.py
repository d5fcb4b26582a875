"""Fused training passes have the outputs and gradients of the modules in float64, and train alike."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from cases import random_config
from torch import nn
from trainings import SETTINGS, SUB_NETWORKS, dense, half, loss_of, made

from prunetime.core.arch import ArchSpec
from prunetime.models import passes as passes_module
from prunetime.models.encoder import SequenceClassifier
from prunetime.models.fused import FusedLayers, _kept
from prunetime.models.passes import Passes
from prunetime.models.prefix import run_prefix
from prunetime.training.trainer import fit

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""The largest share of a gradient, by norms, that rounding may be."""


def inputs_of(length: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.from_numpy(np.random.default_rng(1).integers(3, 40, (5, length)))
    mask = (torch.arange(length) < torch.tensor([9, 3, 1, 7, 9])[:, None]).long()
    return ids, mask, (torch.arange(length) > 4).long().expand(5, -1)


def sharp(dropout: float) -> SequenceClassifier:
    """A model with attention that is far from even, so that gradients of query and key count."""
    model = dense(dropout=dropout)
    for name, parameter in model.named_parameters():
        parameter.data *= 15.0 if "query" in name or "key" in name else 3.0 if name.endswith("weight") else 1.0
    return model


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.double() for name, parameter in model.named_parameters()}


def far_off(model: nn.Module, exact: nn.Module, share: float) -> list[str]:
    """The parameters whose gradients differ by more than `share`; a key's bias has none but of rounding."""
    pairs = {name: (each, gradients(exact)[name]) for name, each in gradients(model).items()}
    return [name for name, (a, b) in pairs.items() if (a - b).norm() > share * b.norm() and "key.bias" not in name]


def loss_over_all(*outputs) -> torch.Tensor:
    """A loss that reads every logit and every hidden state of a real token, by weights drawn at random."""
    real, drawn = inputs_of()[1].unsqueeze(-1), torch.Generator().manual_seed(0)
    states = [state.double() * real for output in outputs for state in output.hidden_states]
    read = [*states, *(output.logits.double() for output in outputs)]
    return sum((each * torch.randn(each.shape, generator=drawn)).sum() for each in read)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("sub_networks", [(), (([1, 2], [32, 64]), ([0, 1], [32, 0]))])
def test_gradients_of_all_passes_of_a_step_are_those_of_float64(dtype: torch.dtype, sub_networks: tuple) -> None:
    model = dense(dropout=0.0)
    specs = [ArchSpec.of(model.config.dims, *widths) for widths in sub_networks]
    exact = deepcopy(model).double()
    expected = loss_over_all(exact(*inputs_of()), *(run_prefix(exact, spec, inputs_of()) for spec in specs))
    expected.backward()
    passes = Passes(model, dtype)
    for _ in range(2):  # nothing is left of a step in the next one
        model.zero_grad()
        passes.begin()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = passes.whole(inputs_of()), *(passes.prefix(spec, inputs_of()) for spec in specs)
        loss_over_all(*outputs).backward()
    assert far_off(model, exact, CLOSE[dtype]) == []
    assert all(output.hidden_states[-1].dtype == dtype for output in outputs)


def test_of_logits_alone_the_last_layer_computes_the_first_token() -> None:
    model = dense(dropout=0.0)
    exact = deepcopy(model).double()
    exact(*inputs_of()).logits.square().sum().backward()
    passes = Passes(model, torch.float32)
    passes.begin()
    output = passes.whole(inputs_of(), logits_only=True)
    assert [state.shape[1] for state in output.hidden_states] == [9, 9, 1]
    output.logits.square().sum().backward()
    assert far_off(model, exact, 1e-4) == []


def test_dropout_keeps_its_share_and_the_mean() -> None:
    kept = _kept(torch.Size((1001, 999)), 0.1, torch.float32)
    assert (kept == 0).float().mean().item() == pytest.approx(0.1, abs=2e-3)
    assert sorted(kept.unique().tolist()) == pytest.approx([0.0, 1 / 0.9])


@pytest.mark.parametrize("part", ["query", "ffn_input", "embeddings"])
def test_the_backward_pass_has_the_dropout_of_the_forward_pass(part: str) -> None:
    model = sharp(0.3).train()
    passes, direction = Passes(model, torch.float32), {}

    def loss() -> torch.Tensor:
        torch.manual_seed(3)
        passes.begin()
        return passes.whole(inputs_of()).logits.square().sum()

    loss().backward()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        direction[name] = parameter.grad.clone() if part in name else torch.zeros(())
    slope = sum((each * each).sum() for each in direction.values()).item()
    moved = []
    for step in (1e-3 / slope**0.5, -1e-3 / slope**0.5):
        for name, parameter in model.named_parameters():
            parameter.data = before[name] + step * direction[name]
        moved.append(loss().item())
    assert (moved[0] - moved[1]) / (2e-3 / slope**0.5) == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("family", ["modernbert", "mpnet"])
def test_another_kind_of_layer_runs_as_its_module(family: str) -> None:
    model = SequenceClassifier(random_config(np.random.default_rng(0), family=family, layers=2, outputs=2))
    assert not FusedLayers(model.layers, torch.float32).fit(model.spec.layers)


def test_a_hook_is_called() -> None:
    model, seen = dense(), []
    model.layers[1].query.register_forward_hook(lambda *_: seen.append(1))
    passes = Passes(model, torch.float32)
    passes.begin()
    passes.whole(inputs_of())
    assert seen == [1]


@pytest.mark.parametrize("elastic", [False, True])
def test_a_training_comes_to_what_it_comes_to_without(tmp_path, monkeypatch, elastic: bool) -> None:
    data, options = made(), {"sub_networks": SUB_NETWORKS} if elastic else {}

    def trained(name: str) -> float:
        model = dense(dropout=0.0)
        fit(model, data, SETTINGS, tmp_path / name, half().eval(), **options)
        return loss_of(model, data)

    fused = trained("fused")
    monkeypatch.setattr(passes_module.FusedLayers, "fit", lambda *_: False)
    assert fused == pytest.approx(trained("modules"), rel=1e-3)
