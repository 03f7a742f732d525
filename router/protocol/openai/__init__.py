"""The OpenAI API: /v1/models."""
