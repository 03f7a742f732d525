"""Ollama's native API: requests decoded, answers written line for line as Ollama writes them."""
