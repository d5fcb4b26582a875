"""Functions with a gradient of their own, which torch has no types for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """Returns the tensor that an autograd function makes of its arguments."""
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]  # torch has no type for it
    return result
