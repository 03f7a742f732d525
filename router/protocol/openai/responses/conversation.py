"""The `input` of /v1/responses as a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.openai.messages import NO_FILES, ImageLink, Message, Part, check_data_uri
from vllama_pool.router.protocol.openai.responses.items import Content, Item
from vllama_pool.router.protocol.openai.responses.reasoning import readable
from vllama_pool.router.protocol.openai.responses.tools import Found, flat_name
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.request_body import missing_field

BRINGS_TOOLS: Final = ("additional_tools", "tool_search_output")
DROPPED: Final = frozenset(
    {
        *("web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call"),
        *("computer_call", "computer_call_output", "tool_search_call", *BRINGS_TOOLS),
        *("mcp_list_tools", "mcp_call", "mcp_approval_request", "mcp_approval_response"),
        *("program", "program_output", "configuration_update", "ghost_snapshot"),
    }
)
"""Traces of tools that OpenAI runs, and of clients' own notes. A conversation can do without them."""
STORED: Final = {
    "item_reference": "the pool keeps no items; send the item itself (AI SDK: set 'store' to false)",
    "compaction": "only OpenAI can read it; send the conversation itself",
    "compaction_summary": "only OpenAI can read it; send the conversation itself",
    "compaction_trigger": "the pool does not compact conversations",
    "context_compaction": "only OpenAI can read it; send the conversation itself",
}
"""Items that stand for a conversation elsewhere, with advice."""
NO_AUDIO = "audio is not supported by /v1/responses; use /v1/chat/completions"

_ROLES = ("user", "assistant", "system", "developer")
_CALLS: Final = {
    "function_call": "",
    "custom_tool_call": "",
    "local_shell_call": "local_shell",
    "shell_call": "shell",
    "apply_patch_call": "apply_patch",
}
"""Names of the built-in tools that clients run themselves; a function's is in the item."""
_RESULTS: Final = tuple(f"{kind}_output" for kind in _CALLS)
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_CONTENTS = ("input_text", "output_text", "refusal", "input_image", "input_file")

_decode_output = msgspec.json.Decoder(str | list[Content]).decode


def read(request_input: str | Sequence[Item], instructions: str | None) -> list[Message]:
    """Raises BadRequest. Instructions become the first message."""
    first = [Message("system", instructions)] if instructions else []
    if isinstance(request_input, str):
        return [*first, Message("user", request_input)]
    reader = _Reader()
    for position, item in enumerate(request_input):
        reader.read(item, f"input[{position}]")
    if not reader.messages:
        raise BadRequest("'input' has no messages; send one", param="input")
    return [*first, *reader.messages]


def brought_tools(request_input: str | Sequence[Item]) -> Found:
    """Return the tools of items."""
    if isinstance(request_input, str):
        return []
    return [
        (f"input[{position}].tools", item.tools or [])
        for position, item in enumerate(request_input)
        if item.type in BRINGS_TOOLS
    ]


def unfinished(request_input: str | Sequence[Item]) -> str | None:
    """Return the status of a last message that vLLM is to continue."""
    last = None if isinstance(request_input, str) else request_input[-1]
    if last is not None and last.role == "assistant" and last.status in ("in_progress", "incomplete"):
        return last.status
    return None


