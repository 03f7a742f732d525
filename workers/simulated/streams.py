"""Streamed responses.

While the writer is blocked, and until an event has its tokens, tokens wait. `catch_up` writes several in one event, as
vLLM does for slow readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vllama_pool.workers.simulated.answers import Kind, Token
from vllama_pool.workers.simulated.counts import Counts
from vllama_pool.workers.simulated.errors import ApiError

DONE = b"data: [DONE]\n\n"
_ABORTED = Token(0, "", Kind.HIDDEN, b'""')


@dataclass(frozen=True, slots=True)
class ResponseHead:
    id: str
    created: int
    model: str
    fingerprint: str = ""
    prompts: tuple[Sequence[int], ...] = ()
    """Token ids."""
    choices: int = 1
    """Sequences of each prompt."""
    return_token_ids: bool = False
    logprobs: int | None = None
    """Alternatives per token, or None."""
    include_usage: bool = False
    continuous_usage: bool = False
    include_reasoning: bool = True
    reasoning: bool = False
    """Report reasoning tokens."""
    prompt_details: bool = False
    """Report cached tokens."""
    timings: bool = False
    """Report times."""
    limit: int = 0
    """Tokens that the answer may have."""
    max_calls: int | None = None
    automatic: bool = True
    """The model chose whether to call a tool."""
    echo: tuple[str, ...] = ()
    """Texts of the prompts."""
    prompt_only: bool = False
    """Echo the prompt without the answer."""
    stream_interval: int = 1
    """Tokens per event; the first and the last event come at once."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the request that the response repeats."""

    @property
    def sequences(self) -> int:
        return len(self.prompts) * self.choices

    def prompt(self, index: int) -> Sequence[int]:
        return self.prompts[index // self.choices]


class Writer(Protocol):
    @property
    def blocked(self) -> bool: ...

    def event(self, data: bytes) -> None: ...


class Stream:
    broken = False
    """The connection must be closed without an end of the stream."""

    def __init__(self, head: ResponseHead, counts: Counts, writer: Writer) -> None:
        self.head = head
        self.counts = counts
        self._writer = writer
        self._pending: list[list[Token]] = [[] for _ in range(head.sequences)]
        self._begun = [False] * head.sequences
        self._ended = [False] * head.sequences
        self._opened = False
        self._plain = False
        """Content needs no more than `plain`."""

    def begin(self) -> None:
        """Write what precedes the first token."""

    def token(self, index: int, token: Token, finish: str, stop_reason: str | None) -> None:
        self._open()
        pending = self._pending[index]
        due = not self._begun[index] or len(pending) + 1 >= self.head.stream_interval
        self._begun[index] = True
        if not finish:
            if not due or self._writer.blocked:
                pending.append(token)
                return
            if not pending and self._plain and token.kind is Kind.CONTENT:
                self.plain(index, token)
                return
        pending.append(token)
        self._flush(index, finish, stop_reason)
        if finish:
            self._end_sequence(index)

    def catch_up(self) -> None:
        for index in range(len(self._pending)):
            self._flush(index)

    def abort(self) -> None:
        """End with "abort", or without an event before the first token."""
        if not self._opened:
            self.empty()
            return
        for index, ended in enumerate(self._ended):
            if not ended:
                self._flush(index)
                self.group(index, [_ABORTED], "abort", None)
                self._end_sequence(index)

    def fail(self, error: ApiError) -> None:
        """End the stream with an error."""
        self._write(error.event)
        self._write(DONE)

    def empty(self) -> None:
        """End a stream without a token."""
        self._write(DONE)

    def open(self) -> None:
        """Write what precedes the first token and comes with it."""

    def plain(self, index: int, token: Token) -> None:
        raise NotImplementedError

    def group(self, index: int, group: Sequence[Token], finish: str, stop_reason: str | None) -> None:
        """Write tokens of the same kind."""
        raise NotImplementedError

    def end(self) -> None:
        """Write what follows the last token."""
        raise NotImplementedError

    def _open(self) -> None:
        if not self._opened:
            self._opened = True
            self.open()

    def _flush(self, index: int, finish: str = "", stop_reason: str | None = None) -> None:
        """One group per run of a kind."""
        pending, self._pending[index] = self._pending[index], []
        group: list[Token] = []
        for token in pending:
            if group and (token.kind is not group[0].kind or token.kind is Kind.CALL):
                self.group(index, group, "", None)
                group = []
            group.append(token)
        if group:
            self.group(index, group, finish, stop_reason)

    def _end_sequence(self, index: int) -> None:
        self._ended[index] = True
        if all(self._ended):
            self.end()

    def _write(self, data: bytes) -> None:
        self._writer.event(data)
