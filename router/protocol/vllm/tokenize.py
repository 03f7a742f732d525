"""Preflight requests to a worker's tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from vllama_pool.router.errors import Refused
from vllama_pool.router.protocol.operation import NextStep, PreflightRequest
from vllama_pool.router.protocol.vllm import api

T = TypeVar("T")


def tokenize_chat(
    chat: api.VllmChatRequest, then: Callable[[api.VllmTokenized], NextStep], *, with_texts: bool = False
) -> PreflightRequest:
    return _preflight(api.TOKENIZE_PATH, _chat_body(chat, with_texts), api.VllmTokenized, then)


def count_chat(chat: api.VllmChatRequest, then: Callable[[api.VllmTokenCount], NextStep]) -> PreflightRequest:
    return _preflight(api.TOKENIZE_PATH, _chat_body(chat, with_texts=False), api.VllmTokenCount, then)


def _chat_body(chat: api.VllmChatRequest, with_texts: bool) -> api.VllmTokenizeChatRequest:
    settings: dict[str, bool | str] = {**(chat.chat_template_kwargs or {})}
    # Mistral's tokenizer gets an effort without kwargs, and accepts no kwargs here.
    if settings and chat.reasoning_effort is not None:
        settings["reasoning_effort"] = chat.reasoning_effort
    return api.VllmTokenizeChatRequest(
        chat.model,
        chat.messages,
        chat.tools,
        settings or None,
        with_texts,
        chat.add_generation_prompt,
        chat.continue_final_message,
    )


def tokenize_text(model: str, text: str, then: Callable[[api.VllmTokenized], NextStep]) -> PreflightRequest:
    return _preflight(api.TOKENIZE_PATH, api.VllmTokenizeTextRequest(model, text), api.VllmTokenized, then)


def count_text(model: str, text: str, then: Callable[[api.VllmTokenCount], NextStep]) -> PreflightRequest:
    return _preflight(api.TOKENIZE_PATH, api.VllmTokenizeTextRequest(model, text), api.VllmTokenCount, then)


def detokenize(model: str, tokens: list[int], then: Callable[[api.VllmDetokenized], NextStep]) -> PreflightRequest:
    return _preflight(api.DETOKENIZE_PATH, api.VllmDetokenizeRequest(model, tokens), api.VllmDetokenized, then)


def _preflight(path: str, body: msgspec.Struct, kind: type[T], then: Callable[[T], NextStep]) -> PreflightRequest:
    def on_response(response: bytes) -> NextStep:
        try:
            decoded = msgspec.json.decode(response, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Refused(f"the worker's response to {path} is invalid; check that it runs vLLM", status=501) from None
        return then(decoded)

    return PreflightRequest(path, api.encode(body), on_response)
