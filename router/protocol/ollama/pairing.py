"""Which tool call each tool's result answers (R077, R078, trap 2).

Ollama's clients often send neither ids nor names; vLLM's chat templates need ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllama_pool.router.protocol.ollama.requests import CalledTool, ChatMessage


@dataclass(frozen=True, slots=True)
class Pairing:
    """By position in the list of messages."""

    calls: dict[int, list[str]]
    """Ids of an assistant message's tool calls, in order."""
    results: dict[int, str]
    """The id that a tool message answers."""


def pair(messages: Sequence[ChatMessage]) -> Pairing:
    """Which call each tool message answers: by id, then by name, then by order.

    Each run of tool messages is settled as a whole, so that a result without an id never takes the call of one that
    has it. Calls of the latest assistant message come first. A result without any open call keeps its own id, or
    gets a new one.
    """
    ids = _Ids(messages)
    calls: dict[int, list[str]] = {}
    results: dict[int, str] = {}
    open_calls = _OpenCalls()
    run: list[int] = []
    for position, message in enumerate(messages):
        if message.role.lower() == "tool":
            run.append(position)
            continue
        _settle(messages, run, open_calls, results, ids)
        run = []
        if message.tool_calls:
            calls[position] = ids.of(message.tool_calls)
            open_calls.add(calls[position], message.tool_calls)
    _settle(messages, run, open_calls, results, ids)
    return Pairing(calls, results)


def _settle(
    messages: Sequence[ChatMessage],
    run: Sequence[int],
    open_calls: _OpenCalls,
    results: dict[int, str],
    ids: _Ids,
) -> None:
    """Pair one run of tool messages with open calls, and close those."""
    waiting = list(run)
    for by in ("id", "name", "order"):
        left: list[int] = []
        for position in waiting:
            message = messages[position]
            hint = {"id": message.tool_call_id, "name": message.tool_name}.get(by, "")
            found = None if hint is None else open_calls.take(by, hint)
            if found is None:
                left.append(position)
            else:
                results[position] = found
        waiting = left
    for position in waiting:
        results[position] = messages[position].tool_call_id or ids.invent()


@dataclass(slots=True)
class _Call:
    id: str
    open: bool = True


class _OpenCalls:
    """Calls without a result, found by id, by name, or by order alone, at a cost that does not grow with their number:
    an agent's conversation has thousands."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[str, str], list[list[_Call]]] = {}
        """For each hint the calls of one message after the other, each message's last call first; closed ones among
        them."""

    def add(self, ids: Sequence[str], calls: Sequence[CalledTool]) -> None:
        """Open one message's calls."""
        round_: dict[tuple[str, str], list[_Call]] = {}
        for id, called in zip(reversed(ids), reversed(calls), strict=True):
            call = _Call(id)
            for hint in (("id", id), ("name", called.function.name), ("order", "")):
                round_.setdefault(hint, []).append(call)
        for hint, queue in round_.items():
            self._rounds.setdefault(hint, []).append(queue)

    def take(self, by: str, hint: str) -> str | None:
        """Close the first call that fits, of the latest message that has one. Returns its id."""
        rounds = self._rounds.get((by, hint), [])
        while rounds:
            while rounds[-1]:
                call = rounds[-1].pop()
                if call.open:
                    call.open = False
                    return call.id
            rounds.pop()
        return None


class _Ids:
    """Ids for tool calls: the client's own, else invented ones that it uses nowhere."""

    def __init__(self, messages: Sequence[ChatMessage]) -> None:
        self._given = {call.id for message in messages for call in message.tool_calls or () if call.id}
        self._given.update(message.tool_call_id for message in messages if message.tool_call_id)
        self._next = 0

    def of(self, calls: Sequence[CalledTool]) -> list[str]:
        """Unique within the message. Over the conversation clients may use an id again, and do."""
        result: dict[str, None] = {}
        for call in calls:
            result[call.id if call.id and call.id not in result else self.invent()] = None
        return list(result)

    def invent(self) -> str:
        while True:
            id = f"call_{self._next:08d}"
            self._next += 1
            if id not in self._given:
                return id
