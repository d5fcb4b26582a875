"""The core answers requests of every protocol: it has the models, the queue of the engine, and the counters."""
