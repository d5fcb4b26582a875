"""HTTP: connections, bodies and routes, and the protocols over it."""
