"""Prefixes that training libraries put before the names of a checkpoint's tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from prunetime.errors import InputError

INNER = r"(?:(?<=^)|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
"""torch.compile, FSDP and activation checkpointing wrap any module, and put their names anywhere."""

OUTER = r"(?:(?:module|model)\.)*"
"""DistributedDataParallel (`module.`) and Lightning (`model.`) wrap the whole model."""


def unwrapped(tensors: Mapping[str, Tensor], prefix: str, word_table: str) -> dict[str, Tensor]:
    """Returns the `tensors` of a checkpoint under the names that transformers gives them.

    Args:
        prefix: of the encoder in a model with a task head, such as `bert.`.
        word_table: the name of the word embeddings in the encoder, by which the encoder is found.

    Raises InputError where the checkpoint holds no such encoder, several, or one under an unknown prefix.
    """
    named = {re.sub(INNER, "", name): tensor for name, tensor in tensors.items()}
    if len(named) < len(tensors):
        raise InputError("two tensors of the checkpoint differ in the names of wrappers alone: it holds two models")
    table = re.compile(rf"(?P<before>(?:.*\.)?){re.escape(word_table)}")
    before = sorted(found["before"] for name in named if (found := table.fullmatch(name)))
    if not before:
        some = ", ".join(sorted(named)[:3])
        raise InputError(
            f"none of the checkpoint's {len(named)} tensors ({some}, ...) is {prefix}{word_table} or {word_table}: "
            "it is a checkpoint of something else than its config.json says"
        )
    if len(before) > 1:
        raise InputError(f"the checkpoint holds {len(before)} encoders, under {' and '.join(map(repr, before))}")
    wrapper = before[0].removesuffix(prefix)
    if not re.fullmatch(OUTER, wrapper):
        raise InputError(
            f"the checkpoint's encoder lies under {wrapper!r}, where transformers would not find it: save the encoder "
            f"itself, or rename its tensors to begin with {prefix!r}"
        )
    return {name.removeprefix(wrapper): tensor for name, tensor in named.items()}
