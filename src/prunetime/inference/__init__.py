"""Running a model: tokenising, the engine, measuring. Nothing here imports torch."""
