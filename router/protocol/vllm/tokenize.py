"""Questions about tokens, put to the worker that is to answer the request: only its tokenizer can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from vllama_pool.router.errors import Refused
from vllama_pool.router.protocol.operation import NextStep, PreflightRequest
from vllama_pool.router.protocol.vllm import api

T = TypeVar("T")


def of_chat(
    chat: api.VllmChatRequest, then: Callable[[api.VllmTokenized], NextStep], *, with_texts: bool = False
) -> PreflightRequest:
    """The tokens of the prompt that a chat request makes. `with_texts`: each token's text too."""
    return _ask(api.TOKENIZE_PATH, _of(chat, with_texts), api.VllmTokenized, then)


def count_chat(chat: api.VllmChatRequest, then: Callable[[api.VllmTokenCount], NextStep]) -> PreflightRequest:
    """How many they are."""
    return _ask(api.TOKENIZE_PATH, _of(chat, with_texts=False), api.VllmTokenCount, then)


def _of(chat: api.VllmChatRequest, with_texts: bool) -> api.VllmTokenizeChatRequest:
    settings: dict[str, bool | str] = {**(chat.chat_template_kwargs or {})}
    if settings and chat.reasoning_effort is not None:  # alone it is Mistral's, whose tokenizer takes no settings
        settings["reasoning_effort"] = chat.reasoning_effort
    return api.VllmTokenizeChatRequest(chat.model, chat.messages, chat.tools, settings or None, with_texts)


def of_text(model: str, text: str, then: Callable[[api.VllmTokenized], NextStep]) -> PreflightRequest:
    """The tokens of a plain prompt."""
    return _ask(api.TOKENIZE_PATH, api.VllmTokenizeTextRequest(model, text), api.VllmTokenized, then)


def count_text(model: str, text: str, then: Callable[[api.VllmTokenCount], NextStep]) -> PreflightRequest:
    """How many they are."""
    return _ask(api.TOKENIZE_PATH, api.VllmTokenizeTextRequest(model, text), api.VllmTokenCount, then)


def to_text(model: str, tokens: list[int], then: Callable[[api.VllmDetokenized], NextStep]) -> PreflightRequest:
    return _ask(api.DETOKENIZE_PATH, api.VllmDetokenizeRequest(model, tokens), api.VllmDetokenized, then)


def _ask(path: str, body: msgspec.Struct, kind: type[T], then: Callable[[T], NextStep]) -> PreflightRequest:
    def answered(answer: bytes) -> NextStep:
        try:
            found = msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(f"the worker's answer to {path} is not vLLM's: {error}", status=501) from None
        return then(found)

    return PreflightRequest(path, api.encode(body), answered)
