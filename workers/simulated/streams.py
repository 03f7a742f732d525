"""Streamed responses.

While `blocked()`, and until an event has its tokens, tokens wait. `catch_up` writes several in one event, as vLLM does
for slow readers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from vllama_pool.workers.simulated.answers import Kind, Token
from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.logprobs import chat_logprobs, completion_logprobs

DONE = b"data: [DONE]\n\n"
encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class ResponseHead:
    id: str
    created: int
    model: str
    fingerprint: str
    prompt_ids: Sequence[int]
    return_token_ids: bool = False
    logprobs: int | None = None
    """Alternatives per token, or None."""
    include_usage: bool = False
    continuous_usage: bool = False
    include_reasoning: bool = True
    stream_interval: int = 1
    """Tokens per event; the first and the last event come at once."""


Usage = Callable[[], dict[str, Any]]


class Stream:
    object = ""
    events = 0

    def __init__(
        self,
        head: ResponseHead,
        write: Callable[[bytes], None],
        blocked: Callable[[], bool],
        *,
        usage: Usage,
        final_usage: Usage,
        metrics: Callable[[], dict[str, Any] | None],
    ) -> None:
        self.head = head
        self._write = write
        self._blocked = blocked
        self._usage = usage
        self._final_usage = final_usage
        self._metrics = metrics
        self._pending: list[Token] = []
        self._first = True
        self._prefix = b'data: {"id":%b,"object":"%b","created":%d,"model":%b,"choices":[{"index":0,' % (
            encode(head.id),
            self.object.encode(),
            head.created,
            encode(head.model),
        )
        self._plain = not (head.return_token_ids or head.logprobs is not None or head.continuous_usage)

    def token(self, token: Token, finish: str, stop_reason: str | None) -> None:
        due = self._first or len(self._pending) + 1 >= self.head.stream_interval
        if self._first:
            self._first = False
            self.open()
        if not finish:
            if not due or self._blocked():
                self._pending.append(token)
                return
            if not self._pending and self._plain and token.kind is Kind.CONTENT:
                self.plain(token)
                return
        self._pending.append(token)
        self.catch_up(finish, stop_reason)
        if finish:
            self._end()

    def catch_up(self, finish: str = "", stop_reason: str | None = None) -> None:
        """One event per run of a kind."""
        pending, self._pending = self._pending, []
        group: list[Token] = []
        for token in pending:
            if group and (token.kind is not group[0].kind or token.kind is Kind.CALL):
                self._group(group, "", None)
                group = []
            group.append(token)
        if group:
            self._group(group, finish, stop_reason)

    def fail(self, error: ApiError) -> None:
        """End the stream with an error."""
        self._write(error.event)
        self._write(DONE)

    def abort(self) -> None:
        """End with "abort", or without an event before the first token."""
        if self._first:
            self._write(DONE)
            return
        self.catch_up()
        self._group([Token(0, "", Kind.HIDDEN, b'""')], "abort", None)
        self._end()

    def open(self) -> None: ...

    def plain(self, token: Token) -> None:
        raise NotImplementedError

    def event(self, group: Sequence[Token], finish: str, stop_reason: str | None) -> dict[str, Any] | None:
        """Return the choice without its index, or None for no event."""
        raise NotImplementedError

    def _group(self, group: Sequence[Token], finish: str, stop_reason: str | None) -> None:
        choice = self.event(group, finish, stop_reason)
        if choice is None:
            return
        self.write(choice, {}, last=bool(finish))

    def write(self, choice: dict[str, Any], extra: dict[str, Any], *, last: bool = False) -> None:
        fields: dict[str, Any] = {"choices": [{"index": 0, **choice}]}
        if self.head.continuous_usage and self.head.include_usage:
            fields["usage"] = self._usage()
        if last and not self.head.include_usage:
            fields["system_fingerprint"] = self.head.fingerprint
        self._write_fields({**fields, **extra})

    def _end(self) -> None:
        if self.head.include_usage:
            fields = {
                "choices": [],
                "usage": self._final_usage(),
                "system_fingerprint": self.head.fingerprint,
            }
            metrics = self._metrics()
            if metrics is not None:
                fields["metrics"] = metrics
            self._write_fields(fields)
        self._write(DONE)

    def _write_fields(self, fields: dict[str, Any]) -> None:
        head = self.head
        whole = {
            "id": head.id,
            "object": self.object,
            "created": head.created,
            "model": head.model,
            **fields,
        }
        self._write(b"data: %b\n\n" % encode(whole))

    def _ids(self, group: Sequence[Token]) -> list[int] | None:
        return [token.id for token in group] if self.head.return_token_ids else None


class ChatStream(Stream):
    object = "chat.completion.chunk"

    def __init__(self, *args: Any, call_id: Callable[[], str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._call_id = call_id
        self._delta = self._prefix + b'"delta":{"content":'
        self._tail = b'},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
        if not self.head.include_reasoning:
            self._tail = b',"reasoning":null' + self._tail

    def open(self) -> None:
        ids = list(self.head.prompt_ids) if self.head.return_token_ids else None
        extra: dict[str, Any] = {"prompt_token_ids": ids, "prompt_text": None}
        if self.head.continuous_usage and self.head.include_usage:
            usage = self._usage()
            extra["usage"] = {**usage, "total_tokens": usage["prompt_tokens"], "completion_tokens": 0}
        choice = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        self.write(choice, extra)

    def plain(self, token: Token) -> None:
        self._write(self._delta + token.json + self._tail)

    def event(self, group: Sequence[Token], finish: str, stop_reason: str | None) -> dict[str, Any] | None:
        delta = self._make_delta(group)
        hidden = not self.head.include_reasoning and group[0].kind in (Kind.REASONING, Kind.HIDDEN)
        if not delta and not finish and (self._plain or hidden):
            return None
        choice: dict[str, Any] = {"delta": delta, "logprobs": None}
        if self.head.logprobs is not None and self.head.include_reasoning:
            choice["logprobs"] = {"content": chat_logprobs(group, self.head.logprobs)}
        choice["finish_reason"] = finish or None
        if finish:
            choice["stop_reason"] = stop_reason
        choice["token_ids"] = self._ids(group)
        return choice

    def _make_delta(self, group: Sequence[Token]) -> dict[str, Any]:
        kind = group[0].kind
        text = "".join(token.text for token in group)
        if kind is Kind.CONTENT:
            return {"content": text} if self.head.include_reasoning else {"content": text, "reasoning": None}
        if kind is Kind.REASONING:
            return {"reasoning": text} if self.head.include_reasoning else {}
        if kind is Kind.CALL:
            call = {"id": self._call_id(), "type": "function", "index": 0, "function": {"name": text}}
            return {"content": None, "tool_calls": [call]}
        if kind is Kind.ARGUMENTS:
            return {"content": None, "tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        return {}


class CompletionStream(Stream):
    object = "text_completion"

    def __init__(self, *args: Any, echo: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._echo = echo
        self._offset = 0
        self._prompt_sent = not (echo or self.head.return_token_ids)
        self._plain = self._plain and not echo
        self._text = self._prefix + b'"text":'
        self._tail = (
            b',"logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}\n\n'
        )

    def plain(self, token: Token) -> None:
        self._write(self._text + token.json + self._tail)

    def event(self, group: Sequence[Token], finish: str, stop_reason: str | None) -> dict[str, Any] | None:
        text = self._echo + "".join(token.text for token in group)
        self._echo = ""
        choice: dict[str, Any] = {"text": text, "logprobs": None}
        if self.head.logprobs is not None:
            choice["logprobs"] = completion_logprobs(group, self.head.logprobs, self._offset)
        self._offset += len(text)
        choice["finish_reason"] = finish or None
        choice["stop_reason"] = stop_reason
        choice["prompt_token_ids"] = None if self._prompt_sent else list(self.head.prompt_ids)
        self._prompt_sent = True
        choice["token_ids"] = self._ids(group)
        return choice
