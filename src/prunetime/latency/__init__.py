"""Measuring how long a model takes, and predicting it. Nothing here imports torch."""
