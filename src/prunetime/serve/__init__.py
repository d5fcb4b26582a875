"""The server: models behind HTTP, with deadlines."""
