"""HTTP clients of a fleet: stock Ollama clients, their stories, and fuzzed requests."""
