"""Other engines, running the same compact model, for comparison."""
