"""Experiments on models: who gets which, what came of it, and when to stop."""
