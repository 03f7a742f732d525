"""`_debug_render_only`: the prompt that a request makes, and nothing generated (R066).

vLLM renders templates only on its way to tokens, so the text is read back from these.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vllama_pool.router.protocol.operation import DirectResponse, NextStep
from vllama_pool.router.protocol.vllm import api, tokenize


class DebugInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    rendered_template: str
    image_count: int = 0


def of_chat(
    sent: api.VllmChatRequest, reply: Callable[[str], DirectResponse], *, after: list[int] | None = None
) -> NextStep:
    """Replies with the prompt's text. `after`: token ids that come before it."""

    def rendered(found: api.VllmTokenized) -> NextStep:
        ids = [*(after or ()), *found.tokens]
        return tokenize.to_text(sent.model, ids, lambda text: reply(text.prompt))

    return tokenize.of_chat(sent, rendered)


def of_text(
    model: str, prompt: str, reply: Callable[[str], DirectResponse], *, after: list[int] | None = None
) -> NextStep:
    """The same for a prompt that no template is applied to: it is the text, after those ids."""
    if not after:
        return reply(prompt)
    return tokenize.to_text(model, after, lambda text: reply(text.prompt + prompt))
