"""Virtual models: what `ollama create` and `cp` make, kept in step across routers."""
