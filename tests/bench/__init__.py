"""Benchmark of the router: CPU per request and per token, latency and memory, beside other routers."""
