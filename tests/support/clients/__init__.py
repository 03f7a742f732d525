"""HTTP clients for tests: stock Ollama clients and their scenarios, and fuzzed requests."""
