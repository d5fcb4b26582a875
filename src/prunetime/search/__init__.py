"""Search for the best architecture inside a latency budget."""
