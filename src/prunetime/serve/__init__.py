"""The server answers requests over HTTP and gRPC with models, within deadlines."""
