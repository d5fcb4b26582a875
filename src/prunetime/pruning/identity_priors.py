"""Spectral-normalised identity priors: a penalty on what whole sub-layers add to their input, and those that add least
become the identity (SNIP, Lin et al., arXiv 2010.01791)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from prunetime.models.encoder import Linears
from prunetime.pruning.masks import LearnedMasks, MaskStep

STRENGTH = 1.0
MEMORY = 0.95
"""The decay of the running mean of a sub-layer's function norm."""

SUB_LAYERS = {"attention_output": ("heads", "attention_rows"), "ffn_output": ("ffn", "ffn_rows")}
"""The masks of a sub-layer, by the matrix whose output is added to the residual."""


class IdentityPriors(LearnedMasks):
    """Masks of whole sub-layers, by their function norms, which are penalised.

    A sub-layer's function norm is the mean over tokens of the root mean square of what it adds; attentions are
    compared with attentions and FFNs with FFNs, which add more in every layer.

    Matrices are kept from growing beyond the spectral norm that they start with, which the paper normalises to keep
    function norms comparable.
    """

    norms: Tensor

    def __init__(self, step: MaskStep, linears: Linears) -> None:
        super().__init__(step, linears)
        self.register_buffer("norms", self.fixed.new_zeros(len(linears), len(SUB_LAYERS)))
        self._added: list[Tensor] = []
        self._hooks = [layer[matrix].register_forward_hook(self._look) for layer in linears for matrix in SUB_LAYERS]
        for layer in linears:
            for linear in layer.values():
                parametrize.register_parametrization(linear, "weight", _Bounded(linear.weight.detach()))

    def _look(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self._added.append(output.float().square().mean(-1).sqrt().mean())

    def refresh(self) -> None:
        super().refresh()
        self._added = []

    def sparsity_loss(self) -> Tensor:
        added = torch.stack(self._added)
        with torch.no_grad():
            seen = added.view_as(self.norms)
            self.norms.copy_(torch.where(self.norms > 0, MEMORY * self.norms + (1.0 - MEMORY) * seen, seen))
        return STRENGTH * added.mean()

    def saliencies(self) -> list[Tensor]:
        norms = self.norms / self.norms.mean(0)
        of_masks = [
            {mask: norm for masks, norm in zip(SUB_LAYERS.values(), own, strict=True) for mask in masks}
            for own in norms
        ]
        flat = [layer[name] for layer, names in zip(of_masks, self.names, strict=True) for name in names]
        return [norm.expand(size) for norm, size in zip(flat, self.sizes, strict=True)]

    def detach(self) -> None:
        super().detach()
        for hook in self._hooks:
            hook.remove()


class _Bounded(nn.Module):
    """A parametrization of a weight [out, in] that scales it down to the spectral norm of `first` where it is larger.

    The norm is by power iteration, a step for each reading of the weight in training (Miyato et al., arXiv 1802.05957).
    """

    left: Tensor

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        left, norms, _ = torch.linalg.svd(first.float(), full_matrices=False)
        self.register_buffer("left", left[:, 0].contiguous())
        self._bound = float(norms[0])

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            right = functional.normalize(weight.T @ self.left, dim=0)
            if self.training:
                self.left.copy_(functional.normalize(weight @ right, dim=0))
        norm = self.left @ (weight @ right)
        return weight * (self._bound / norm.clamp(min=self._bound))
