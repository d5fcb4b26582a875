"""Fit a BERT-family encoder into a measured CPU latency budget."""

from prunetime.arch import ArchSpec, Dims, LayerSpec
from prunetime.budget import Budget
from prunetime.mask import Mask
from prunetime.plan import Plan
from prunetime.runtime.model import Model, load

__version__ = "0.1.0"
__all__ = ["ArchSpec", "Budget", "Dims", "LayerSpec", "Mask", "Model", "Plan", "load"]
