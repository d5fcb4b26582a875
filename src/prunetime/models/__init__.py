"""Models in torch: the encoder, its files, mask variables, compaction, and the classes that transformers loads."""
