"""PyTorch, compiled by inductor for one shape: weights frozen, kernels autotuned, and the wrapper in C++.

Compiling takes half a minute. Where the C++ wrapper cannot be had, the wrapper is Python's, and a warning says so.
"""

from __future__ import annotations

import os
import shutil
import warnings

import torch
from torch._inductor import config as inductor
from torch._inductor.exc import InductorError

from prunetime.errors import InputError
from prunetime.models.encoder import from_weights
from prunetime.rivals.cell import Bind, Cell
from prunetime.rivals.pytorch import DTYPES, binding, precisions

__all__ = ["precisions", "prepare"]

COMPILERS = ("g++", "clang++")


def prepare(cell: Cell, precision: str) -> Bind:
    """The compiled encoder. Threads are set for the whole process; raises InputError without a C++ compiler."""
    compiler = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ((compiler,) if compiler else COMPILERS)):
        raise InputError(
            f"the rival pytorch-compiled needs a C++ compiler, and {compiler or ' or '.join(COMPILERS)} is not "
            "installed: apt-get install g++, or leave it out of --against"
        )
    torch.set_num_threads(cell.threads)
    try:
        return _compiled(cell, precision, cpp_wrapper=True)
    except InductorError as error:
        warnings.warn(f"torch.compile goes on without its C++ wrapper: {error}", stacklevel=2)
        return _compiled(cell, precision, cpp_wrapper=False)


def _compiled(cell: Cell, precision: str, cpp_wrapper: bool) -> Bind:
    torch._dynamo.reset()
    encoder = from_weights(cell.config, cell.weights).eval().to(DTYPES[precision])
    bind = binding(torch.compile(encoder, dynamic=False, fullgraph=True))
    # Patched here and not as `options` of torch.compile: there, freezing comes too late to have an effect (torch 2.13).
    with inductor.patch(freezing=True, max_autotune=True, cpp_wrapper=cpp_wrapper, autotune_num_choices_displayed=0):
        bind(cell.checked[0])()
    return bind
