"""text-embeddings-inference, of Hugging Face."""
