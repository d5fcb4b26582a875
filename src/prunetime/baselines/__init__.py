"""Baselines: other engines that run the same compact model, for comparison."""
