"""vLLama: one Ollama URL in front of a pool of vLLM servers."""
