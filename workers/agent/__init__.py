"""The worker agent: starts or attaches to one vLLM, announces it, watches it, drains and stops it."""
