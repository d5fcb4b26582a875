"""Criteria and learned masks: which heads and rows matter."""
