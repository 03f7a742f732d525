"""The checks by topic."""

from __future__ import annotations

from vllama_pool.router.compat.check import Check, declared
from vllama_pool.router.compat.checks import (
    answers,
    catalogue,
    chat,
    embeddings,
    errors,
    generate,
    headers,
    images,
    loading,
    naming,
    openai,
    options,
    requests,
    routes,
    thinking,
    writes,
)

_MODULES = (
    routes,
    headers,
    catalogue,
    naming,
    openai,
    errors,
    requests,
    answers,
    generate,
    chat,
    images,
    thinking,
    options,
    embeddings,
    writes,
    loading,
)
"""In running order. Checks that unload models come last."""

CHECKS: tuple[Check, ...] = tuple(check for module in _MODULES for check in declared(module))
