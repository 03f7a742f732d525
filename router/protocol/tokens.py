"""Questions about tokens, put to the worker that is to answer the request: only its tokenizer can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from vllama_pool.router.errors import Refused
from vllama_pool.router.protocol import openai
from vllama_pool.router.protocol.operation import Ask, Step

T = TypeVar("T")


def of_chat(chat: openai.ChatRequest, then: Callable[[openai.Tokenized], Step], *, with_texts: bool = False) -> Ask:
    """The tokens of the prompt that a chat request makes. `with_texts`: each token's text too."""
    return _ask(openai.TOKENIZE_PATH, _of(chat, with_texts), openai.Tokenized, then)


def count_chat(chat: openai.ChatRequest, then: Callable[[openai.Counted], Step]) -> Ask:
    """How many they are."""
    return _ask(openai.TOKENIZE_PATH, _of(chat, with_texts=False), openai.Counted, then)


def _of(chat: openai.ChatRequest, with_texts: bool) -> openai.TokenizeChat:
    settings: dict[str, bool | str] = {**(chat.chat_template_kwargs or {})}
    if settings and chat.reasoning_effort is not None:  # alone it is Mistral's, whose tokenizer takes no settings
        settings["reasoning_effort"] = chat.reasoning_effort
    return openai.TokenizeChat(chat.model, chat.messages, chat.tools, settings or None, with_texts)


def of_text(model: str, text: str, then: Callable[[openai.Tokenized], Step]) -> Ask:
    """The tokens of a plain prompt."""
    return _ask(openai.TOKENIZE_PATH, openai.TokenizeText(model, text), openai.Tokenized, then)


def count_text(model: str, text: str, then: Callable[[openai.Counted], Step]) -> Ask:
    """How many they are."""
    return _ask(openai.TOKENIZE_PATH, openai.TokenizeText(model, text), openai.Counted, then)


def to_text(model: str, tokens: list[int], then: Callable[[openai.Detokenized], Step]) -> Ask:
    return _ask(openai.DETOKENIZE_PATH, openai.Detokenize(model, tokens), openai.Detokenized, then)


def _ask(path: str, body: msgspec.Struct, kind: type[T], then: Callable[[T], Step]) -> Ask:
    def answered(answer: bytes) -> Step:
        try:
            found = msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(f"the worker's answer to {path} is not vLLM's: {error}", status=501) from None
        return then(found)

    return Ask(path, openai.encode(body), answered)
