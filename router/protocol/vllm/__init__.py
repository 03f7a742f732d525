"""vLLM's API: request bodies, SSE, errors, tokenizer questions, and vLLM's limits."""
