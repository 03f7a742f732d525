"""`vllama compat`: compares any server's responses with Ollama's, rule by rule. Independent of our router."""
