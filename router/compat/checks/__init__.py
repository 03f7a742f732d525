"""The checks by topic."""

from __future__ import annotations

from vllama_pool.router.compat.checks import (
    answers,
    anthropic_messages,
    anthropic_streams,
    catalogue,
    chat,
    compressed_bodies,
    connections,
    embeddings,
    errors,
    generate,
    headers,
    images,
    loading,
    naming,
    openai,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_response_streams,
    openai_responses,
    options,
    requests,
    routes,
    structured,
    thinking,
    transcriptions,
    v1_routes,
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
    v1_routes,
    compressed_bodies,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_responses,
    openai_response_streams,
    transcriptions,
    anthropic_messages,
    anthropic_streams,
    writes,
    loading,
)
"""Checks that unload models run last."""

CHECKS: tuple[Check, ...] = tuple(check for module in _MODULES for check in checks_in(module))
