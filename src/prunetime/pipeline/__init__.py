"""From an encoder, data and a budget to a verified artifact."""
