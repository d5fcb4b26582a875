"""Fit a BERT-family encoder into a measured CPU latency budget."""

__version__ = "0.1.0"
