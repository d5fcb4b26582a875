"""The pruners that learn masks, by name: each is a `LearnedMasks`, and all are trained by one loop."""

from __future__ import annotations

from prunetime.models.encoder import Linears
from prunetime.pruning.group_lasso import GroupLasso
from prunetime.pruning.identity_priors import IdentityPriors
from prunetime.pruning.masks import LearnedMasks, MaskStep
from prunetime.pruning.methods import Pruner
from prunetime.pruning.polarisation import Polarisation
from prunetime.pruning.topk import TopK

PRUNERS: dict[Pruner, type[LearnedMasks]] = {
    "top-k": TopK,
    "group-lasso": GroupLasso,
    "polarisation": Polarisation,
    "identity-priors": IdentityPriors,
}


def masks_on(step: MaskStep, linears: Linears) -> LearnedMasks:
    """Puts the masks of `step` on `linears`."""
    return PRUNERS[step.pruner](step, linears)


def learning_rate(steps: int, pruner: Pruner = "top-k", learning: float = MaskStep.learning) -> float:
    """Returns MLPruning's learning rate, or a higher one where `steps` are too few to reach a small target at it."""
    return max(MaskStep.learning_rate, PRUNERS[pruner].descent / (learning * steps / 2))
