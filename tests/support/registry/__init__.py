"""The registry: a real Valkey, in-memory fakes, and what routers read from it."""
