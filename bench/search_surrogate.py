"""A model of the recorded table: what score a genome would get, so that methods can be compared in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr
from torch import nn

from prunetime.search.archive import Evaluation
from prunetime.search.space import Genome

MEMBERS, HIDDEN, STEPS = 5, 96, 1500
HELD_OUT = 0.15


@dataclass(frozen=True)
class Surrogate:
    """The mean of a few small networks: another family of functions than the search's own surrogate."""

    levels: Genome
    networks: tuple[nn.Module, ...]
    centre: float
    scale: float

    @classmethod
    def fitted(cls, levels: Genome, table: Sequence[Evaluation], seed: int) -> Surrogate:
        scores = np.array([e.score for e in table])
        inputs = seen(levels, [e.genome for e in table])
        targets = torch.tensor((scores - scores.mean()) / scores.std(), dtype=torch.float32)
        networks = []
        for member in range(MEMBERS):
            torch.manual_seed(1000 * seed + member)
            network = nn.Sequential(
                nn.Linear(inputs.shape[1], HIDDEN),
                nn.SiLU(),
                nn.Linear(HIDDEN, HIDDEN),
                nn.SiLU(),
                nn.Linear(HIDDEN, 1),
            )
            optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.03)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
            for _ in range(STEPS):
                drawn = torch.randint(len(table), (min(256, len(table)),))
                loss = nn.functional.mse_loss(network(inputs[drawn])[:, 0], targets[drawn])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            networks.append(network.eval())
        return cls(levels, tuple(networks), float(scores.mean()), float(scores.std()))

    def __call__(self, genomes: Sequence[Genome]) -> list[float]:
        with torch.no_grad():
            inputs = seen(self.levels, genomes)
            mean = torch.stack([network(inputs)[:, 0] for network in self.networks]).mean(0)
        return (self.centre + self.scale * mean.double().numpy()).tolist()


def error(levels: Genome, table: Sequence[Evaluation]) -> dict[str, float]:
    """Of a surrogate of the rest of the table on a part that it has not seen; `tau_top` on the best tenth of it."""
    order = np.random.default_rng(0).permutation(len(table))
    held, rest = np.split(order, [int(HELD_OUT * len(table))])
    surrogate = Surrogate.fitted(levels, [table[i] for i in rest], seed=0)
    truth = np.array([table[i].score for i in held])
    predicted = np.array(surrogate([table[i].genome for i in held]))
    top = truth >= np.quantile(truth, 0.9)
    return {
        "genomes": len(table),
        "held_out": len(held),
        "spearman": float(spearmanr(predicted, truth).statistic),
        "tau_top": float(kendalltau(predicted[top], truth[top]).statistic),
        "rmse": float(np.sqrt(np.mean((predicted - truth) ** 2))),
    }


def seen(levels: Genome, genomes: Sequence[Genome]) -> torch.Tensor:
    share = np.array(genomes, np.float32).reshape(-1, len(levels)) / np.array(levels, np.float32)
    return torch.from_numpy(np.concatenate([share, np.sqrt(share), share > 0.0], axis=1).astype(np.float32))
