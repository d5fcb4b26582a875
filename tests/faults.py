"""A pytest plugin that plants the fault named by PLANTED_FAULT before the tests are collected."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from prunetime.core import blocks
from prunetime.inference import tokenize
from prunetime.latency import measure, predictor
from prunetime.latency.sublayers import ProfileKey
from prunetime.models import compact as compacting
from prunetime.models import layers, rounding
from prunetime.pruning import topk
from prunetime.tasks import roles


def swap_two_rows_in_compact() -> None:
    whole = compacting.compact

    def swapped(*arguments, **named):
        weights = dict(whole(*arguments, **named))
        for name in weights:
            if name.endswith("ffn_input.weight"):
                weights[name] = weights[name][[1, 0, *range(2, len(weights[name]))]]
        return weights

    compacting.compact = swapped


def accept_a_stale_profile() -> None:
    ProfileKey.check_is = lambda *_: None


def forget_pooled_rows() -> None:
    whole = predictor.sublayers
    predictor.sublayers = lambda spec, key: whole(spec, replace(key, pooled_row=False))


def split_by_row() -> None:
    roles._positions = lambda groups, seed: np.random.default_rng(seed).random(len(groups))


def bootstrap_single_samples() -> None:
    whole = measure._resampled
    measure._resampled = lambda samples, draws, percent: whole(
        samples.reshape(-1, 1), np.random.default_rng(0).integers(0, samples.size, (len(draws), samples.size)), percent
    )


def cut_the_first_text() -> None:
    tokenize.longest_first = lambda _, second, room: (max(0, room - second), min(second, room))


def let_padding_be_an_answer() -> None:
    layers.NO_CHOICE = 0.0


def turn_the_gradient_of_masks_around() -> None:
    whole = topk._TopK.backward
    topk._TopK.backward = staticmethod(lambda ctx, gradient: (*(-each for each in whole(ctx, gradient)[:2]), None))


def keep_parts_of_tiles() -> None:
    topk.kept_of = lambda ratio, parts, _tile=1: max(1, round(ratio * parts))


def pack_the_wrong_blocks() -> None:
    whole = blocks.to_blocks
    blocks.to_blocks = lambda weight, kept, *grain: whole(weight, np.roll(kept, 1, axis=1), *grain)


def quantise_whole_tensors() -> None:
    whole = rounding._int8_rows
    rounding._int8_rows = lambda x: whole(x.reshape(1, -1)).view_as(x)


FAULTS: dict[str, tuple[Callable[[], None], str]] = {
    "swapped rows in compact": (swap_two_rows_in_compact, "tests/models/test_parity.py"),
    "pooled rows": (forget_pooled_rows, "tests/latency/test_predictor.py"),
    "stale profile": (accept_a_stale_profile, "tests/latency/test_predictor.py"),
    "label leakage": (split_by_row, "tests/tasks/test_roles.py"),
    "dependent samples": (bootstrap_single_samples, "tests/latency/test_measure.py"),
    "cut text": (cut_the_first_text, "tests/inference/test_tokenize.py"),
    "mask gradient": (turn_the_gradient_of_masks_around, "tests/pruning/test_topk.py"),
    "tile rounding": (keep_parts_of_tiles, "tests/pruning/test_multilevel.py"),
    "block packing": (pack_the_wrong_blocks, "tests/pruning/test_multilevel.py"),
    "one scale for all tokens": (quantise_whole_tensors, "tests/models/test_fake_quant.py"),
    "padding": (let_padding_be_an_answer, "tests/training/test_question_answering.py"),
}
"""By name: what plants it, and the tests that must fail then. Faults in kernels are planted in tests/engine."""

if os.environ.get("PLANTED_FAULT"):
    FAULTS[os.environ["PLANTED_FAULT"]][0]()
