"""Benchmark cases: the encoder of an artifact, of a transformers model, or of the name of a shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from prunetime.baselines import shapes
from prunetime.baselines.setting import BenchmarkSetting
from prunetime.core import artifact as artifacts
from prunetime.core.arch import ArchSpec
from prunetime.core.arrays import Weights
from prunetime.core.blocks import expand
from prunetime.core.config import EncoderConfig


@dataclass(frozen=True)
class BenchmarkCase:
    """An encoder by `name`, as our engine runs it."""

    name: str
    config: EncoderConfig
    spec: ArchSpec
    weights: Weights

    @property
    def token_spec(self) -> ArchSpec | None:
        """The spec without its blocks, for torch with expanded matrices; None where no token is dropped."""
        layers = tuple(replace(layer, blocks=()) for layer in self.spec.layers)
        return ArchSpec(layers) if any(layer.tokens < 1.0 for layer in layers) else None

    def setting(self, batch: int, seq_len: int, threads: int) -> BenchmarkSetting:
        """The setting in which baselines run it: matrices in blocks are expanded."""
        dense = expand(self.weights, self.config, self.spec)
        return BenchmarkSetting(self.config, dense, batch, seq_len, threads)


def benchmark_case(model: str) -> BenchmarkCase:
    """`model`, read or drawn; a transformers model without a classifier of two outputs gets a fresh one.

    Raises InputError where it is none of the three, or is damaged.
    """
    if model.partition("@")[0] in shapes.SIZES:
        return BenchmarkCase(model, *shapes.encoder(model))
    folder = Path(model)
    if (folder / artifacts.MANIFEST).is_file() or (folder.is_dir() and not (folder / "config.json").is_file()):
        found = artifacts.read(model)
        return BenchmarkCase(str(found.folder), found.manifest.config, found.manifest.spec, found.weights)
    from prunetime.models import families
    from prunetime.models.encoder import weights_of

    pretrained = families.load(model, outputs=shapes.OUTPUTS)
    return BenchmarkCase(model, pretrained.config, pretrained.model.spec, weights_of(pretrained.model))
