"""Writing a model in the formats of other runtimes."""
