"""What a search has learned of quality: a guess at the score of a genome before it is evaluated."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from prunetime.search.archive import Evaluation
from prunetime.search.space import Genome

Floats = NDArray[np.float64]

_BLAS = ThreadpoolController()
"""One thread: matrices are small, and a guess must not depend on the number of cores."""

LENGTHS = (0.5, 1.0, 2.0, 4.0)
NOISES = (1e-3, 1e-2, 1e-1)
"""Length scales of the kernel, and noise as a share of it; the likeliest pair is taken."""

LINEAR = 0.3
"""Weight of the linear kernel beside Matern's: a trend goes on where no genome was evaluated near."""


@dataclass(frozen=True)
class Critic:
    """Gaussian process regression of scores on genomes (Rasmussen and Williams, "Gaussian Processes for Machine
    Learning", algorithm 2.1), the amplitude of the kernel being the likeliest.

    `inputs` [evaluations, n] are what was evaluated, `weights` [evaluations] what each adds to a guess.
    """

    levels: Genome
    inputs: Floats
    weights: Floats
    length: float
    centre: float

    @classmethod
    def of(cls, levels: Genome, evaluations: Sequence[Evaluation]) -> Critic:
        """A critic that has seen `evaluations`, at least one."""
        inputs = _inputs(levels, [e.genome for e in evaluations])
        scores = np.array([e.score for e in evaluations])
        centred = scores - scores.mean()
        with _BLAS.limit(limits=1, user_api="blas"):
            kernels = [(length, _kernel(inputs, inputs, length)) for length in LENGTHS]
            fits = [(*_fit(kernel, noise, centred), length) for length, kernel in kernels for noise in NOISES]
        _, weights, length = max(fits, key=lambda fit: fit[0])
        return cls(levels, inputs, weights, length, float(scores.mean()))

    def __call__(self, genomes: Sequence[Genome]) -> Floats:
        """The expected score of each genome."""
        with _BLAS.limit(limits=1, user_api="blas"):
            cross = _kernel(_inputs(self.levels, genomes), self.inputs, self.length)
            return np.asarray(self.centre + cross @ self.weights, np.float64)


def _fit(kernel: Floats, noise: float, centred: Floats) -> tuple[float, Floats]:
    """(log likelihood, up to a constant; weights)."""
    factor = np.linalg.cholesky(kernel + noise * np.eye(len(kernel)))
    half = np.linalg.solve(factor, centred)
    amplitude = float(half @ half) / len(half)
    likelihood = -0.5 * len(half) * math.log(max(amplitude, sys.float_info.min)) - float(np.log(np.diag(factor)).sum())
    return likelihood, np.linalg.solve(factor.T, half)


def _inputs(levels: Genome, genomes: Sequence[Genome]) -> Floats:
    """Each gene as its share of the levels, the root of it (the first heads and rows matter most), and whether any."""
    share = np.array(genomes, np.float64).reshape(-1, len(levels)) / np.array(levels)
    return np.concatenate([share, np.sqrt(share), 0.5 * (share > 0.0)], axis=1)


def _kernel(a: Floats, b: Floats, length: float) -> Floats:
    """Matern 5/2 and linear, [len(a), len(b)]."""
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2.0 * a @ b.T
    r: Floats = np.sqrt(5.0 * np.maximum(squared, 0.0)) / length
    matern = (1.0 + r + r * r / 3.0) * np.exp(-r)
    return np.asarray(matern + LINEAR * (a @ b.T), np.float64)
