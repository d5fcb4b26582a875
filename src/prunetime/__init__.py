"""Fit a BERT-family encoder into a measured CPU latency budget."""

from typing import TYPE_CHECKING, Any

from prunetime.arch import ArchSpec, Dims, LayerSpec
from prunetime.budget import Budget
from prunetime.mask import Mask
from prunetime.plan import Plan
from prunetime.runtime.model import Model, load

if TYPE_CHECKING:
    from prunetime.client import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["ArchSpec", "AsyncClient", "Budget", "Client", "Dims", "LayerSpec", "Mask", "Model", "Plan", "load"]


def __getattr__(name: str) -> Any:
    """The clients, which need what not everybody has."""
    if name in ("AsyncClient", "Client"):
        from prunetime import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
