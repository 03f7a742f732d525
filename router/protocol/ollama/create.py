"""POST /api/create: request, limits and progress lines (R107)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec

from vllama_pool.router.errors import BadRequest, ClientError, TooLarge
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.ollama import options
from vllama_pool.router.protocol.ollama.fixed_routes import BAD_DIGEST, DIGEST, NO_FILES
from vllama_pool.router.protocol.ollama.gojson import BodyDecoder, named
from vllama_pool.router.protocol.ollama.request_base import ModelRequest
from vllama_pool.router.protocol.ollama.requests import default_messages

NEITHER = "neither 'from' or 'files' was specified"
BAD_PATH = "file path must be relative"
NO_TEMPLATE = "'template' is not supported: leave it out, or serve the model with vLLM's --chat-template"
NO_PARSER = (
    "'renderer' and 'parser' are not supported: leave them out, or serve the model with vLLM's --tool-call-parser "
    "and --reasoning-parser"
)
NO_QUANTIZE = "'quantize' is not supported: leave it out, or serve a quantized model"
NO_ADAPTERS = (
    "'adapters' is not supported: serve the adapter with vLLM's --enable-lora and --lora-modules, and set 'from' to "
    "its name"
)
NO_DRAFT = "draft models are not supported in requests: serve the model with vLLM's --speculative-config"

MAX_BODY = 8 << 20
"""Bytes."""
MAX_ADDED = 1 << 20
"""Bytes of JSON that a model may add to its base: the registry's limit."""
MAX_DEPTH = 100

TOO_MUCH = f"the model adds more than {MAX_ADDED >> 10} KiB to its base; send fewer or shorter messages"


class CreateRequest(ModelRequest, frozen=True, kw_only=True):
    source: str = msgspec.field(default="", name="from")
    stream: bool = True
    files: dict[str, str] = msgspec.field(default_factory=dict)
    adapters: dict[str, str] = msgspec.field(default_factory=dict)
    draft_files: dict[str, str] = msgspec.field(default_factory=dict)
    template: str = ""
    license: Any = None
    system: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    messages: Annotated[list[dict[str, Any]], named("[]api.Message")] = msgspec.field(default_factory=list)
    quantize: str = ""
    quantization: str = ""
    draft_quantize: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    info: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def licenses(self) -> tuple[str, ...]:
        if self.license is None:
            return ()
        texts = self.license if isinstance(self.license, list) else [self.license]
        if not all(isinstance(text, str) for text in texts):
            raise BadRequest("license must be a string or an array of strings")
        return tuple(text for text in texts if text)


CREATE = BodyDecoder(CreateRequest)


def decode_create(body: bytes) -> CreateRequest:
    if len(body) > MAX_BODY:
        raise TooLarge(f"the request is larger than {MAX_BODY >> 20} MiB; send fewer or shorter messages")
    request = CREATE.decode(body)
    if not (_is_shallow(request.parameters) and _is_shallow(request.messages)):
        raise BadRequest("exceeded max depth")
    for path in (*request.files, *request.adapters, *request.draft_files):
        if not _is_relative(path):
            raise BadRequest(BAD_PATH)
    if _added_bytes(request) > MAX_ADDED:
        raise TooLarge(TOO_MUCH)
    return request


def refuse_unsupported(request: CreateRequest, template: str) -> None:
    """Raises BadRequest, or ClientError 501 (R037, R108). `template`: the base's, which a request may repeat."""
    for digest in (*request.files.values(), *request.adapters.values(), *request.draft_files.values()):
        if not DIGEST.match(digest):
            raise BadRequest(BAD_DIGEST)
    unsupported = {
        NO_FILES: request.files,
        NO_ADAPTERS: request.adapters,
        NO_DRAFT: request.draft_files or request.draft_quantize,
        NO_QUANTIZE: request.quantize or request.quantization,
        NO_PARSER: request.renderer or request.parser,
        NO_TEMPLATE: request.template != template and request.template,
    }
    for text, value in unsupported.items():
        if value:
            raise ClientError(text, status=501)


def parameters(request: CreateRequest) -> dict[str, Any]:
    """Raises BadRequest. Drops nulls."""
    try:
        options.check(request.parameters)
    except ClientError as error:
        raise BadRequest(error.text) from None
    return {key: value for key, value in request.parameters.items() if value is not None}


def messages(request: CreateRequest) -> tuple[dict[str, Any], ...]:
    """Raises BadRequest."""
    decoded: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(default_messages(request.messages)))
    return tuple(_without_nulls(message) for message in decoded)


def progress(existing: Sequence[str], new: Sequence[str]) -> list[bytes]:
    statuses = [
        *(f"using existing layer sha256:{digest}" for digest in existing),
        *(f"creating new layer sha256:{digest}" for digest in new),
        "writing manifest",
        "success",
    ]
    return [encode({"status": status}) for status in statuses]


def _without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    """Keeps nulls within arguments, which are the client's data."""
    brief = {key: value for key, value in message.items() if value is not None}
    if "tool_calls" in brief:
        brief["tool_calls"] = [
            {key: value for key, value in call.items() if value is not None} for call in brief["tool_calls"]
        ]
    return brief


def _added_bytes(request: CreateRequest) -> int:
    licenses = request.license if isinstance(request.license, list) else [request.license]
    texts = sum(len(text) for text in licenses if isinstance(text, str))
    return texts + len(msgspec.json.encode((request.system, request.parameters, request.messages)))


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level for item in _items(outer)]
        if not level:
            return True
    return False


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _is_relative(path: str) -> bool:
    """Go's fs.ValidPath."""
    return path == "." or all(part not in ("", ".", "..") for part in path.split("/"))
