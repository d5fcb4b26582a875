"""Learned masks: what all pruners have in common that learn masks together with the weights.

A mask multiplies the weights of its matrix while they are trained; a row that is masked is masked with its bias, so
that it computes exactly what the pruned encoder will.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prunetime.core.arch import TILE, ArchSpec, BlockShape, Dims, KeptBlocks, LayerSpec, block_grid
from prunetime.core.arrays import BoolArray, Float32Array
from prunetime.core.mask import PARTS, BlockMask, LayerMask, Mask, Scores, part_widths
from prunetime.errors import InputError
from prunetime.models.encoder import Linears
from prunetime.models.mask_variables import SIDES, BlockMaskVariables, MaskVariables
from prunetime.pruning.methods import Pruner
from prunetime.pruning.regularise import Cost, regularisation, share_of

T = TypeVar("T")

Kept = list[dict[str, BoolArray]]
"""The parts that masks keep, for every layer: by part [n], or by matrix [row blocks, column blocks]."""

TILES = {"attention_rows": TILE, "ffn": TILE, "ffn_rows": TILE}
"""The number of rows that are kept or pruned together, where it is more than one."""

MOMENTS = 60
"""The number of moments of a training for which keep ratios are recorded."""


@dataclass(frozen=True)
class MaskStep:
    """The settings of one step: masks are learned of heads and rows or, with `block_shape`, of all matrices' blocks.

    They are learned by `pruner` until `cost` is down to `target` (in the same units), from `scores`, which say what is
    kept first, or from zeros; after `learning` of the steps the masks stay as they are, at the target, and the weights
    are tuned. `base` is the structure of the encoder to be trained: for heads and rows an unpruned one.
    `learning_rate` is that of what is learned beside the weights (MLPruning's).
    """

    dims: Dims
    base: ArchSpec
    cost: Cost
    target: float
    block_shape: BlockShape | None = None
    scores: Scores | None = None
    learning: float = 0.4
    learning_rate: float = 1e-2
    pruner: Pruner = "top-k"

    def __post_init__(self) -> None:
        if self.block_shape is None and self.base != ArchSpec.full(self.dims):
            raise InputError("heads and rows are learned of an unpruned encoder; this one is compact")
        if self.block_shape is not None and any(layer.blocks for layer in self.base.layers):
            raise InputError("blocks are learned of dense matrices; this encoder has blocks already")
        if not 0.0 < self.learning <= 1.0 or not self.learning_rate > 0.0:
            raise InputError(f"learning is {self.learning} and its rate {self.learning_rate}: 0..1, and above 0")
        if self.pruner == "group-lasso" and self.block_shape is None:
            raise InputError("group-lasso is of blocks: give their size")
        if self.pruner == "identity-priors" and self.block_shape is not None:
            raise InputError("identity-priors drops whole sub-layers: it has no blocks")

    def last_learning_step(self, of: int) -> int:
        """The step of training, of so many, after which the masks are frozen."""
        return math.ceil(self.learning * of)

    def digest(self) -> str:
        """Returns the sha256 of everything in it."""
        total = hashlib.sha256(f"{self.dims} {self.base} {self.cost} {self.target} {self.block_shape}".encode())
        total.update(f"{self.learning} {self.learning_rate} {self.pruner}".encode())
        for layer in self.scores or ():
            for name, scores in layer.items():
                total.update(name.encode() + np.ascontiguousarray(scores).tobytes())
        return total.hexdigest()

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters of a linear layer that are masked."""
        return ("weight", "bias") if self.block_shape is None else ("weight",)

    def masks_of(self, layer: LayerSpec) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the masks of a layer of `base`."""
        if self.block_shape is None:
            return {part: (width,) for part, width in part_widths(self.dims).items()}
        return {
            matrix: block_grid(shape, *self.block_shape) for matrix, shape in layer.matrix_shapes(self.dims).items()
        }

    def spec(self, counts: Sequence[Mapping[str, int]]) -> ArchSpec:
        """Returns the structure in which every mask keeps so many."""
        if self.block_shape is None:
            widths: list[Any] = [[each[part] for part in PARTS] for each in counts]
            return ArchSpec(tuple(LayerSpec(*layer) for layer in widths))
        block_shape, layers = self.block_shape, zip(self.base.layers, counts, strict=True)
        blocks = ((layer, (KeptBlocks(m, *block_shape, n) for m, n in each.items())) for layer, each in layers)
        return ArchSpec(tuple(replace(layer, blocks=tuple(kept)) for layer, kept in blocks))


@dataclass(frozen=True)
class Learned:
    """The result of a step: what its masks keep, and the keep `ratios` [moments, masks] while they were learned.

    The masks are in the order of `kept`; moments are evenly spread over the training, those that had no step left out.
    """

    kept: Kept
    ratios: Float32Array


class LearnedMasks(nn.Module, ABC):
    """The masks of one step, on the weights of `linears` until `detach`; `refresh` comes before every forward pass.

    A pruner says what is learned: it gives the `masks` while they are learned, the `sparsity_loss` that brings them
    down, and the `saliencies` by which parts are kept once masks are frozen. By default masks are all ones until then.
    """

    settled: Tensor  # as old checkpoints call it
    fixed: Tensor
    history: Tensor

    descent: ClassVar[float] = 1.0
    """About how far a learned number falls until its part is pruned; a step of AdamW moves it by the learning rate."""

    def __init__(self, step: MaskStep, linears: Linears) -> None:
        super().__init__()
        self.step, self.linears = step, linears
        shapes = [step.masks_of(layer) for layer in step.base.layers]
        self.names = [list(layer) for layer in shapes]
        self.tiles = [TILES.get(name, 1) for layer in shapes for name in layer]
        self._shapes = [shape for layer in shapes for shape in layer.values()]
        self.sizes = [math.prod(shape) for shape in self._shapes]
        self.register_buffer("fixed", torch.ones(sum(self.sizes)))
        self.register_buffer("settled", torch.tensor(False))
        self.register_buffer("history", torch.full((MOMENTS, len(self.sizes)), torch.nan))
        self.to(next(linear.weight.device for layer in linears for linear in layer.values()))
        self._target = step.target / step.cost.dense
        self._share = lru_cache(maxsize=4096)(lambda spec: step.cost(spec) / step.cost.dense)
        self._now = self._by_name(self.views(self.fixed))
        for layer, matrices in enumerate(linears):
            for matrix, linear in matrices.items():
                for parameter in step.parameters:
                    parametrize.register_parametrization(linear, parameter, _Masked(self, layer, matrix))

    def masks(self) -> list[Tensor]:
        """Returns the masks as they are while they are learned, in the order of `names`."""
        return self.views(self.fixed)

    @abstractmethod
    def sparsity_loss(self) -> Tensor:
        """The scalar that is added to the loss while masks are learned."""

    @abstractmethod
    def saliencies(self) -> list[Tensor]:
        """The saliencies of all parts, comparable between masks: the parts with the highest are kept."""

    def levels(self) -> tuple[float, float]:
        """Returns the level that keeps everything, and the one that keeps as little as possible."""
        found = torch.cat([each.flatten() for each in self.saliencies()])
        return float(found.min()) - 1.0, float(found.max()) + 1.0

    def counts(self, level: float) -> list[int]:
        """Returns how much of each mask is kept at a level: the parts of a higher saliency, in whole tiles."""
        above = [int((each > level).sum()) for each in self.saliencies()]
        return [in_tiles(*each) for each in zip(above, self.sizes, self.tiles, strict=True)]

    def views(self, flat: Tensor) -> list[Tensor]:
        """`flat` [all parts] in the shapes of the masks."""
        return [part.view(shape) for part, shape in zip(torch.split(flat, self.sizes), self._shapes, strict=True)]

    def refresh(self) -> None:
        """Computes the masks from what is learned, as it now is."""
        self._now = self._by_name(self.views(self.fixed) if self.frozen else self.masks())

    def _by_name(self, masks: Iterable[T]) -> list[dict[str, T]]:
        each = iter(masks)
        return [{name: next(each) for name in layer} for layer in self.names]

    def _spec(self, counts: Iterable[int]) -> ArchSpec:
        return self.step.spec(self._by_name(counts))

    def masked(self, layer: int, matrix: str, parameter: Tensor) -> Tensor:
        """Returns a weight or bias of a matrix times its mask."""
        block_shape = self.step.block_shape
        if block_shape is not None:
            return parameter * BlockMaskVariables(self._now[layer][matrix], *block_shape).spread(
                (len(parameter), len(parameter.T))
            )
        part, _ = SIDES[matrix]
        mask = self._now[layer][part].repeat_interleave(len(parameter) // len(self._now[layer][part]))
        return parameter * (mask if parameter.ndim == 1 else mask[:, None])

    def heads(self) -> list[Tensor | None]:
        """Returns for every layer the mask [heads] of the heads that are kept now; None where all are."""
        return [layer.get("heads") for layer in self._now]

    def mask_variables(self) -> list[MaskVariables] | None:
        """Returns the mask variables that take along the LayerNorm of a sub-layer that is gone; None where none is."""
        if self.step.block_shape is not None or not self.frozen:
            return None
        there = torch.stack([mask.any() for layer in self._now for mask in layer.values()])
        if bool(there.all()):
            return None
        parts: list[Any] = [[layer[part] for part in PARTS] for layer in self._now]
        return [MaskVariables(*layer) for layer in parts]

    @property
    def frozen(self) -> bool:
        """Whether the masks stay as they are, at the target."""
        return bool(self.settled)

    @property
    def share(self) -> float:
        """The share of the dense encoder's cost that is kept now."""
        return self._share(self.spec())

    def spec(self) -> ArchSpec:
        """Returns the structure that the masks leave now."""
        return self._spec(int(mask.detach().count_nonzero()) for layer in self._now for mask in layer.values())

    def penalty(self) -> Tensor:
        """Returns what is added to the loss; zero once the masks are frozen."""
        if self.frozen:  # DDP wants a gradient of every parameter
            return 0.0 * torch.stack([self.fixed.sum(), *(learned.sum() for learned in self.parameters())]).sum()
        return self.sparsity_loss()

    def regularisation(self, ratios: Tensor, counts: list[int], learned: Tensor) -> Tensor:
        """Returns the regularisation of keep `ratios` [masks], which follow from `learned` and keep so many parts.

        Its gradient has at most norm 1: far from the target it would drown all others where `Trainer` clips norms.
        """
        share = self._share(self._spec(counts))
        if share <= self._target:
            return 0.0 * ratios.sum()
        loss = regularisation(share_of(ratios, share, self._slopes(counts)), self._target)
        (gradient,) = torch.autograd.grad(loss, learned, retain_graph=True)
        scaled: Tensor = loss / gradient.norm().clamp(min=1.0)
        return scaled

    def _slopes(self, counts: list[int]) -> list[float]:
        """Returns how fast the share changes with each keep ratio: differences over a tile to either side.

        A mask that keeps one tile is not closed for this: a sub-layer that is gone is no neighbour of one that is not.
        """
        slopes = []
        for index, (parts, tile, count) in enumerate(zip(self.sizes, self.tiles, counts, strict=True)):
            near = [max(min(count, tile), count - tile), min(parts, count + tile)]
            low, high = (self._share(self._spec([*counts[:index], n, *counts[index + 1 :]])) for n in near)
            slopes.append((high - low) * parts / max(1, near[1] - near[0]))
        return slopes

    def parameter_group(self) -> dict[str, Any]:
        """Returns what is learned as a group for an optimizer, with a learning rate of its own and no decay."""
        return {"params": list(self.parameters()), "lr": self.step.learning_rate, "weight_decay": 0.0}

    def end_step(self, done: int, of: int) -> None:
        """Ends step `done` of `of`, as a trainer must after each; the masks freeze after their last learning step."""
        if done >= self.step.last_learning_step(of) and not self.frozen:
            self.freeze()
        now = [mask.detach().mean() for layer in self._now for mask in layer.values()]
        self.history[(done - 1) * MOMENTS // of] = torch.stack(now)

    def freeze(self) -> None:
        """Fixes the masks at the first level that meets the target.

        Raises InputError where the masks cannot come down to it.
        """

        def share(level: float) -> float:
            return self._share(self._spec(self.counts(level)))

        with torch.no_grad():
            low, high = self.levels()
            if (least := share(high)) > self._target:
                raise InputError(
                    f"masks keep at least {least:.1%} of the dense encoder's cost, the target is {self._target:.1%}: "
                    "give a larger budget, or finer blocks"
                )
            for _ in range(40):
                middle = (low + high) / 2
                low, high = (low, middle) if share(middle) <= self._target else (middle, high)
            for mask, saliency, count in zip(self.views(self.fixed), self.saliencies(), self.counts(high), strict=True):
                mask.copy_(highest(saliency, count))
        self.settled.fill_(True)
        self.refresh()

    def detach(self) -> None:
        """Leaves the masked weights as they are, without masks."""
        self.refresh()
        for layer in self.linears:
            for linear in layer.values():
                for parameter in self.step.parameters:
                    parametrize.remove_parametrizations(linear, parameter)

    def learned(self) -> Learned:
        """Returns the result of the step."""
        kept = [{name: mask.detach().cpu().numpy() > 0 for name, mask in layer.items()} for layer in self._now]
        ratios = self.history[~self.history[:, 0].isnan()]
        return Learned(kept, ratios.cpu().numpy())


class _Masked(nn.Module):
    """A parameter as the masks leave it. The masks are no part of it, so that they are in a state dict once."""

    def __init__(self, masks: LearnedMasks, layer: int, matrix: str) -> None:
        super().__init__()
        self._masks, self._layer, self._matrix = (masks,), layer, matrix

    def forward(self, parameter: Tensor) -> Tensor:
        return self._masks[0].masked(self._layer, self._matrix, parameter)


def in_tiles(wanted: float, parts: int, tile: int = 1) -> int:
    """Returns how many of `parts` are kept where so many are wanted: rounded up to whole tiles, at most all."""
    return min(parts, tile * math.ceil(wanted / tile))


def highest(scores: Tensor, kept: int) -> Tensor:
    """Returns ones for the `kept` highest `scores` (ties: the lower index) and zeros elsewhere, in their shape."""
    mask = torch.zeros_like(scores)
    mask.view(-1)[scores.flatten().argsort(descending=True, stable=True)[:kept]] = 1.0
    return mask


def mask_of(step: MaskStep, kept: Kept, base: Mask) -> Mask:
    """Returns what a step kept as a mask of the unpruned encoder; `base` is the mask of the encoder that it trained."""
    if step.block_shape is None:
        parts: list[Any] = [[layer[part] for part in PARTS] for layer in kept]
        return Mask(tuple(LayerMask(*layer) for layer in parts))
    block_shape, layers = step.block_shape, zip(base.layers, kept, strict=True)
    blocks = ((layer, {matrix: BlockMask(*block_shape, k) for matrix, k in own.items()}) for layer, own in layers)
    return Mask(tuple(replace(layer, blocks=own) for layer, own in blocks))
