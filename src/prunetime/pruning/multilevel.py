"""Learned multilevel masks: heads and rows first, then blocks of what these leave (MLPruning, arXiv 2105.14636).

A mask multiplies the weights of its matrix while they are trained; a row that is masked is masked with its bias, so
that it computes exactly what the pruned encoder will.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prunetime.arch import TILE, ArchSpec, Dims, Grain, KeptBlocks, LayerSpec, block_grid
from prunetime.errors import InputError
from prunetime.mask import PARTS, BlockMask, LayerMask, Mask, Scores, part_widths
from prunetime.models.encoder import Linears
from prunetime.models.gates import SIDES, BlockGates
from prunetime.pruning.regularise import Cost, regularisation, share_of
from prunetime.pruning.topk import TopKMask

Kept = list[dict[str, NDArray[np.bool_]]]
"""What masks keep, for every layer: by part [n], or by matrix [row blocks, column blocks]."""

TILES = {"attention_rows": TILE, "ffn": TILE, "ffn_rows": TILE}
"""How many of a part are kept or left out together, where it is more than one."""

DESCENT = 6.0
"""How far a threshold falls from where it starts to a keep ratio of a tenth, about; a step of AdamW is its rate."""

SHIFT = 40.0
"""More than thresholds are ever apart."""


@dataclass(frozen=True)
class Multilevel:
    """One of the two steps: masks of heads and rows or, with `grain`, of the blocks of that size in all matrices.

    They are learned until `cost` is down to `target` (in the same units), from `scores`, which say what is kept first,
    or from zeros; after `learning` of the steps the masks stay as they are, at the target, and the weights are
    tuned. `base` is the structure of the encoder to be trained: for heads and rows an unpruned one. `learning_rate` is
    that of scores and thresholds (MLPruning's).
    """

    dims: Dims
    base: ArchSpec
    cost: Cost
    target: float
    grain: Grain | None = None
    scores: Scores | None = None
    learning: float = 0.4
    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        if self.grain is None and self.base != ArchSpec.full(self.dims):
            raise InputError("heads and rows are learned of an unpruned encoder; this one is compact")
        if self.grain is not None and any(layer.blocks for layer in self.base.layers):
            raise InputError("blocks are learned of dense matrices; this encoder has blocks already")
        if not 0.0 < self.learning <= 1.0 or not self.learning_rate > 0.0:
            raise InputError(f"learning is {self.learning} and its rate {self.learning_rate}: 0..1, and above 0")

    def digest(self) -> str:
        """Of everything in it."""
        total = hashlib.sha256(f"{self.dims} {self.base} {self.cost} {self.target} {self.grain}".encode())
        total.update(f"{self.learning} {self.learning_rate}".encode())
        for layer in self.scores or ():
            for name, scores in layer.items():
                total.update(name.encode() + np.ascontiguousarray(scores).tobytes())
        return total.hexdigest()

    @property
    def parameters(self) -> tuple[str, ...]:
        """What is masked of a matrix."""
        return ("weight", "bias") if self.grain is None else ("weight",)

    def masks_of(self, layer: LayerSpec) -> dict[str, tuple[int, ...]]:
        """The shapes of the masks of a layer of `base`."""
        if self.grain is None:
            return {part: (width,) for part, width in part_widths(self.dims).items()}
        return {matrix: block_grid(shape, *self.grain) for matrix, shape in layer.matrix_shapes(self.dims).items()}

    def spec(self, counts: Sequence[Mapping[str, int]]) -> ArchSpec:
        """The structure in which every mask keeps so many."""
        if self.grain is None:
            widths: list[Any] = [[each[part] for part in PARTS] for each in counts]
            return ArchSpec(tuple(LayerSpec(*layer) for layer in widths))
        grain, layers = self.grain, zip(self.base.layers, counts, strict=True)
        blocks = ((layer, (KeptBlocks(m, *grain, n) for m, n in each.items())) for layer, each in layers)
        return ArchSpec(tuple(replace(layer, blocks=tuple(kept)) for layer, kept in blocks))


class LearnedMasks(nn.Module):
    """The masks of one step, on the weights of `linears` until `detach`; `refresh` comes before every forward pass."""

    settled: Tensor

    def __init__(self, step: Multilevel, linears: Linears) -> None:
        super().__init__()
        self.step, self._linears = step, linears
        self._named = [
            {name: TopKMask(shape, TILES.get(name, 1), first.get(name)) for name, shape in step.masks_of(layer).items()}
            for layer, first in zip(step.base.layers, step.scores or [{}] * len(linears), strict=True)
        ]
        self._masks = [mask for layer in self._named for mask in layer.values()]
        self.layers = nn.ModuleList(nn.ModuleDict(layer) for layer in self._named)
        self.register_buffer("settled", torch.tensor(False))
        self.to(next(linear.weight.device for layer in linears for linear in layer.values()))
        self._target = step.target / step.cost.dense
        self._share = lru_cache(maxsize=4096)(lambda spec: step.cost(spec) / step.cost.dense)
        self._now: list[dict[str, Tensor]] = []
        self._counts_now: list[int] = []
        self.refresh()
        for layer, matrices in enumerate(linears):
            for matrix, linear in matrices.items():
                for parameter in step.parameters:
                    parametrize.register_parametrization(linear, parameter, _Masked(self, layer, matrix))

    def refresh(self) -> None:
        """Computes the masks from scores and thresholds, as they now are."""
        if bool(self.settled):
            masks = iter([mask.fixed for mask in self._masks])
        else:
            self._counts_now = self._counts()
            masks = iter([mask(count) for mask, count in zip(self._masks, self._counts_now, strict=True)])
        self._now = [{name: next(masks) for name in layer} for layer in self._named]

    def _counts(self, shift: float = 0.0) -> list[int]:
        """What each mask keeps, all thresholds raised by `shift`."""
        ratios = (self._thresholds() + shift).sigmoid().tolist()  # at once: each of these waits for the device
        return [mask.kept(ratio) for mask, ratio in zip(self._masks, ratios, strict=True)]

    def _thresholds(self) -> Tensor:
        return torch.stack([mask.threshold for mask in self._masks])

    def _spec(self, counts: Iterable[int]) -> ArchSpec:
        each = iter(counts)
        return self.step.spec([{name: next(each) for name in layer} for layer in self._named])

    def masked(self, layer: int, matrix: str, parameter: Tensor) -> Tensor:
        """A weight or bias of a matrix times its mask."""
        grain = self.step.grain
        if grain is not None:
            return parameter * BlockGates(self._now[layer][matrix], *grain).spread((len(parameter), len(parameter.T)))
        part, _ = SIDES[matrix]
        mask = self._now[layer][part].repeat_interleave(len(parameter) // len(self._now[layer][part]))
        return parameter * (mask if parameter.ndim == 1 else mask[:, None])

    def heads(self) -> list[Tensor | None]:
        """For every layer the heads [heads] that are kept now; None where all are."""
        return [layer.get("heads") for layer in self._now]

    @property
    def share(self) -> float:
        """Of the dense encoder's cost, what is kept now."""
        return self._share(self.spec())

    def spec(self) -> ArchSpec:
        """The structure as it is now."""
        return self._spec(int(mask.detach().sum()) for layer in self._now for mask in layer.values())

    def penalty(self) -> Tensor:
        """The regularisation of the masks of the last `refresh`; zero once they have settled.

        It is scaled down to a gradient of norm 1 at most: far from the target it would drown all others where norms are
        clipped, as `transformers.Trainer` does.
        """
        thresholds = self._thresholds()
        if bool(self.settled):  # DDP wants a gradient of every parameter
            return 0.0 * torch.stack([thresholds.sum(), *(mask.scores.sum() for mask in self._masks)]).sum()
        counts = self._counts_now
        share = self._share(self._spec(counts))
        if share <= self._target:
            return 0.0 * thresholds.sum()
        loss = regularisation(share_of(thresholds.sigmoid(), share, self._slopes(counts)), self._target)
        (gradient,) = torch.autograd.grad(loss, thresholds, retain_graph=True)
        scaled: Tensor = loss / gradient.norm().clamp(min=1.0)
        return scaled

    def _slopes(self, counts: list[int]) -> list[float]:
        """By how much the share changes with each keep ratio: differences over a tile to either side.

        A mask that keeps one tile is not closed for this: a sub-layer that is gone is no neighbour of one that is not.
        """
        slopes = []
        for index, (mask, count) in enumerate(zip(self._masks, counts, strict=True)):
            parts = mask.scores.numel()
            near = [max(min(count, mask.tile), count - mask.tile), min(parts, count + mask.tile)]
            low, high = (self._share(self._spec([*counts[:index], n, *counts[index + 1 :]])) for n in near)
            slopes.append((high - low) * parts / max(1, near[1] - near[0]))
        return slopes

    def parameter_group(self) -> dict[str, Any]:
        """For an optimizer: scores and thresholds have a learning rate of their own, and do not decay."""
        return {"params": list(self.parameters()), "lr": self.step.learning_rate, "weight_decay": 0.0}

    def end_step(self, done: int, of: int) -> None:
        """To be called after each step of training; settles after as many as the masks are learned in."""
        if done == math.ceil(self.step.learning * of):
            self.settle()

    def settle(self) -> None:
        """Fixes the masks at the target: all thresholds are raised or lowered alike until it is just met.

        Raises InputError where the masks cannot come down to it.
        """

        def share(shift: float) -> float:
            return self._share(self._spec(self._counts(shift)))

        low, high = -SHIFT, SHIFT
        if (least := share(low)) > self._target:
            raise InputError(
                f"masks keep at least {least:.1%} of the dense encoder's cost, the target is {self._target:.1%}: give "
                "a larger budget, or finer blocks"
            )
        for _ in range(40):
            middle = (low + high) / 2
            inside = share(middle) <= self._target
            low, high = (middle, high) if inside else (low, middle)
        with torch.no_grad():
            for mask, count in zip(self._masks, self._counts(low), strict=True):
                mask.fixed.copy_(mask(count))
        self.settled.fill_(True)
        self.refresh()

    def detach(self) -> None:
        """Leaves the masked weights as they are, without masks."""
        self.refresh()
        for layer in self._linears:
            for linear in layer.values():
                for parameter in self.step.parameters:
                    parametrize.remove_parametrizations(linear, parameter)

    def kept(self) -> Kept:
        """What the masks keep now."""
        return [{name: mask.detach().cpu().numpy() > 0 for name, mask in layer.items()} for layer in self._now]


class _Masked(nn.Module):
    """A parameter as the masks leave it. The masks are no part of it, so that they are in a state dict once."""

    def __init__(self, masks: LearnedMasks, layer: int, matrix: str) -> None:
        super().__init__()
        self._masks, self._layer, self._matrix = (masks,), layer, matrix

    def forward(self, parameter: Tensor) -> Tensor:
        return self._masks[0].masked(self._layer, self._matrix, parameter)


def learning_rate(steps: int, learning: float = Multilevel.learning) -> float:
    """MLPruning's rate or, where there are too few of `steps` to come down to a small target at it, a higher one."""
    return max(Multilevel.learning_rate, DESCENT / (learning * steps / 2))


def mask_of(step: Multilevel, kept: Kept, base: Mask) -> Mask:
    """What a step kept, as a mask of the unpruned encoder; `base` is what the encoder that it trained was."""
    if step.grain is None:
        parts: list[Any] = [[layer[part] for part in PARTS] for layer in kept]
        return Mask(tuple(LayerMask(*layer) for layer in parts))
    grain, layers = step.grain, zip(base.layers, kept, strict=True)
    blocks = ((layer, {matrix: BlockMask(*grain, k) for matrix, k in own.items()}) for layer, own in layers)
    return Mask(tuple(replace(layer, blocks=own) for layer, own in blocks))
