"""Translation of vLLM's two logprobs formats into Ollama's (R064, R065)."""

from __future__ import annotations

from itertools import zip_longest

import msgspec

from vllama_pool.router.protocol.vllm import api


class LogprobAlternative(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class LogprobEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[LogprobAlternative] | None = None


def translate(logprobs: api.VllmLogprobs, top: int) -> list[LogprobEntry]:
    """One entry per token with up to `top` alternatives, best first."""
    if logprobs.content is not None:
        return [
            _entry(item.token, item.logprob, [(a.token, a.logprob) for a in item.top_logprobs or ()], top)
            for item in logprobs.content
        ]
    return [
        _entry(token, logprob, list((alternatives or {}).items()), top)
        for token, logprob, alternatives in zip_longest(
            logprobs.tokens or (), logprobs.token_logprobs or (), logprobs.top_logprobs or ()
        )
        if token is not None
    ]


def _entry(token: str, logprob: float | None, alternatives: list[tuple[str, float | None]], top: int) -> LogprobEntry:
    best: list[LogprobAlternative] | None = None
    if top:
        best = sorted((_alternative(*pair) for pair in alternatives), key=lambda item: -item.logprob)[:top]
    return LogprobEntry(token, _value(logprob), list(token.encode()), best)


def _alternative(token: str, logprob: float | None) -> LogprobAlternative:
    return LogprobAlternative(token, _value(logprob), list(token.encode()))


def _value(logprob: float | None) -> float:
    """At most 0. vLLM's floor if it sends none."""
    return -9999.0 if logprob is None else min(logprob, 0.0)
