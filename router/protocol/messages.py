"""Ollama's messages and tools in vLLM's form, and which result answers which tool call (R071-R079)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from config.defaults import Defaults
from router.protocol import openai
from router.protocol.images import sniff
from router.protocol.requests import CalledTool, ChatMessage, DeclaredTool, brought


def with_defaults(messages: Sequence[ChatMessage], defaults: Defaults) -> Sequence[ChatMessage]:
    """A request's messages after what its model brings: messages, and in front of all a system text, unless the
    request begins with one of its own (R085). That one stays in front, where chat templates want it."""
    if not (defaults.system or defaults.messages):
        return messages
    if messages and messages[0].role.lower() == "system":
        return [messages[0], *brought(defaults.messages), *messages[1:]]
    system = [ChatMessage("system", defaults.system)] if defaults.system else []
    return [*system, *brought(defaults.messages), *messages]


def translate(messages: Sequence[ChatMessage]) -> list[openai.Message]:
    """Every message, in order. Tool calls get ids, and each result the id of the call that it answers."""
    pairing: _Pairing | None = None
    result: list[openai.Message] = []
    for position, message in enumerate(messages):
        role = message.role.lower()
        if message.tool_calls or role == "tool":
            pairing = pairing or pair(messages)
            result.append(_with_tools(message, role, position, pairing))
        elif message.images:
            result.append(openai.Message(role, parts(message.content or "", message.images)))
        else:
            result.append(openai.Message(role, message.content or "", message.thinking or None))
    return result


def _with_tools(message: ChatMessage, role: str, position: int, pairing: _Pairing) -> openai.Message:
    text = message.content or ""
    content = parts(text, message.images) if message.images else text
    if role == "tool":
        return openai.Message(role, content, tool_call_id=pairing.results[position], name=message.tool_name or None)
    calls = [
        openai.ToolCall(id, openai.FunctionCall(call.function.name, bytes(call.function.arguments).decode()))
        for id, call in zip(pairing.calls[position], message.tool_calls or (), strict=True)
    ]
    return openai.Message(role, content, message.thinking or None, calls)


def parts(text: str, images: Sequence[str]) -> list[openai.Part]:
    """Images (and audio) go in front of the text, as Ollama's templates put them."""
    result = [_media(image) for image in images]
    if text:
        result.append(openai.Part("text", text=text))
    return result


def _media(data: str) -> openai.Part:
    data = data.replace("\n", "").replace("\r", "")
    kind = sniff(data)
    if kind.startswith("audio/"):
        return openai.Part("input_audio", input_audio=openai.InputAudio(data, kind.removeprefix("audio/")))
    return openai.Part("image_url", image_url=openai.ImageUrl(f"data:{kind};base64,{data}"))


def tools(declared: Sequence[DeclaredTool] | None) -> list[openai.Tool] | None:
    """`tools: []` is none: vLLM refuses an empty list."""
    if not declared:
        return None
    return [
        openai.Tool(
            openai.ToolFunction(
                tool.function.name,
                tool.function.description,
                None if bytes(tool.function.parameters) in (b"", b"null") else tool.function.parameters,
            )
        )
        for tool in declared
    ]


@dataclass(frozen=True, slots=True)
class _Pairing:
    """By position in the list of messages."""

    calls: dict[int, list[str]]
    """Ids of an assistant message's tool calls, in order."""
    results: dict[int, str]
    """The id that a tool message answers."""


def pair(messages: Sequence[ChatMessage]) -> _Pairing:
    """Which call each tool message answers: by id, then by name, then by order.

    Clients often send neither ids nor names. Each run of tool messages is settled as a whole, so that a
    result without an id never takes the call of one that has it. Calls of the latest assistant message come
    first. A result without any open call keeps its own id, or gets a new one.
    """
    ids = _Ids(messages)
    calls: dict[int, list[str]] = {}
    results: dict[int, str] = {}
    open_calls: list[tuple[str, str]] = []
    run: list[int] = []
    for position, message in enumerate(messages):
        if message.role.lower() == "tool":
            run.append(position)
            continue
        _settle(messages, run, open_calls, results, ids)
        run = []
        if message.tool_calls:
            calls[position] = ids.of(message.tool_calls)
            names = [call.function.name for call in message.tool_calls]
            open_calls = [*zip(calls[position], names, strict=True), *open_calls]
    _settle(messages, run, open_calls, results, ids)
    return _Pairing(calls, results)


def _settle(
    messages: Sequence[ChatMessage],
    run: Sequence[int],
    open_calls: list[tuple[str, str]],
    results: dict[int, str],
    ids: _Ids,
) -> None:
    """Pair one run of tool messages with open calls, and close those."""
    waiting = list(run)
    for by in ("id", "name", "order"):
        left: list[int] = []
        for position in waiting:
            found = _find(open_calls, messages[position], by)
            if found is None:
                left.append(position)
            else:
                results[position] = open_calls.pop(found)[0]
        waiting = left
    for position in waiting:
        results[position] = messages[position].tool_call_id or ids.invent()


def _find(open_calls: Sequence[tuple[str, str]], message: ChatMessage, by: str) -> int | None:
    for index, (id, name) in enumerate(open_calls):
        if by == "order" or (by == "id" and id == message.tool_call_id) or (by == "name" and name == message.tool_name):
            return index
    return None


class _Ids:
    """Ids for tool calls: the client's own, else invented ones that it uses nowhere."""

    def __init__(self, messages: Sequence[ChatMessage]) -> None:
        self._given = {call.id for message in messages for call in message.tool_calls or () if call.id}
        self._given.update(message.tool_call_id for message in messages if message.tool_call_id)
        self._next = 0

    def of(self, calls: Sequence[CalledTool]) -> list[str]:
        """Unique within the message. Over the conversation clients may use an id again, and do."""
        result: list[str] = []
        for call in calls:
            result.append(call.id if call.id and call.id not in result else self.invent())
        return result

    def invent(self) -> str:
        while True:
            id = f"call_{self._next:08d}"
            self._next += 1
            if id not in self._given:
                return id
