"""Training passes of an encoder: through `FusedLayers` where these can run it, else through its modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunetime.core.arch import ArchSpec
from prunetime.models.encoder import Output, Parts, SequenceClassifier, encode
from prunetime.models.fused import FusedLayers
from prunetime.models.mask_variables import MaskVariables
from prunetime.models.prefix import EncoderInputs, run_prefix


class Passes:
    """The passes of a step: of a whole encoder, and of sub-networks of it.

    Args:
        model: The encoder, on the device where it is trained. Its weights, if not `frozen`, change between steps.
        dtype: The type of its matrix products, that of autocast around the passes.
    """

    def __init__(self, model: SequenceClassifier, dtype: torch.dtype, *, frozen: bool = False) -> None:
        on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
        self._model, self._frozen = model, frozen
        self._fused = FusedLayers(model.layers, dtype) if on_cpu else None
        self._ready = False

    def begin(self) -> None:
        """Begins a step."""
        if self._fused and self._fused.fit(self._model.spec.layers) and not (self._frozen and self._ready):
            self._fused.refresh()
            self._ready = True

    def whole(
        self,
        inputs: EncoderInputs,
        variables: Sequence[MaskVariables] | None = None,
        *,
        want_scores: bool = False,
        skipped: Tensor | None = None,
        logits_only: bool = False,
    ) -> Output:
        """Runs the whole encoder; arguments are as in `SequenceClassifier`.

        With `logits_only` the last hidden states may be of the tokens alone that the head reads.
        """
        model = self._model
        fused = self._fused_for(model.spec)
        if fused is None or variables is not None or want_scores:
            output: Output = model(*inputs, mask_variables=variables, want_scores=want_scores, skipped=skipped)
            return output
        reads_first = not model.config.reads_every_token and model.config.pooling == "first" and skipped is None
        layers = fused.of(model.spec.layers, rows=1 if logits_only and reads_first else None)
        return encode(Parts(model.embeddings, layers, model.final_norm, model.head), inputs, skipped=skipped)

    def prefix(self, spec: ArchSpec, inputs: EncoderInputs, *, skipped: Tensor | None = None) -> Output:
        """Runs a sub-network as `run_prefix` does."""
        return run_prefix(self._model, spec, inputs, skipped=skipped, fused=self._fused_for(spec))

    def _fused_for(self, spec: ArchSpec) -> FusedLayers | None:
        return self._fused if self._fused and self._fused.fit(spec.layers) else None
