"""Fit a BERT-family encoder into a measured CPU latency budget."""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from prunetime._version import __version__
from prunetime.core.arch import ArchSpec, Dims, LayerSpec
from prunetime.core.budget import Budget
from prunetime.core.effort import Effort
from prunetime.core.mask import Mask
from prunetime.core.precision import PrecisionPlan
from prunetime.core.task import Answer, Span, Tagged
from prunetime.errors import PrunetimeError
from prunetime.inference.model import Model, load

if TYPE_CHECKING:
    from prunetime.api import Pruned, pick, profile, prune
    from prunetime.client import AsyncClient, Client
    from prunetime.settings import Settings

__all__ = [
    "Answer",
    "ArchSpec",
    "AsyncClient",
    "Budget",
    "Client",
    "Dims",
    "Effort",
    "LayerSpec",
    "Mask",
    "Model",
    "PrecisionPlan",
    "Pruned",
    "PrunetimeError",
    "Settings",
    "Span",
    "Tagged",
    "__version__",
    "load",
    "pick",
    "profile",
    "prune",
]

_ELSEWHERE = {
    **dict.fromkeys(("Pruned", "pick", "profile", "prune"), ("api", "prune")),
    "Settings": ("settings", "prune"),
    **dict.fromkeys(("AsyncClient", "Client"), ("client", "client")),
}
"""Names that need more than running models does: their module, and the extra that installs what it needs."""


_RENAMED = {"Plan": "PrecisionPlan"}
"""Names of the release before, which still work in this one."""


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        message = f"prunetime.{name} is now prunetime.{_RENAMED[name]}; the old name goes with the next release"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return globals()[_RENAMED[name]]
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _ELSEWHERE[name]
    try:
        return getattr(import_module(f"prunetime.{module}"), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"prunetime.{name} needs {error.name}: pip install 'prunetime[{extra}]'", name=error.name
        ) from error
