"""vLLM servers: real ones, the models that they serve, and fakes of them."""
