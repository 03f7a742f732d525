"""Requests of /api/chat and /api/generate (R039, R049-R080)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from vllama_pool.router.errors import BadRequest, ModelNotFound
from vllama_pool.router.protocol.media import check_base64
from vllama_pool.router.protocol.ollama import formats
from vllama_pool.router.protocol.ollama.gojson import BodyDecoder, named
from vllama_pool.router.protocol.ollama.keep_alive import KeepAlive, dec_hook
from vllama_pool.router.protocol.ollama.not_found import generation_text
from vllama_pool.router.protocol.ollama.request_base import Body, Int, require_model
from vllama_pool.router.protocol.ollama.think_option import check_think

Images = Annotated[list[str], named("[]api.ImageData")]
"""Base64."""


NO_FORMAT = msgspec.Raw()


class CalledToolFunction(Body, frozen=True):
    GO_NAME: ClassVar = "api.ToolCallFunction"

    name: str = ""
    arguments: Annotated[msgspec.Raw, named("api.ToolCallFunctionArguments")] = msgspec.Raw(b"{}")
    index: Int = 0


class CalledTool(Body, frozen=True):
    GO_NAME: ClassVar = "api.ToolCall"

    function: CalledToolFunction = CalledToolFunction()
    id: str | None = None
    type: Any = None


class ChatMessage(Body, frozen=True):
    GO_NAME: ClassVar = "api.Message"

    role: str = ""
    content: str | None = None
    thinking: str | None = None
    images: Images | None = None
    tool_calls: list[CalledTool] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class DeclaredToolFunction(Body, frozen=True):
    GO_NAME: ClassVar = "api.ToolFunction"

    name: str = ""
    description: str | None = None
    parameters: Annotated[msgspec.Raw, named("api.ToolFunctionParameters")] = msgspec.Raw()
    """JSON schema, passed on unchanged (R079)."""
    strict: Any = None


class DeclaredTool(Body, frozen=True):
    GO_NAME: ClassVar = "api.Tool"

    function: DeclaredToolFunction = DeclaredToolFunction()
    type: str = ""
    items: Any = None


class InferenceRequest(Body, frozen=True, kw_only=True):
    model: str = ""
    stream: bool = True
    options: dict[str, Any] | None = None
    think: Any = None
    keep_alive: KeepAlive | None = None
    format: msgspec.Raw = NO_FORMAT
    response_format: Any = None
    """`format` as translated after decoding, a `formats.Outcome`; what the client sends under this name is ignored."""
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool = False
    top_logprobs: Int = 0
    """Alternatives per token (R065)."""
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")

    @property
    def streams_answer(self) -> bool:
        return self.stream and not self.debug_render_only

    @property
    def may_shorten(self) -> bool:
        """True unless one of the fields is false (R062, R063)."""
        return self.truncate is not False and self.shift is not False


class ChatRequest(InferenceRequest, frozen=True, kw_only=True):
    messages: list[ChatMessage] | None = None
    tools: Annotated[list[DeclaredTool], named("api.Tools")] | None = None


class GenerateRequest(InferenceRequest, frozen=True, kw_only=True):
    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[Int] | None = None
    raw: bool = False
    images: Images | None = None


RequestT = TypeVar("RequestT", bound=InferenceRequest)

CHAT = BodyDecoder(ChatRequest, dec_hook)
GENERATE = BodyDecoder(GenerateRequest, dec_hook)


def decode_chat(body: bytes) -> ChatRequest:
    request = CHAT.decode(body)
    with_more = [message for message in request.messages or () if message.tool_calls or message.images]
    if (with_more or request.tools) and not all(map(_is_object, _raw_objects(request))):
        request = CHAT.decode_leniently(body)
        with_more = request.messages or []
    for message in with_more:
        if message.images:
            _check_images(message.images)
    _check_shared(request)
    require_model(request.model)
    return _with_response_format(request)


def decode_generate(body: bytes) -> GenerateRequest:
    request = GENERATE.decode(body)
    if request.images:
        _check_images(request.images)
    _check_shared(request)
    if not request.model.strip():
        raise ModelNotFound(generation_text(request.model))
    return _with_response_format(request)


def default_messages(messages: Sequence[Mapping[str, Any]]) -> list[ChatMessage]:
    """Raises BadRequest."""
    if not messages:
        return []
    body = msgspec.json.encode({"model": "-", "messages": [dict(message) for message in messages]})
    return decode_chat(body).messages or []


def _raw_objects(request: ChatRequest) -> Iterable[msgspec.Raw]:
    """Objects that msgspec does not validate."""
    for message in request.messages or ():
        for call in message.tool_calls or ():
            yield call.function.arguments
    for tool in request.tools or ():
        yield tool.function.parameters


def _is_object(raw: msgspec.Raw) -> bool:
    return bytes(raw)[:1] in (b"{", b"")


def _with_response_format(request: RequestT) -> RequestT:
    """Translate here, because decoding leaves the event loop if the body is large."""
    if request.format is NO_FORMAT and request.response_format is None:
        return request
    outcome = formats.translate(request.format)
    if outcome is request.response_format:
        return request
    return msgspec.structs.replace(request, response_format=outcome)


def _check_shared(request: InferenceRequest) -> None:
    if request.think is not None:
        check_think(request.think)
    if not 0 <= request.top_logprobs <= 20:
        raise BadRequest("top_logprobs must be between 0 and 20")


def _check_images(images: list[str]) -> None:
    for image in images:
        check_base64(image)
