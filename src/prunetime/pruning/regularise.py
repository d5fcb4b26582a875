"""The cost of learned masks, differentiable in their keep ratios, and the adaptive regularisation that lowers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from prunetime.core.arch import ArchSpec, Dims
from prunetime.core.budget import Budget
from prunetime.latency.predictor import LatencyProfile

STRENGTH, LEAST = 20_000.0, 50.0
"""As in MLPruning's training runs (github.com/yaozhewei/MLPruning, masked_run_glue.py)."""


class Cost(Protocol):
    """A cost of structures; its `repr` has all that it depends on. `dense` is the cost of the unpruned encoder."""

    @property
    def dense(self) -> float: ...

    def __call__(self, spec: ArchSpec) -> float: ...


@dataclass(frozen=True)
class WeightsKept:
    """The number of weights in the layer matrices of an encoder of `dims`."""

    dims: Dims

    @property
    def dense(self) -> float:
        return self(ArchSpec.full(self.dims))

    def __call__(self, spec: ArchSpec) -> float:
        return float(spec.weights(self.dims))


@dataclass(frozen=True)
class Microseconds:
    """The predicted latency, in microseconds, in the setting of `budget`."""

    profile: LatencyProfile
    budget: Budget

    @property
    def dense(self) -> float:
        return self.profile.floor_and_dense(self.budget)[1]

    def __call__(self, spec: ArchSpec) -> float:
        return self.profile.predict(spec, self.budget)


def share_of(ratios: Tensor, share: float, slopes: Sequence[float]) -> Tensor:
    """Returns `share` as a differentiable function of the keep `ratios` [n], with the gradient `slopes` [n]."""
    return share + ratios.new_tensor(slopes) @ (ratios - ratios.detach())


def regularisation(share: Tensor, target: float) -> Tensor:
    """Returns weight x (share - target)^2 while the share of the cost that is kept is above `target`, else zero.

    The weight adapts to the distance: large far away, small near (MLPruning, arXiv 2105.14636, section 3).
    """
    excess = (share - target).clamp(min=0.0)
    far = excess.item() / (1.0 - target)
    return max(STRENGTH * far**2, LEAST) * excess.square()
