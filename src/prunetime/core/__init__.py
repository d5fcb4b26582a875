"""Descriptions that everything shares, immutable and checked, with JSON in and out. They need numpy alone."""
