"""What is told of every request once it has ended: one record, to the metrics and to the log.

Never prompts, answers, or keys; never an error's text either, since vLLM's messages can quote the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class RequestRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request, filled in as it is served. Times are in milliseconds."""

    id: str
    operation: str
    model: str = ""
    """The model as the catalogue knows it; empty when unknown, so that labels stay few."""
    asked: str = ""
    """The model's name as the client spelled it, cut to 120 characters."""
    served: str = ""
    """vLLM's name of the model that answered."""
    worker: str = ""
    attempts: int = 0
    failures: list[str] = []
    """The kinds of the attempts that gave no answer, in order."""
    status: int = 0
    """The HTTP status; 499 when the client left before there was one."""
    outcome: str = ""
    """"complete", "refused", "lost", "failed", "client gone", "client stalled", "error"."""
    stream: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """vLLM's count where the answer is complete, else the content events so far."""
    discarded_tokens: int = 0
    """Tokens that attempts generated which gave no answer: the client never got them."""
    done_reason: str = ""
    first_ms: float = 0.0
    """From the request's arrival to the first content event."""
    total_ms: float = 0.0
    client: str = ""
    """The name of the API key, where one was given."""


class Observer(Protocol):
    """Takes the record of each request that has ended. Must not block or raise."""

    def finished(self, record: RequestRecord) -> None: ...


class Observers:
    """Tells several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def finished(self, record: RequestRecord) -> None:
        for observer in self._observers:
            observer.finished(record)
