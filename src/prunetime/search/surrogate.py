"""A surrogate model of scores: it predicts the score of a genome before that is evaluated."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from threadpoolctl import ThreadpoolController

from prunetime.core.arrays import Float64Array
from prunetime.search.archive import Evaluation
from prunetime.search.space import Genome

_BLAS = ThreadpoolController()
"""One thread: matrices are small, and a prediction must not depend on the number of cores."""

LENGTHS = (0.5, 1.0, 2.0, 4.0)
NOISES = (1e-3, 1e-2, 1e-1)
"""Length scales of the kernel, and noise as a share of it; the likeliest pair is taken."""

TOP = 0.1
"""Above the best score, predictions go on as steeply as this share of the scores, the best ones, rises."""

LINEAR = 0.3
"""Weight of the linear kernel beside Matern's: a trend goes on where no genome was evaluated near."""


@dataclass(frozen=True)
class Surrogate:
    """Gaussian process regression of scores on genomes (Rasmussen and Williams, "Gaussian Processes for Machine
    Learning", algorithm 2.1), the amplitude of the kernel being the likeliest.

    What is learned is not a score but the normal quantile of its rank: very poor genomes are far below the others, and
    what matters is the order of the good ones. `inputs` [evaluations, n] are what was evaluated, `weights`
    [evaluations] what each adds to a quantile; `quantiles`, rising, are those of the distinct `scores`.
    """

    levels: Genome
    inputs: Float64Array
    weights: Float64Array
    length: float
    quantiles: Float64Array
    scores: Float64Array

    @classmethod
    def fit(cls, levels: Genome, evaluations: Sequence[Evaluation]) -> Surrogate:
        """Fits a surrogate to `evaluations`, at least one."""
        inputs = _inputs(levels, [e.genome for e in evaluations])
        scores, of_score, counts = np.unique([e.score for e in evaluations], return_inverse=True, return_counts=True)
        shares_below = (np.cumsum(counts) - 0.5 * counts) / counts.sum()
        quantiles = np.array([NormalDist().inv_cdf(share) for share in shares_below])
        wanted = quantiles[of_score]
        with _BLAS.limit(limits=1, user_api="blas"):
            kernels = [(length, _kernel(inputs, inputs, length)) for length in LENGTHS]
            fits = [(*_fit(kernel, noise, wanted), length) for length, kernel in kernels for noise in NOISES]
        _, weights, length = max(fits, key=lambda fit: fit[0])
        return cls(levels, inputs, weights, length, quantiles, scores)

    def predict(self, genomes: Sequence[Genome]) -> Float64Array:
        """The predicted mean of the score of each genome."""
        with _BLAS.limit(limits=1, user_api="blas"):
            cross = _kernel(_inputs(self.levels, genomes), self.inputs, self.length)
            return self._score(cross @ self.weights)

    def _score(self, quantiles: Float64Array) -> Float64Array:
        """The scores that have these quantiles."""
        best = -max(2, round(TOP * len(self.scores)))
        rise = np.polyfit(self.quantiles[best:], self.scores[best:], 1)[0] if len(self.scores) > 1 else 0.0
        above = np.maximum(quantiles - self.quantiles[-1], 0.0)
        return np.asarray(np.interp(quantiles, self.quantiles, self.scores) + rise * above, np.float64)


def _fit(kernel: Float64Array, noise: float, wanted: Float64Array) -> tuple[float, Float64Array]:
    """(log likelihood, up to a constant; weights)."""
    factor = np.linalg.cholesky(kernel + noise * np.eye(len(kernel)))
    half = np.linalg.solve(factor, wanted)
    amplitude = float(half @ half) / len(half)
    likelihood = -0.5 * len(half) * math.log(max(amplitude, sys.float_info.min)) - float(np.log(np.diag(factor)).sum())
    return likelihood, np.linalg.solve(factor.T, half)


def _inputs(levels: Genome, genomes: Sequence[Genome]) -> Float64Array:
    """Each gene as its share of the levels, the root of it (the first heads and rows matter most), and whether any."""
    share = np.array(genomes, np.float64).reshape(-1, len(levels)) / np.array(levels)
    return np.concatenate([share, np.sqrt(share), 0.5 * (share > 0.0)], axis=1)


def _kernel(a: Float64Array, b: Float64Array, length: float) -> Float64Array:
    """Matern 5/2 and linear, [len(a), len(b)]."""
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2.0 * a @ b.T
    r: Float64Array = np.sqrt(5.0 * np.maximum(squared, 0.0)) / length
    matern = (1.0 + r + r * r / 3.0) * np.exp(-r)
    return np.asarray(matern + LINEAR * (a @ b.T), np.float64)
