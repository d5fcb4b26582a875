"""Repair of any sub-network of an encoder at the price of triangular solutions: what a search scores."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy.linalg import solve_triangular

from prunetime.core.arch import Dims
from prunetime.core.arrays import Array, Float32Array, Weights
from prunetime.core.artifact import write_bytes
from prunetime.errors import InputError
from prunetime.models.batches import TrainingData
from prunetime.models.encoder import SequenceClassifier
from prunetime.models.threads import training_on
from prunetime.models.tokens import PADDING, kinds_of
from prunetime.pruning.least_squares import factor, with_one
from prunetime.pruning.repair import SUBLAYERS, batches_to_read, seen_by

RIDGE = 0.02
"""The strength of the ridge: between those that `repair` chooses, 0.01 and 0.1 for most matrices of MiniLM-L6."""


@dataclass(frozen=True)
class PrefixRepair:
    """The Cholesky factors of what the output matrices of an unpruned encoder read, heads and FFN neurons in order.

    Let G be the Gram matrix of the inputs of an output matrix W, the first input 1 for the bias, and G + R = L L^T with
    the ridge R. Where only the first k inputs are left, the matrix V that comes nearest to what W gave, drawn to the
    first rows of W by the ridge, is the solution of L_k^T V = (L^T W)_k, of the first k rows and columns. So one
    factorisation has the solutions of all prefixes.

    Attributes:
        factors: L, [1 + inputs, 1 + inputs] in float32, by the name of the matrix (`layers.0.ffn_output`).
        targets: L^T W, [1 + inputs, outputs], the first row of W the bias; by the same names.
    """

    factors: Mapping[str, Float32Array]
    targets: Mapping[str, Float32Array]

    @classmethod
    def of(cls, model: SequenceClassifier, data: TrainingData, seed: int = 0, threads: int = 1) -> PrefixRepair:
        """Measures what the output matrices of an unpruned `model` read, of the rows that `repair` would draw."""
        outputs = {
            f"layers.{index}.{sublayer}_output": getattr(layer, f"{sublayer}_output")
            for index, layer in enumerate(model.layers)
            for sublayer in SUBLAYERS
        }
        grams = {name: torch.zeros((1 + each.in_features,) * 2).double() for name, each in outputs.items()}
        training = model.training
        model.eval()
        with torch.no_grad(), training_on(threads), ExitStack() as stack:
            seen = {n: stack.enter_context(seen_by(each.register_forward_pre_hook)) for n, each in outputs.items()}
            for batch in batches_to_read(data, seed):
                ids, mask = batch["input_ids"], batch["attention_mask"]
                real = kinds_of(ids, mask, model.embeddings.separator) != PADDING
                model(ids, mask, batch.get("token_type_ids"))
                for name, read in seen.items():
                    x = with_one(read.pop()[real])
                    grams[name] += x.T @ x
        model.train(training)
        factors, targets = dict[str, Float32Array](), dict[str, Float32Array]()
        for name, output in outputs.items():
            lower = factor(grams.pop(name), RIDGE)
            target = lower.T @ torch.cat((output.bias.detach()[None], output.weight.detach().T)).double()
            # in C order, which LAPACK does not give: a file of safetensors has numbers as they lie
            factors[name], targets[name] = (each.float().contiguous().numpy() for each in (lower, target))
        return cls(factors, targets)

    def applied(self, kept: Weights) -> dict[str, Array]:
        """Returns the weights of a sub-network with its output matrices repaired, but for those in blocks.

        Args:
            kept: The first heads and neurons of the encoder, as `compact` leaves them.
        """
        repaired = dict(kept)
        for name, lower in self.factors.items():
            if (weight := f"{name}.weight") not in kept:
                continue  # the sub-layer is gone, or its output matrix is in blocks
            inputs = 1 + kept[weight].shape[1]
            upper, target = lower[:inputs, :inputs].T, self.targets[name][:inputs]
            solution = solve_triangular(upper, target, lower=False, check_finite=False)
            repaired[weight] = np.ascontiguousarray(solution[1:].T)
            repaired[f"{name}.bias"] = np.ascontiguousarray(solution[0])
        return repaired

    def save(self, path: Path) -> None:
        """Writes factors and targets as a safetensors file; raises InputError where it cannot be written."""
        factors = {f"{name}.factor": array for name, array in self.factors.items()}
        write_bytes(path, save(factors | {f"{name}.target": array for name, array in self.targets.items()}))

    @classmethod
    def load(cls, path: Path, dims: Dims) -> PrefixRepair:
        """Raises InputError where the file is damaged, or of another encoder."""
        widths = {"attention": dims.heads * dims.head_dim, "ffn": dims.ffn}
        shapes = {
            f"layers.{layer}.{sublayer}_output": {"factor": (1 + width, 1 + width), "target": (1 + width, dims.hidden)}
            for layer in range(dims.layers)
            for sublayer, width in widths.items()
        }
        expected = {f"{name}.{kind}": shape for name, of in shapes.items() for kind, shape in of.items()}
        try:
            arrays = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot read it ({error}); remove it and run the same command again") from error
        if {name: array.shape for name, array in arrays.items()} != expected:
            raise InputError(f"{path} is of another encoder; remove it and run the same command again")
        factors, targets = ({name: arrays[f"{name}.{kind}"] for name in shapes} for kind in ("factor", "target"))
        return cls(factors, targets)
