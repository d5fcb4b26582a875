"""The worker processes that serve together, and the messages between them."""
