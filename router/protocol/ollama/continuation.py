"""Continuation of a conversation that ends in an assistant message.

Ollama's templates leave this message open, so that the model continues it. The answer holds only the continuation.
"""

from __future__ import annotations

from collections.abc import Sequence

from vllama_pool.router.errors import AttemptFailed
from vllama_pool.router.protocol.ollama import think_option
from vllama_pool.router.protocol.ollama.requests import ChatMessage, ChatRequest
from vllama_pool.router.protocol.vllm import api, think_tags
from vllama_pool.workers.registry.record import ModelInfo

_REFUSALS = ("continue_final_message", "substring not found")
"""The second is the text of transformers 4 for a message that the template changes."""


def is_refusal(failure: AttemptFailed) -> bool:
    """True if the template does not render the last message as it is, so that it cannot be continued."""
    return failure.status == 400 and any(text in failure.text for text in _REFUSALS)


def continues_text(request: ChatRequest, info: ModelInfo) -> bool:
    """True if all of the answer is content. Only gpt-oss thinks again: vLLM closes its messages."""
    last = _open_message(request)
    return last is not None and bool(last.content or last.images) and not info.architecture.startswith("gpt_oss")


def _open_message(request: ChatRequest) -> ChatMessage | None:
    last = request.messages[-1] if request.messages else None
    return last if last is not None and last.role.lower() == "assistant" and not last.tool_calls else None


def leave_open(
    upstream: api.VllmChatRequest, request: ChatRequest, info: ModelInfo, refusals: Sequence[AttemptFailed]
) -> None:
    """Continue the last message if it is an assistant's, else leave the request as it is.

    An empty message is left out, since a new turn has the same prompt. After a refusal of the continuation, a new turn
    begins after the message.
    """
    if _open_message(request) is None:
        return
    refused = any(map(is_refusal, refusals))
    last = upstream.messages[-1]
    thinks = bool(last.reasoning) and request.think is not False and think_tags.uses_tags(info)
    if not last.content and (refused or not thinks) and len(upstream.messages) > 1:
        upstream.messages.pop()
        return
    if refused:
        return
    if not last.content and thinks:
        upstream.messages[-1] = api.VllmMessage(last.role, f"{think_tags.OPEN}\n{last.reasoning}")
    if continues_text(request, info):
        # Otherwise vLLM's parsers take the continuation for thinking.
        think_option.apply(upstream, False, info, refusals)
    upstream.add_generation_prompt = False
    upstream.continue_final_message = True
