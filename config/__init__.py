"""Settings from the environment, API keys, Ollama's name rules, and the routing file."""
