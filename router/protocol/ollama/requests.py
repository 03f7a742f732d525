"""Ollama's chat and generate requests: their types and how leniently they are read (R039, R049-R080).

A body spelled exactly is decoded straight into the type. Anything else (other case, unknown keys, nulls,
trailing data) is rewritten by `gojson` first, which also finds the error texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from vllama_pool.router.errors import BadRequest, ModelNotFound
from vllama_pool.router.protocol.ollama import gojson
from vllama_pool.router.protocol.ollama.durations import keep_alive
from vllama_pool.router.protocol.ollama.gojson import ANY, BOOL, INT, OBJECT, STRING, list_of, struct
from vllama_pool.router.protocol.ollama.images import check_base64
from vllama_pool.router.protocol.ollama.think_option import check_think


class CalledFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"{}")
    """An object."""
    index: int = 0


class CalledTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    function: CalledFunction
    id: str | None = None
    type: str | None = None


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: str = ""
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[CalledTool] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class DeclaredFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    """A JSON schema, passed on untouched: it may say more than Ollama knows (R079)."""
    strict: bool | None = None


class DeclaredTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    function: DeclaredFunction
    type: str = "function"
    items: Any = None


class InferenceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What chat and generate share."""

    model: str = ""
    stream: bool = True
    options: dict[str, Any] | None = None
    think: Any = None
    keep_alive: Any = None
    format: msgspec.Raw = msgspec.Raw()
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")

    @property
    def wanted_logprobs(self) -> int | None:
        """How many alternatives per token; None where no logprobs are wanted (R065)."""
        return self.top_logprobs if self.logprobs else None


class ChatRequest(InferenceRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    messages: list[ChatMessage] | None = None
    tools: list[DeclaredTool] | None = None


class GenerateRequest(InferenceRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool = False
    images: list[str] | None = None


_IMAGES = list_of("[]api.ImageData", STRING)
_MESSAGE = struct(
    "api.Message",
    role=STRING,
    content=STRING,
    thinking=STRING,
    images=_IMAGES,
    tool_calls=list_of(
        "[]api.ToolCall",
        struct(
            "api.ToolCall",
            id=STRING,
            function=struct(
                "api.ToolCallFunction",
                index=INT,
                name=STRING,
                arguments=gojson.GoType("api.ToolCallFunctionArguments", frozenset({"object"})),
            ),
        ),
    ),
    tool_name=STRING,
    tool_call_id=STRING,
)
_TOOL = struct(
    "api.Tool",
    type=STRING,
    function=struct(
        "api.ToolFunction",
        name=STRING,
        description=STRING,
        parameters=gojson.GoType("api.ToolFunctionParameters", frozenset({"object"})),
    ),
)
_SHARED = {
    "model": STRING,
    "stream": BOOL,
    "options": OBJECT,
    "think": ANY,
    "keep_alive": ANY,
    "format": ANY,
    "truncate": BOOL,
    "shift": BOOL,
    "logprobs": BOOL,
    "top_logprobs": INT,
    "_debug_render_only": BOOL,
}
CHAT = struct(
    "api.ChatRequest", **_SHARED, messages=list_of("[]api.Message", _MESSAGE), tools=list_of("api.Tools", _TOOL)
)
GENERATE = struct(
    "api.GenerateRequest",
    **_SHARED,
    prompt=STRING,
    suffix=STRING,
    system=STRING,
    template=STRING,
    context=list_of("[]int", INT),
    raw=BOOL,
    images=_IMAGES,
)

_chat_decoder = msgspec.json.Decoder(ChatRequest)
_generate_decoder = msgspec.json.Decoder(GenerateRequest)


def decode_chat(body: bytes) -> ChatRequest:
    """Raises ClientError: BadRequest for a body that Ollama refuses, or for a missing model (R146)."""
    request = gojson.decode(body, _chat_decoder, CHAT)
    for message in request.messages or ():
        if message.images:
            _check_images(message.images)
        for call in message.tool_calls or ():
            if bytes(call.function.arguments)[:1] != b"{":
                # Null is no arguments; anything else is refused in Go's words.
                return decode_chat(gojson.rewrite(body, CHAT))
    _check_declared(request.tools)
    _check_shared(request)
    if not request.model.strip():
        raise BadRequest("model is required")
    return request


def decode_generate(body: bytes) -> GenerateRequest:
    """Raises ClientError: BadRequest for a body that Ollama refuses, ModelNotFound for a missing model."""
    request = gojson.decode(body, _generate_decoder, GENERATE)
    if request.images:
        _check_images(request.images)
    _check_shared(request)
    if not request.model.strip():
        raise ModelNotFound(not_found(request.model))
    return request


def default_messages(messages: Sequence[Mapping[str, Any]]) -> list[ChatMessage]:
    """Messages that a model brings, in the form of /api/chat. Raises BadRequest for what is none."""
    if not messages:
        return []
    body = msgspec.json.encode({"model": "-", "messages": [dict(message) for message in messages]})
    return decode_chat(body).messages or []


def not_found(model: str) -> str:
    """What chat and generate say of a model nobody serves (R148)."""
    return f"model '{model}' not found"


def _check_shared(request: InferenceRequest) -> None:
    if request.think is not None:
        check_think(request.think)
    if request.keep_alive is not None:
        keep_alive(request.keep_alive)
    if not 0 <= request.top_logprobs <= 20:
        raise BadRequest("top_logprobs must be between 0 and 20")


def _check_images(images: list[str]) -> None:
    for image in images:
        check_base64(image)


def _check_declared(tools: list[DeclaredTool] | None) -> None:
    for tool in tools or ():
        parameters = bytes(tool.function.parameters)
        if parameters and parameters[:1] != b"{" and parameters != b"null":
            kind = {b'"': "string", b"[": "array", b"t": "bool", b"f": "bool"}.get(parameters[:1], "number")
            raise BadRequest(
                f"json: cannot unmarshal {kind} into Go struct field ChatRequest.tools.function.parameters"
                " of type api.ToolFunctionParameters"
            )


def may_shorten(request: InferenceRequest) -> bool:
    """Whether the client lets a prompt be shortened: both default to true (R062, R063)."""
    return request.truncate is not False and request.shift is not False