class _Reader:
    """Joins the items of one answer: its reasoning, its text and its calls."""

    __slots__ = ("_called", "messages")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._called: set[str] = set()

    def read(self, item: Item, path: str) -> None:
        kind = item.type or ("message" if item.role is not None else "")
        if not kind:
            raise missing_field(f"{path}.type")
        if kind == "message":
            self._read_message(item, path)
        elif kind == "reasoning":
            self._read_reasoning(item)
        elif kind in _CALLS:
            self._read_call(kind, item, path)
        elif kind in _RESULTS:
            self._read_result(kind, item, path)
        elif kind in STORED:
            raise BadRequest(f"items of type '{kind}' are not supported: {STORED[kind]}", param=path)
        elif kind not in DROPPED:
            known = ", ".join(f"'{each}'" for each in ("message", "reasoning", *_CALLS, *_RESULTS))
            raise BadRequest(f"Invalid value: '{kind}'. Supported values are: {known}.", param=f"{path}.type")

    def _read_message(self, item: Item, path: str) -> None:
        if item.role is None:
            raise missing_field(f"{path}.role")
        if item.role not in _ROLES:
            roles = ", ".join(f"'{each}'" for each in _ROLES)
            raise BadRequest(f"Invalid value: '{item.role}'. Supported values are: {roles}.", param=f"{path}.role")
        if item.content is None:
            raise missing_field(f"{path}.content")
        if item.role != "assistant":
            if not item.content and not isinstance(item.content, str):
                raise BadRequest(f"'{path}.content' is empty; send a text or parts", param=f"{path}.content")
            self.messages.append(Message(item.role, _content(item.content, f"{path}.content")))
            return
        text = _text(_content(item.content, f"{path}.content"), f"{path}.content")
        last = self._open_answer()
        if last is not None and last.content is None and not last.tool_calls:
            self._replace(content=text)
        else:
            self.messages.append(Message("assistant", text))

    def _read_reasoning(self, item: Item) -> None:
        text = _joined(item.content) or _joined(item.summary) or readable(item.encrypted_content)
        if text:
            self.messages.append(Message("assistant", reasoning=text))

    def _read_call(self, kind: str, item: Item, path: str) -> None:
        id = item.call_id or (item.id if _CALLS[kind] else None)
        if id is None:
            raise missing_field(f"{path}.call_id")
        call = api.VllmToolCall(id, api.VllmFunctionCall(_name(kind, item, path), _arguments(kind, item, path)))
        self._called.add(id)
        last = self._open_answer()
        if last is None:
            self.messages.append(Message("assistant", tool_calls=[call]))
        else:
            self._replace(tool_calls=[*(last.tool_calls or ()), call])

    def _read_result(self, kind: str, item: Item, path: str) -> None:
        id = item.call_id or (item.id if kind == "local_shell_call_output" else None)
        if id is None:
            raise missing_field(f"{path}.call_id")
        if id not in self._called:
            name = kind.removesuffix("_output").replace("_", " ")
            raise BadRequest(f"No tool call found for {name} output with call_id {id}.", param=path)
        if not item.output:
            raise missing_field(f"{path}.output")
        output = _output(kind, item.output, f"{path}.output")
        self.messages.append(Message("tool", output, tool_call_id=id))

    def _open_answer(self) -> Message | None:
        last = self.messages[-1] if self.messages else None
        return last if last is not None and last.role == "assistant" else None

    def _replace(self, **fields: Any) -> None:
        self.messages[-1] = msgspec.structs.replace(self.messages[-1], **fields)


def _joined(content: str | Sequence[Content] | None) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content or () if part.text)


def _name(kind: str, item: Item, path: str) -> str:
    name = _CALLS[kind] or item.name
    if name is None:
        raise missing_field(f"{path}.name")
    return name if kind == "custom_tool_call" else flat_name(item.namespace, name)


def _arguments(kind: str, item: Item, path: str) -> str:
    """vLLM shows a custom tool as a function with the argument `input`."""
    if kind == "custom_tool_call":
        return api.encode({"input": item.input or ""}).decode()
    if kind != "function_call":
        action = item.operation if kind == "apply_patch_call" else item.action
        return bytes(action).decode() or "{}"
    if not isinstance(item.arguments, str):
        raise BadRequest(
            f"Invalid type for '{path}.arguments': expected a string, but got {_type_name(item.arguments)} instead.",
            param=f"{path}.arguments",
            code="invalid_type",
        )
    return item.arguments or "{}"


def _type_name(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", dict: "an object", list: "an array"}
    return names.get(type(value), "a number")


def _output(kind: str, output: msgspec.Raw, path: str) -> str | list[Part]:
    if kind == "shell_call_output":
        return bytes(output).decode()
    try:
        decoded = _decode_output(output)
    except msgspec.ValidationError:
        raise BadRequest(
            f"Invalid type for '{path}': expected a string or an array of objects.", param=path, code="invalid_type"
        ) from None
    return _content(decoded, path)


def _content(content: str | Sequence[Content], path: str) -> str | list[Part]:
    if isinstance(content, str):
        return content
    return [_part(part, f"{path}[{position}]") for position, part in enumerate(content)]


def _part(part: Content, path: str) -> Part:
    if part.type == "input_file":
        raise BadRequest(NO_FILES, param=path)
    if part.type == "input_audio":
        raise BadRequest(NO_AUDIO, param=path)
    if part.type == "input_image":
        return _image(part, path)
    if part.type not in _TEXTS and part.type != "refusal":
        kinds = ", ".join(f"'{kind}'" for kind in _CONTENTS)
        raise BadRequest(f"Invalid value: '{part.type}'. Supported values are: {kinds}.", param=f"{path}.type")
    text = part.refusal if part.type == "refusal" else part.text
    if text is None:
        field = "refusal" if part.type == "refusal" else "text"
        raise missing_field(f"{path}.{field}")
    return Part("text", text)


def _image(part: Content, path: str) -> Part:
    if part.image_url is None:
        raise BadRequest(f"'{path}' has no 'image_url'; send the image as a base64 data URI", param=path)
    check_data_uri(part.image_url, "image")
    return Part("image_url", image_url=ImageLink(part.image_url, part.detail))


def _text(content: str | Iterable[Part], path: str) -> str:
    if isinstance(content, str):
        return content
    parts = list(content)
    if any(part.text is None for part in parts):
        raise BadRequest("an assistant's message has text only", param=path)
    return "".join(part.text or "" for part in parts)
