"""The Open Inference Protocol over gRPC, beside HTTP: the same service in the same process."""
