"""vLLM's API: requests, events, errors, limits and the tokenizer."""
