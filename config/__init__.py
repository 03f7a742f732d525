"""Settings from the environment, Ollama's name rules, and the routing file."""
