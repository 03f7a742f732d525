"""JSON schemas of clients, translated for the grammars of vLLM."""
