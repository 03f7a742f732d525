"""The router: one Ollama URL in front of the workers."""
