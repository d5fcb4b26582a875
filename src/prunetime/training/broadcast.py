"""What the main process of a group tells the others."""

from __future__ import annotations

from typing import Any


def broadcast(value: Any) -> Any:
    """Returns the `value` of the main process, on every rank; `value` itself where there is one process."""
    import torch.distributed as dist

    box = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    return box[0]
