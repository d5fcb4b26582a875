"""Experiments on models: assignment of keys to arms, outcomes, and when to stop."""
