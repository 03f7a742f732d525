"""Requests whose answers another worker can continue: asked for their token ids, and kept without the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vllama_pool.router.protocol.operation import Resumable
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.resume_rule import field_refusal, is_usual, may_hold_media, sampling_refusal
from vllama_pool.workers.registry.record import ModelInfo

WITH_IDS: Final = b',"return_token_ids":true'
"""Appended to the fields of a request."""


def is_resumable(chat: api.VllmChatRequest, info: ModelInfo) -> bool:
    """True if the ids of a streamed answer are worth asking for."""
    if chat.tools or chat.logprobs or chat.response_format is not None or has_media(chat.messages, info):
        return False
    return not sampling_refusal(chat, info)


def has_media(messages: Sequence[api.VllmMessage], info: ModelInfo) -> bool:
    """True if the prompt may hold more than tokens."""
    if not (may_hold_media(info.capabilities) or may_hold_media(info.undetected)):
        return False
    return any(isinstance(message.content, list) for message in messages)


def chat_without_prompt(chat: api.VllmChatRequest) -> Resumable | None:
    if not chat.return_token_ids:
        return None
    for message in chat.messages:
        if isinstance(message.content, list):
            return None
    kept = chat.copy()
    kept.messages = []
    return Resumable(kept, False)


def text_without_prompt(completion: api.VllmCompletionRequest) -> Resumable | None:
    if not completion.return_token_ids or completion.suffix:
        return None
    kept = completion.copy()
    kept.prompt = ""
    return Resumable(kept, False)


def refusal(sampling: api.VllmSampling, info: ModelInfo) -> str:
    """Return why the answer to a kept request must not be continued; "" if it may be."""
    if getattr(sampling, "tools", None):
        return "tools"
    if getattr(sampling, "response_format", None):
        return "response_format"
    logprobs = getattr(sampling, "logprobs", None)
    if logprobs is not None and logprobs is not False:
        return "logprobs"
    return sampling_refusal(sampling, info)


def of_fields(upstream: api.VllmSampling, fields: bytes, info: ModelInfo) -> Resumable | None:
    """Return an OpenAI request as kept for a continuation; None if another worker must not continue its answer.

    `fields`: the request in JSON. The caller takes the prompt out.
    """
    if (not is_usual(upstream) and field_refusal(fields)) or sampling_refusal(upstream, info):
        return None
    return Resumable(upstream, True)
