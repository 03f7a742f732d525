"""vLLM servers, their models, and two substitutes: simulated workers and scripted servers."""
