"""Making models in torch: the encoder, loading, gates, compaction, and the classes that transformers loads."""
