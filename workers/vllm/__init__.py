"""One vLLM server's HTTP API and flags: probes, abilities, warm-up."""
