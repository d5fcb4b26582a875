"""PyTorch, compiled by inductor for one shape: weights frozen, kernels autotuned, and the wrapper in C++.

Compiling takes half a minute. Where the C++ wrapper cannot be had, the wrapper is Python's, and a warning says so.
"""

from __future__ import annotations

import warnings

import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor import config as inductor

from prunetime.baselines.pytorch import DTYPES, binding, precisions
from prunetime.baselines.setting import BenchmarkSetting, Bind
from prunetime.errors import InputError, first_line
from prunetime.models.encoder import from_weights

__all__ = ["precisions", "prepare"]


def prepare(setting: BenchmarkSetting, precision: str) -> Bind:
    """The compiled encoder. Threads are set for the whole process; raises InputError where it cannot be compiled."""
    torch.set_num_threads(setting.threads)
    try:
        return _compiled(setting, precision, cpp_wrapper=True)
    except BackendCompilerFailed as error:
        warnings.warn(f"torch.compile goes on without its C++ wrapper: {first_line(error)}", stacklevel=2)
    try:
        return _compiled(setting, precision, cpp_wrapper=False)
    except BackendCompilerFailed as error:
        raise InputError(
            f"the baseline pytorch-compiled cannot be had here: {first_line(error)}; it needs a C++ compiler: "
            "apt-get install g++, or leave it out of --against"
        ) from error


def _compiled(setting: BenchmarkSetting, precision: str, cpp_wrapper: bool) -> Bind:
    torch._dynamo.reset()
    encoder = from_weights(setting.config, setting.weights).eval().to(DTYPES[precision])
    bind = binding(torch.compile(encoder, dynamic=False, fullgraph=True))
    # Patched here and not as `options` of torch.compile: there, freezing comes too late to have an effect (torch 2.13).
    with inductor.patch(freezing=True, max_autotune=True, cpp_wrapper=cpp_wrapper, autotune_num_choices_displayed=0):
        bind(setting.checked[0])()
    return bind
