"""Translates the events of a continuation into those of the answer that it continues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.sse import EventSplitter, EventTooLong, is_whole, payloads

_DONE = b"[DONE]"
_HEAD = ("id", "object", "created", "model")


class Seam:
    """Events of /v1/completions go in; those of the first worker's stream come out, with the counts of both halves.

    Emits the text that the first worker held back. Looks for stop strings as vLLM does, in the text of both halves.
    """

    continues: ClassVar[bool] = True

    __slots__ = (
        *(
            "_chat",
            "_head",
            "_held",
            "_keeps_stop",
            "_min_tokens",
            "_over",
            "_prompt_tokens",
            "_repeats",
            "_sent",
            "_shows_ids",
        ),
        *("_splitter", "_stops", "_text", "_within_event", "cut_off", "tokens"),
    )

    def __init__(
        self,
        head: bytes,
        *,
        chat: bool,
        prompt_tokens: int,
        tokens: int,
        text: str,
        sent: str,
        stops: Sequence[str] = (),
        keeps_stop: bool = False,
        min_tokens: int = 0,
        shows_ids: bool = False,
    ) -> None:
        """`head`: an event of the first stream, in JSON. `tokens`, `text`: of the answer before the seam.

        `sent`: the text that the client's stream has. `keeps_stop`: the answer ends with the stop string, not before
        it. `min_tokens`: of the answer, before which stop strings do not count. `shows_ids`: events have token ids.
        """
        fields = msgspec.json.decode(head)
        self._head: dict[str, Any] = {name: fields[name] for name in _HEAD if name in fields}
        self._chat = chat
        self._prompt_tokens = prompt_tokens
        self.tokens = tokens
        """Of both halves so far."""
        self._text = text
        self._sent = len(sent)
        self._repeats = sent if len(sent) > len(text) else ""
        """Text that the worker has to generate again."""
        self._stops = stops
        self._keeps_stop = keeps_stop
        self._min_tokens = min_tokens
        self._shows_ids = shows_ids
        self._held = 0 if keeps_stop or not stops else max(map(len, stops)) - 1
        """Characters at the end that may begin a stop string."""
        self._splitter: EventSplitter | None = None
        self._within_event = False
        self._over = False
        self.cut_off = False
        """The answer is complete, and the worker goes on."""

    def feed(self, data: bytes) -> bytes:
        if self._over:
            return b""
        if self._within_event or not is_whole(data):
            splitter = self._splitter = self._splitter or EventSplitter()
            try:
                data = splitter.feed(data)
            except EventTooLong:
                self._over = True
                return _error("the worker sent an event that is too long")
            self._within_event = splitter.within_event
        out = b""
        for payload in payloads(data):
            out += self._translate(payload)
            if self._over:
                break
        return out

    def counts(self) -> bytes:
        """Return what follows an answer's finish."""
        return self._usage({}) + self._end()

    def close(self, reason: str) -> bytes:
        """Return the end of an answer that needs no worker."""
        return self._finish(reason, None, []) + self.counts()

    def _translate(self, payload: bytes) -> bytes:
        if payload == _DONE:
            return self._end()
        try:
            event = api.decode_event(payload)
        except api.INVALID_JSON:
            return _event_of(payload)  # the translator knows what to say
        if event.error is not None:
            return _event_of(payload)
        out = b"".join(map(self._add, event.choices or ()))
        if event.usage is not None and not event.choices and not self._over:
            out += self._usage(msgspec.json.decode(payload)["usage"])
        return out

    def _add(self, choice: api.VllmChoice) -> bytes:
        if self._over:
            return b""
        old, ids = len(self._text), choice.token_ids or []
        self._text += choice.text or ""
        self.tokens += len(ids)
        if self._repeats:
            if not (self._repeats.startswith(self._text) or self._text.startswith(self._repeats)):
                self._over = True
                return _error("another worker continued the answer with another text")
            if len(self._text) >= len(self._repeats):
                self._repeats = ""
        if self.tokens > self._min_tokens and (stop := self._stop_after(old)) is not None:
            self.cut_off = True
            return self._finish("stop", stop, ids) + self.counts()
        if choice.finish_reason is not None:
            return self._finish(choice.finish_reason, choice.stop_reason, ids)
        return self._event(self._next_text(self._held), ids)

    def _stop_after(self, old: int) -> str | None:
        """Return the stop string that ends first in the text after `old` characters, and cut the text there."""
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            found = self._text.find(stop, max(0, old + 1 - len(stop)))
            if found >= 0 and (best is None or found + len(stop) < best[0]):
                best = found + len(stop), found, stop
        if best is None:
            return None
        end, start, stop = best
        self._text = self._text[: end if self._keeps_stop else start]
        return stop

    def _next_text(self, held: int) -> str:
        end = len(self._text) - held
        if end <= self._sent:
            return ""
        text = self._text[self._sent : end]
        self._sent = end
        return text

    def _finish(self, reason: str, stop_reason: int | str | None, ids: list[int]) -> bytes:
        return self._event(self._next_text(0), ids, reason, stop_reason)

    def _event(
        self, text: str, ids: list[int], reason: str | None = None, stop_reason: int | str | None = None
    ) -> bytes:
        choice: dict[str, Any] = {"index": 0}
        if self._chat:
            choice["delta"] = {"content": text}
        else:
            choice["text"] = text
        choice |= {"logprobs": None, "finish_reason": reason}
        if reason is not None or not self._chat:
            choice["stop_reason"] = stop_reason
        if not self._chat:
            choice["prompt_token_ids"] = None
        choice["token_ids"] = ids if self._shows_ids else None
        return self._encoded({"choices": [choice]})

    def _usage(self, usage: dict[str, Any]) -> bytes:
        """Return the usage of both halves. `usage`: the second one's; its own prompt holds tokens of the first."""
        if (second := usage.get("prompt_tokens")) is not None:
            self.tokens = second - self._prompt_tokens + (usage.get("completion_tokens") or 0)
        prompt, tokens = self._prompt_tokens, self.tokens
        merged = {**usage, "prompt_tokens": prompt, "total_tokens": prompt + tokens, "completion_tokens": tokens}
        return self._encoded({"choices": [], "usage": merged})

    def _end(self) -> bytes:
        self._over = True
        return _event_of(_DONE)

    def _encoded(self, fields: dict[str, Any]) -> bytes:
        return _event_of(api.encode({**self._head, **fields}))


def _event_of(payload: bytes) -> bytes:
    return b"data: %b\n\n" % payload


def _error(text: str) -> bytes:
    return _event_of(api.encode({"error": {"message": text, "type": "InternalServerError", "code": 502}}))
