"""How fast BERT-base is at the keep ratios that were learned of MiniLM; see `bench/multilevel.py --speed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from prunetime.baselines import onnxruntime, openvino, shapes
from prunetime.baselines.setting import BenchmarkSetting
from prunetime.core.arch import TILE, ArchSpec, Dims, LayerSpec, block_grid
from prunetime.core.blocks import expand
from prunetime.core.precision import Precision, PrecisionPlan
from prunetime.inference.engine import Engine
from prunetime.latency.measure import pinned, run_rounds, summarise
from prunetime.latency.synthetic import random_batch, random_weights

LENGTH = 128
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")


def stretched(spec: ArchSpec, of: Dims, to: Dims) -> ArchSpec:
    """`spec`, of an encoder of `of`, on one of `to`: every layer has the keep ratios of the layer at its place."""

    def rows(kept: int, before: int, after: int) -> int:
        return min(after, TILE * max(1, round(kept / before * after / TILE)))

    layers = []
    for index in range(to.layers):
        layer = spec.layers[index * of.layers // to.layers]
        bare = LayerSpec(
            max(1, round(layer.heads / of.heads * to.heads)),
            rows(layer.attention_rows, of.hidden, to.hidden),
            rows(layer.ffn, of.ffn, to.ffn),
            rows(layer.ffn_rows, of.hidden, to.hidden),
        )
        shapes_before, shapes_after = layer.matrix_shapes(of), bare.matrix_shapes(to)
        blocks = []
        for block in layer.blocks:
            grid, new = (block_grid(s[block.matrix], block.rows, block.columns) for s in (shapes_before, shapes_after))
            blocks.append(replace(block, kept=max(1, round(block.kept / np.prod(grid) * np.prod(new)))))
        layers.append(replace(bare, blocks=tuple(blocks)))
    return ArchSpec(tuple(layers))


def speed(spec: ArchSpec, of: Dims) -> dict[str, Any]:
    """Microseconds of BERT-base, dense and at the keep ratios of `spec`, with one sequence and with eight.

    The logits of ours are checked against the same weights in expanded matrices: a sparse answer is the dense one's.
    """
    config, full, weights = shapes.encoder("base")
    small = stretched(spec, of, config.dims)
    models = {"dense": (full, weights), "sparse": (small, random_weights(config, small))}
    found: dict[str, Any] = {}
    for batch, rounds, times, baselines in ((1, 8, 3, (onnxruntime, openvino)), (8, 4, 1, ())):
        ids, calls = random_batch(config, batch, LENGTH), {}
        with pinned(1):
            for (name, (own, arrays)), precision in product(models.items(), PRECISIONS):
                engine = Engine(config, arrays, spec=own, plan=PrecisionPlan.uniform(precision))
                calls[f"{name} {precision}"] = partial(engine.logits, ids)
            expanded = Engine(config, expand(models["sparse"][1], config, small))
            difference = np.abs(expanded.logits(ids) - calls["sparse fp32"]()).max()
            assert difference < 1e-3 * np.abs(expanded.logits(ids)).max(), difference
            for baseline in baselines:
                bound = baseline.prepare(BenchmarkSetting(config, weights, batch, LENGTH, 1), "fp32")
                calls[f"{baseline.__name__.rpartition('.')[2]} fp32"] = bound(ids)
            samples = run_rounds(calls, rounds, times)
        found[f"{batch}x{LENGTH}"] = compared({name: summarise(s).p50_us for name, s in samples.items()})
    kept = {"weights_kept": small.weights(config.dims) / full.weights(config.dims)}
    names = dict.fromkeys(name for setting in found.values() for name in setting)
    return kept | {
        name: {setting: values[name] for setting, values in found.items() if name in values} for name in names
    }


def compared(us: Mapping[str, float]) -> dict[str, Any]:
    """Ours, dense and sparse, and dense baselines, of medians by what was run and its precision."""

    def of(name: str) -> dict[str, float]:
        return {key.split()[1]: value for key, value in us.items() if key.startswith(f"{name} ")}

    dense, sparse = of("dense"), of("sparse")
    baselines = {f"over_{name}": of(name)["fp32"] / sparse["fp32"] for name in ("onnxruntime", "openvino") if of(name)}
    return {
        "dense_us": dense,
        "sparse_us": sparse,
        "same_precision_speedup": {precision: dense[precision] / sparse[precision] for precision in PRECISIONS},
        "best_speedup": min(dense.values()) / min(sparse.values()),
        **baselines,
    }
