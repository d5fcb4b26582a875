"""What a model is, and how it did, as the Open Inference Protocol and Triton's extensions of it say it."""

from __future__ import annotations

from collections.abc import Iterable

from prunetime.serve.models import Hosted
from prunetime.serve.protocols.oip.messages import ModelMetadata, TensorMetadata
from prunetime.serve.protocols.oip.tensors import outputs_of


def metadata_of(hosted: Hosted, versions: Iterable[str]) -> ModelMetadata:
    """What a model is, which has these `versions`."""
    manifest = hosted.model.manifest
    parameters = {
        "kind": manifest.task.kind,
        "labels": list(manifest.task.labels),
        "max_length": manifest.task.max_length,
        "measured": manifest.provenance.get("measured"),
    }
    inputs = [TensorMetadata(name, "BYTES", [-1]) for name in manifest.task.text]
    return ModelMetadata(hosted.name, list(versions), "prunetime", inputs, outputs_of(manifest.task), parameters)
