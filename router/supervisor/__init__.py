"""Starts and supervises the processes of `vllama serve`: embedded Valkey, router processes, worker agents."""
