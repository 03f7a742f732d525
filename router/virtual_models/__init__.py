"""Virtual models, which `ollama create` and `cp` make: planning, storage, and replication across routers."""
