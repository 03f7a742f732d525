"""Assembles tool calls from vLLM's fragments (R081, R082)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from vllama_pool.router.protocol.vllm.api import VllmToolCallDelta

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


class ResponseFunction(msgspec.Struct, frozen=True):
    index: int
    name: str
    arguments: msgspec.Raw


class ResponseToolCall(msgspec.Struct, frozen=True):
    id: str
    function: ResponseFunction


class InvalidArguments(Exception):
    pass


class ToolCalls:
    """Joins fragments by vLLM's index."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: dict[int, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, deltas: Sequence[VllmToolCallDelta]) -> None:
        for delta in deltas:
            call = self._calls.setdefault(delta.index, ["", "", ""])
            call[0] = call[0] or delta.id or ""
            if delta.function is not None:
                call[1] = call[1] or delta.function.name or ""
                call[2] += delta.function.arguments or ""

    def complete(self, *, truncated: bool) -> list[ResponseToolCall]:
        """Raises InvalidArguments. `truncated`: drop the last call if its arguments are invalid."""
        result: list[ResponseToolCall] = []
        for number, (id, name, text) in enumerate(self._calls.values()):
            try:
                arguments = _compact(text)
            except InvalidArguments:
                if truncated and number == len(self._calls) - 1:
                    break
                raise
            seed = id or f"{number} {name} {text}"
            result.append(ResponseToolCall(_short_id(seed), ResponseFunction(number, name, arguments)))
        return result


def _compact(text: str) -> msgspec.Raw:
    """Remove line breaks, which NDJSON forbids."""
    if not text.strip():
        return msgspec.Raw(b"{}")
    try:
        compact = msgspec.json.format(text.encode(), indent=-1)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidArguments(text) from None
    if not compact.startswith(b"{"):
        raise InvalidArguments(text)
    return msgspec.Raw(compact)


def _short_id(seed: str) -> str:
    """Independent of how the stream was split."""
    number = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest())
    letters = []
    for _ in range(8):
        number, digit = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[digit])
    return "call_" + "".join(letters)
