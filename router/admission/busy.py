"""Ollama's refusal of requests that may not wait (R161, R188)."""

BUSY = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's text, with two spaces (R161)."""
