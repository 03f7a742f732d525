"""The checks of /v1, by name."""

from __future__ import annotations

from vllama_pool.router.compat.checks import (
    anthropic_messages,
    anthropic_streams,
    compressed_bodies,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_response_streams,
    openai_responses,
    transcriptions,
    v1_routes,
)
from vllama_pool.router.compat.checks.check import checks_in

MODULES = (
    *(openai_chat, openai_completions, openai_embeddings, openai_responses, openai_response_streams),
    *(anthropic_messages, anthropic_streams, transcriptions, compressed_bodies, v1_routes),
)
CHECKS = {check.name: check for module in MODULES for check in checks_in(module)}
ROUTES = tuple(route.name for route in v1_routes.ROUTES)
STREAMED = tuple(route.name for route in v1_routes.STREAMED)


def for_routes(name: str, routes: tuple[str, ...] = ROUTES) -> tuple[str, ...]:
    return tuple(f"{route} {name}" for route in routes)


def named(*parts: str) -> tuple[str, ...]:
    """Names of checks that hold one of the parts."""
    return tuple(name for name in CHECKS if any(part in name for part in parts))


ACCEPTING = tuple(
    name
    for name in CHECKS
    if name not in named("refuse", "needs", "reports", "_need_", "_report_", "is_not_decompressed")
)
REFUSING = tuple(name for name in CHECKS if name not in ACCEPTING)
CHATS = ("chat_completions_answers", "chat/completions is not streamed by default")
CHAT_CALLS = ("chats_call_tools", "chats_stream_tool_calls")
RESPONSE_STREAMS = tuple(check.name for check in checks_in(openai_response_streams))
MESSAGE_STREAMS = tuple(check.name for check in checks_in(anthropic_streams))
