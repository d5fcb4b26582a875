"""The processes that serve together, and what they say to each other."""
