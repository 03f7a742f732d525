"""Ollama's protocol, vLLM's API, and the translation between them. No I/O."""
