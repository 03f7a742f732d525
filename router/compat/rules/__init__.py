"""All rules of Ollama's API, R001 to R224."""

from __future__ import annotations

from vllama_pool.router.compat.rules.connections import CONNECTIONS
from vllama_pool.router.compat.rules.content import CONTENT
from vllama_pool.router.compat.rules.cross_endpoint import CROSS_ENDPOINT
from vllama_pool.router.compat.rules.endpoints import ENDPOINTS
from vllama_pool.router.compat.rules.rule import Rule

RULES: tuple[Rule, ...] = (*ENDPOINTS, *CROSS_ENDPOINT, *CONNECTIONS, *CONTENT)
"""In order of their numbers."""
