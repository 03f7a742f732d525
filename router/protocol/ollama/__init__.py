"""Ollama's native API: decoding of requests, encoding of responses."""
