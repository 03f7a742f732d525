"""Assembles tool calls from vLLM's fragments (R081, R082).

Index, id and name together tell which call a fragment belongs to: some parsers put two calls under one index, leave the
index out, or repeat a call at its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from vllama_pool.router.protocol.vllm.api import VllmToolCallDelta

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_EMPTY = msgspec.Raw(b"{}")
_MAX_ENCODINGS = 4
"""JSON strings around the arguments."""
_ENDS = ("}", '"')


class ResponseFunction(msgspec.Struct, frozen=True):
    index: int
    name: str
    arguments: msgspec.Raw


class ResponseToolCall(msgspec.Struct, frozen=True):
    id: str
    function: ResponseFunction


class InvalidToolCall(Exception):
    """Says what is wrong with the call."""


class ToolCalls:
    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, deltas: Sequence[VllmToolCallDelta]) -> None:
        """Add the fragments of one event."""
        event: list[_Call] = []
        for delta in deltas:
            id, name, text = delta.id or "", "", ""
            if (function := delta.function) is not None:
                name, text = function.name or "", _text(function.arguments)
            call = self._of(delta.index, id, name, event)
            call.id = call.id or id
            call.name = call.name or name
            if text:
                call.texts.append(text)
            event.append(call)

    def _of(self, index: int | None, id: str, name: str, event: Sequence[_Call]) -> _Call:
        call = self._find(index, id, name)
        if call is not None and not (name and call.name):
            return call
        if call is not None and (id or call not in event):
            if not call.is_complete():
                return call
            return self._begin(index, repeats=call)
        return self._begin(index)

    def _find(self, index: int | None, id: str, name: str) -> _Call | None:
        """Return the latest call that the fragment fits, of the same id if there is one."""
        fitting = [call for call in self._calls if call.fits(index, id, name)]
        if id:
            fitting = [call for call in fitting if call.id == id] or fitting
        if id and not (fitting or name):  # some parsers count the fragments in `index`
            fitting = [call for call in self._calls if call.id == id]
        return fitting[-1] if fitting else None

    def _begin(self, index: int | None, repeats: _Call | None = None) -> _Call:
        call = _Call(index, repeats)
        self._calls.append(call)
        return call

    def complete(self, *, truncated: bool) -> list[ResponseToolCall]:
        """Raises InvalidToolCall. `truncated`: drop the last call if it is invalid."""
        calls = [call for call in self._calls if call.name or call.texts]
        result: list[ResponseToolCall] = []
        ids: set[str] = set()
        for call in calls:
            try:
                arguments = call.arguments()
            except InvalidToolCall:
                if truncated and call is calls[-1]:
                    break
                raise
            if call.is_repetition(arguments):
                continue
            number = len(result)
            seed = call.id if call.id and call.id not in ids else f"{number} {call.name} {''.join(call.texts)}"
            ids.add(call.id)
            result.append(ResponseToolCall(_short_id(seed), ResponseFunction(number, call.name, arguments)))
        return result


class _Call:
    __slots__ = ("id", "index", "name", "repeats", "texts")

    def __init__(self, index: int | None, repeats: _Call | None) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.texts: list[str] = []
        self.repeats = repeats
        """Complete call that this one may repeat."""

    def fits(self, index: int | None, id: str, name: str) -> bool:
        return (
            (index is None or self.index is None or index == self.index)
            and (not id or not self.id or id == self.id)
            and (not name or not self.name or name == self.name)
        )

    def is_complete(self) -> bool:
        if not self.texts or not self.texts[-1].rstrip().endswith(_ENDS):
            return False
        try:
            _joined(self.texts)
        except InvalidToolCall:
            return False
        return True

    def arguments(self) -> msgspec.Raw:
        """Raises InvalidToolCall."""
        if not self.name:
            raise InvalidToolCall("a tool call has no name")
        return _joined(self.texts)

    def is_repetition(self, arguments: msgspec.Raw) -> bool:
        if self.repeats is None:
            return False
        return not self.texts or bytes(arguments) == bytes(self.repeats.arguments())


def _text(arguments: Any) -> str:
    """vLLM sends a string, some other servers the object."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else msgspec.json.encode(arguments).decode()


def _joined(texts: Sequence[str]) -> msgspec.Raw:
    """Join the fragments. If the result is not an object, look for repeated arguments. Raises InvalidToolCall."""
    whole = "".join(texts)
    try:
        return _object(whole)
    except InvalidToolCall:
        half = whole[: len(whole) // 2]
        if len(texts) > 1 and half + half == whole:
            return _object(half)
        if _is_restated(texts):
            return _object(texts[-1])
        raise


def _is_restated(texts: Sequence[str]) -> bool:
    """True if the last fragment holds all that the earlier ones hold."""
    *earlier, last = texts
    before = "".join(earlier)
    if last.startswith(before) or all(last.startswith(text) for text in earlier):
        return True
    try:
        return bytes(_object(before)) == bytes(_object(last))
    except InvalidToolCall:
        return False


def _object(text: str) -> msgspec.Raw:
    """Unwrap strings, and remove line breaks, which NDJSON forbids. Raises InvalidToolCall."""
    try:
        for _ in range(_MAX_ENCODINGS):
            if not text.strip():
                return _EMPTY
            compact = msgspec.json.format(text.encode(), indent=-1)
            if compact == b"null":
                return _EMPTY
            if not compact.startswith(b'"'):
                break
            text = msgspec.json.decode(compact, type=str)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        compact = b""
    if not compact.startswith(b"{"):
        raise InvalidToolCall("the arguments of a tool call are not a JSON object")
    return msgspec.Raw(compact)


def _short_id(seed: str) -> str:
    """Independent of how the stream was split."""
    number = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest())
    letters = []
    for _ in range(8):
        number, digit = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[digit])
    return "call_" + "".join(letters)
