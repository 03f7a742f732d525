"""Preflight requests to a worker's tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from vllama_pool.router.errors import Unable
from vllama_pool.router.protocol.operation import NextStep, PreflightRequest
from vllama_pool.router.protocol.vllm import api

T = TypeVar("T")
CountT = TypeVar("CountT", api.VllmTokenCount, api.VllmTokenized)


def tokenize_chat(
    chat: api.VllmChatRequest,
    then: Callable[[api.VllmTokenized], NextStep],
    *,
    with_texts: bool = False,
    window: int | None = None,
) -> PreflightRequest:
    """`window`: the context, if it is smaller than the worker's."""
    return _preflight(api.TOKENIZE_PATH, _chat_body(chat, with_texts), api.VllmTokenized, _within(window, then))


def count_chat(
    chat: api.VllmChatRequest, then: Callable[[api.VllmTokenCount], NextStep], *, window: int | None = None
) -> PreflightRequest:
    """`window`: the context, if it is smaller than the worker's."""
    body = _chat_body(chat, with_texts=False)
    return _preflight(api.TOKENIZE_PATH, body, api.VllmTokenCount, _within(window, then))


def count_conversation(
    model: str,
    messages: Sequence[api.VllmMessage],
    then: Callable[[api.VllmTokenCount], NextStep],
    *,
    window: int | None = None,
    **more: Any,
) -> PreflightRequest:
    """`more`: further fields of the request; those that are None are left out."""
    given = {name: value for name, value in more.items() if value is not None}
    body = {"model": model, "messages": messages, **given}
    return _preflight(api.TOKENIZE_PATH, body, api.VllmTokenCount, _within(window, then))


def count_longest(model: str, texts: Sequence[str], then: Callable[[int], NextStep], longest: int = 0) -> NextStep:
    """Count each text. `longest`: the most tokens so far."""
    if not texts:
        return then(longest)

    def on_count(count: api.VllmTokenCount) -> NextStep:
        return count_longest(model, texts[1:], then, max(longest, count.count))

    return count_text(model, texts[0], on_count)


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


def tokenize_text(
    model: str, text: str, then: Callable[[api.VllmTokenized], NextStep], *, window: int | None = None
) -> PreflightRequest:
    body = api.VllmTokenizeTextRequest(model, text)
    return _preflight(api.TOKENIZE_PATH, body, api.VllmTokenized, _within(window, then))


def count_text(
    model: str, text: str, then: Callable[[api.VllmTokenCount], NextStep], *, window: int | None = None
) -> PreflightRequest:
    body = api.VllmTokenizeTextRequest(model, text)
    return _preflight(api.TOKENIZE_PATH, body, api.VllmTokenCount, _within(window, then))


def detokenize(model: str, tokens: list[int], then: Callable[[api.VllmDetokenized], NextStep]) -> PreflightRequest:
    return _preflight(api.DETOKENIZE_PATH, api.VllmDetokenizeRequest(model, tokens), api.VllmDetokenized, then)


def _within(window: int | None, then: Callable[[CountT], NextStep]) -> Callable[[CountT], NextStep]:
    """Show `then` the smaller context."""
    if window is None:
        return then
    return lambda count: then(msgspec.structs.replace(count, max_model_len=min(window, count.max_model_len)))


def _preflight(path: str, body: Any, kind: type[T], then: Callable[[T], NextStep]) -> PreflightRequest:
    def on_response(response: bytes) -> NextStep:
        try:
            decoded = msgspec.json.decode(response, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Unable(f"the worker's response to {path} is invalid; check that it runs vLLM", status=501) from None
        return then(decoded)

    return PreflightRequest(path, api.encode(body), on_response)
