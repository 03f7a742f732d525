"""vLLM servers: real ones, the models that they serve, and two substitutes: simulated workers and scripted servers."""
