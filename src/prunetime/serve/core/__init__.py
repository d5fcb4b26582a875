"""What answers a request, whichever protocol brought it: models, tokens, the queue, and what is counted."""
