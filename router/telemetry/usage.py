"""Use of the models by each API key, for the metrics.

Labels are the names of configured keys and teams only. A key that is removed keeps its counters, which never go back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus

from vllama_pool.router.telemetry.families import Family, Histogram
from vllama_pool.router.telemetry.request_record import CLIENT_CLOSED_REQUEST, RequestRecord

_Series = dict[tuple[str, ...], float | Histogram]
LABELS = ("team", "key")
ERROR_CLASSES = ("refused", "limited", "server", "broken", "client_gone")
"""Refused: 4xx. Limited: 429. Server: 5xx. Broken: an answer that had begun. Client gone: it left or read nothing."""


class Usage:
    """Counts of one key's requests for workers."""

    __slots__ = ("completion_tokens", "errors", "in_flight", "prompt_tokens", "requests")

    def __init__(self) -> None:
        self.in_flight = self.requests = self.prompt_tokens = self.completion_tokens = 0
        self.errors = Counter[str]()


class UsageByKey:
    """Counts finished requests by team and key; both are "" for anonymous requests, which are all others."""

    def __init__(self) -> None:
        self.anonymous = Usage()
        self._by_key: dict[tuple[str, str], Usage] = {("", ""): self.anonymous}

    def of(self, team: str, key: str) -> Usage:
        """Return a key's counts, the same object each time."""
        usage = self._by_key.get((team, key))
        if usage is None:
            usage = self._by_key[team, key] = Usage()
        return usage

    def finished(self, record: RequestRecord) -> None:
        """Count a request with a key."""
        usage = self._by_key.get((record.team, record.client)) or self.of(record.team, record.client)
        usage.requests += 1
        usage.prompt_tokens += record.prompt_tokens
        usage.completion_tokens += record.completion_tokens
        if record.outcome != "complete":
            usage.errors[error_class(record.status, record.outcome)] += 1

    def set_anonymous(self, finished: Usage) -> None:
        """Set the counts of anonymous requests: all `finished` ones but those with a key."""
        anonymous = self.anonymous
        keyed = [usage for usage in self._by_key.values() if usage is not anonymous]
        anonymous.requests = finished.requests - sum(usage.requests for usage in keyed)
        anonymous.prompt_tokens = finished.prompt_tokens - sum(usage.prompt_tokens for usage in keyed)
        anonymous.completion_tokens = finished.completion_tokens - sum(usage.completion_tokens for usage in keyed)
        anonymous.errors = finished.errors - sum((usage.errors for usage in keyed), Counter[str]())

    def families(self) -> Iterator[Family]:
        used = {labels: usage for labels, usage in tuple(self._by_key.items()) if usage.requests or usage.in_flight}
        requests, tokens, errors, running = (_Series() for _ in range(4))
        for labels, usage in used.items():
            requests[labels] = usage.requests
            tokens[*labels, "prompt"], tokens[*labels, "completion"] = usage.prompt_tokens, usage.completion_tokens
            errors.update({(*labels, kind): count for kind, count in usage.errors.items()})
            running[labels] = usage.in_flight
        yield Family("vllama_key_requests_total", "Finished requests by API key.", "counter", LABELS, requests)
        yield Family("vllama_key_tokens_total", "Tokens by API key.", "counter", (*LABELS, "kind"), tokens)
        yield Family("vllama_key_errors_total", "Failed requests by API key.", "counter", (*LABELS, "class"), errors)
        yield Family("vllama_key_in_flight", "Requests for workers by API key.", "gauge", LABELS, running)


def error_class(status: int, outcome: str) -> str:
    """Return one of `ERROR_CLASSES` for a request that is not complete."""
    if status == CLIENT_CLOSED_REQUEST or outcome in ("client gone", "client stalled", "cancelled"):
        return "client_gone"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "limited"
    if status >= 500:
        return "server"
    return "refused" if status >= 400 else "broken"
