"""Running a model: tokenising and the engine. Nothing here imports torch."""
