"""The checks by topic."""

from __future__ import annotations

from vllama_pool.router.compat.checks import (
    answers,
    catalogue,
    chat,
    connections,
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
    structured,
    thinking,
    writes,
)
from vllama_pool.router.compat.checks.check import Check, checks_in

_MODULES = (
    routes,
    headers,
    connections,
    catalogue,
    naming,
    openai,
    errors,
    requests,
    answers,
    generate,
    structured,
    chat,
    images,
    thinking,
    options,
    embeddings,
    writes,
    loading,
)
"""Checks that unload models run last."""

CHECKS: tuple[Check, ...] = tuple(check for module in _MODULES for check in checks_in(module))
