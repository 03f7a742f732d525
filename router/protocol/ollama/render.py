"""`_debug_render_only`: the rendered prompt (R066).

vLLM renders templates only into tokens, which are decoded back into text.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vllama_pool.router.protocol.operation import DirectResponse, NextStep
from vllama_pool.router.protocol.vllm import api, tokenize


class DebugInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    rendered_template: str
    image_count: int = 0


Respond = Callable[[str], DirectResponse]


def render_chat(upstream: api.VllmChatRequest, respond: Respond, *, after: list[int] | None = None) -> NextStep:
    """`after`: token ids that precede the prompt."""

    def on_tokens(tokenized: api.VllmTokenized) -> NextStep:
        ids = [*(after or ()), *tokenized.tokens]
        return tokenize.detokenize(upstream.model, ids, lambda text: respond(text.prompt))

    return tokenize.tokenize_chat(upstream, on_tokens)


def render_text(model: str, prompt: str, respond: Respond, *, after: list[int] | None = None) -> NextStep:
    if not after:
        return respond(prompt)
    return tokenize.detokenize(model, after, lambda text: respond(text.prompt + prompt))
