"""Ids that link tool results with their calls (R077, R078).

Ollama's clients often send neither ids nor names; vLLM's templates need ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllama_pool.router.protocol.ollama.requests import CalledTool, ChatMessage


@dataclass(frozen=True, slots=True)
class ToolCallIds:
    """Call ids by the message's position."""

    calls: dict[int, list[str]]
    results: dict[int, str]


def match_results(messages: Sequence[ChatMessage]) -> ToolCallIds:
    """Match results with calls by id, then name, then order, the latest assistant message first.

    Consecutive results are matched together: one without an id must not get the call of one with an id.
    """
    ids = _IdGenerator(messages)
    calls: dict[int, list[str]] = {}
    results: dict[int, str] = {}
    open_calls = _OpenCalls()
    run: list[int] = []
    for position, message in enumerate(messages):
        if message.role.lower() == "tool":
            run.append(position)
            continue
        _match_run(messages, run, open_calls, results, ids)
        run = []
        if message.tool_calls:
            calls[position] = ids.assign(message.tool_calls)
            open_calls.add(calls[position], message.tool_calls)
    _match_run(messages, run, open_calls, results, ids)
    return ToolCallIds(calls, results)


def _match_run(
    messages: Sequence[ChatMessage],
    run: Sequence[int],
    open_calls: _OpenCalls,
    results: dict[int, str],
    ids: _IdGenerator,
) -> None:
    unmatched = list(run)
    for by in ("id", "name", "order"):
        still_unmatched: list[int] = []
        for position in unmatched:
            message = messages[position]
            hint = {"id": message.tool_call_id, "name": message.tool_name}.get(by, "")
            id = None if hint is None else open_calls.close(by, hint)
            if id is None:
                still_unmatched.append(position)
            else:
                results[position] = id
        unmatched = still_unmatched
    for position in unmatched:
        results[position] = messages[position].tool_call_id or ids.new()


@dataclass(slots=True)
class _Call:
    id: str
    open: bool = True


class _OpenCalls:
    """Finds open calls in constant time: conversations have thousands."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[str, str], list[list[_Call]]] = {}
        """The calls of each message by hint, last call first. Closed calls stay in the lists."""

    def add(self, ids: Sequence[str], calls: Sequence[CalledTool]) -> None:
        round_: dict[tuple[str, str], list[_Call]] = {}
        for id, called in zip(reversed(ids), reversed(calls), strict=True):
            call = _Call(id)
            for hint in (("id", id), ("name", called.function.name), ("order", "")):
                round_.setdefault(hint, []).append(call)
        for hint, queue in round_.items():
            self._rounds.setdefault(hint, []).append(queue)

    def close(self, by: str, hint: str) -> str | None:
        """Close the latest message's first match, and return its id."""
        rounds = self._rounds.get((by, hint), [])
        while rounds:
            while rounds[-1]:
                call = rounds[-1].pop()
                if call.open:
                    call.open = False
                    return call.id
            rounds.pop()
        return None


class _IdGenerator:
    """Creates ids that the client does not use."""

    def __init__(self, messages: Sequence[ChatMessage]) -> None:
        self._client_ids = {call.id for message in messages for call in message.tool_calls or () if call.id}
        self._client_ids.update(message.tool_call_id for message in messages if message.tool_call_id)
        self._next = 0

    def assign(self, calls: Sequence[CalledTool]) -> list[str]:
        """Keep the client's ids unless they repeat within the message."""
        result: dict[str, None] = {}
        for call in calls:
            result[call.id if call.id and call.id not in result else self.new()] = None
        return list(result)

    def new(self) -> str:
        while True:
            id = f"call_{self._next:08d}"
            self._next += 1
            if id not in self._client_ids:
                return id
