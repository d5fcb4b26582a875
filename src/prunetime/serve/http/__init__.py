"""Requests over HTTP, and the protocols that are spoken over it."""
