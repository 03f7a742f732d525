"""POST /api/create: its request, and the statuses that tell how it went (section 2.11, R107)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from vllama_pool.router.errors import BadRequest, ClientError, TooLarge
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.ollama import gojson, options
from vllama_pool.router.protocol.ollama.fixed_routes import BAD_DIGEST, DIGEST, NO_FILES
from vllama_pool.router.protocol.ollama.gojson import ANY, BOOL, OBJECT, STRING, GoType, list_of, struct
from vllama_pool.router.protocol.ollama.requests import default_messages

NEITHER = "neither 'from' or 'files' was specified"
BAD_PATH = "file path must be relative"
NO_TEMPLATE = (
    "vLLM templates chats with the served model's own template: leave 'template' out, or serve the model with "
    "vLLM's --chat-template"
)
NO_PARSER = (
    "how a model's answers are read is set where vLLM is started: leave 'renderer' and 'parser' out, or serve the "
    "model with vLLM's --tool-call-parser and --reasoning-parser"
)
NO_QUANTIZE = "models are not quantized here: leave 'quantize' out, or serve a quantized model"
NO_ADAPTERS = (
    "adapters cannot be sent here: serve them with vLLM's --enable-lora and --lora-modules, and name the served "
    "adapter as 'from'"
)
NO_DRAFT = "drafts cannot be sent here: serve the model with vLLM's --speculative-config"

MAX_BODY = 8 << 20
"""Bytes of a request."""
MAX_KEPT = 1 << 20
"""Bytes of what it adds to its base, as JSON: what the registry takes of one model. Checked where the request is
decoded already, for the rest is done within the event loop."""
MAX_DEPTH = 100
"""Levels of lists and objects within each other. Routers write and read what they keep a few levels further in."""

TOO_MUCH = f"a model may add up to {MAX_KEPT >> 10} KiB to its base; send shorter messages"

_FILES = GoType("map[string]string", frozenset({"object"}))


class CreateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    model: str = ""
    name: str = ""
    source: str = msgspec.field(default="", name="from")
    stream: bool = True
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    draft_files: dict[str, str] = {}
    template: str = ""
    license: Any = None
    system: str = ""
    parameters: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []
    quantize: str = ""
    quantization: str = ""
    draft_quantize: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    info: dict[str, Any] = {}

    @property
    def wanted(self) -> str:
        """`name` is what `model` was called before (trap 12)."""
        return self.model or self.name

    @property
    def licenses(self) -> tuple[str, ...]:
        """Raises BadRequest unless it is a text or a list of texts."""
        if self.license is None:
            return ()
        texts = self.license if isinstance(self.license, list) else [self.license]
        if not all(isinstance(text, str) for text in texts):
            raise BadRequest("license must be a string or an array of strings")
        return tuple(text for text in texts if text)


CREATE = struct(
    "api.CreateRequest",
    **dict.fromkeys(
        ("model", "name", "from", "template", "system", "quantize", "quantization", "draft_quantize"), STRING
    ),
    **dict.fromkeys(("renderer", "parser", "requires", "remote_host"), STRING),
    **dict.fromkeys(("files", "adapters", "draft_files"), _FILES),
    stream=BOOL,
    license=ANY,
    parameters=OBJECT,
    messages=list_of("[]api.Message", OBJECT),
    info=OBJECT,
)
_decoder = msgspec.json.Decoder(CreateRequest)


def decode_create(body: bytes) -> CreateRequest:
    """Raises BadRequest in Ollama's words, TooLarge for far more than can be kept."""
    if len(body) > MAX_BODY:
        raise TooLarge(f"a model may be made from a request of up to {MAX_BODY >> 20} MiB; send shorter messages")
    request = gojson.decode(body, _decoder, CREATE)
    if not (_is_shallow(request.parameters) and _is_shallow(request.messages)):
        raise BadRequest("exceeded max depth")
    for path in (*request.files, *request.adapters, *request.draft_files):
        if not _is_relative(path):
            raise BadRequest(BAD_PATH)
    if _weight(request) > MAX_KEPT:
        raise TooLarge(TOO_MUCH)
    return request


def refuse_unsupported(request: CreateRequest, template: str) -> None:
    """What would take more than a served model. `template` is that of the base: to repeat it changes nothing.

    Raises BadRequest, and ClientError 501 with what to do instead (R037, R108).
    """
    for digest in (*request.files.values(), *request.adapters.values(), *request.draft_files.values()):
        if not DIGEST.match(digest):
            raise BadRequest(BAD_DIGEST)
    asked = {
        NO_FILES: request.files,
        NO_ADAPTERS: request.adapters,
        NO_DRAFT: request.draft_files or request.draft_quantize,
        NO_QUANTIZE: request.quantize or request.quantization,
        NO_PARSER: request.renderer or request.parser,
        NO_TEMPLATE: request.template != template and request.template,
    }
    for text, value in asked.items():
        if value:
            raise ClientError(text, status=501)


def parameters(request: CreateRequest) -> dict[str, Any]:
    """Without nulls. Raises BadRequest for a type that Ollama would refuse when the model is used."""
    try:
        options.check(request.parameters)
    except ClientError as error:
        raise BadRequest(error.text) from None
    return {key: value for key, value in request.parameters.items() if value is not None}


def messages(request: CreateRequest) -> tuple[dict[str, Any], ...]:
    """In the form of /api/chat. Raises BadRequest for what is no message there."""
    told: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(default_messages(request.messages)))
    return tuple(_brief(message) for message in told)


def progress(existing: Sequence[str], new: Sequence[str]) -> list[bytes]:
    """The lines of a stream: digests of the parts that were there, and of those that are new (R107)."""
    statuses = [
        *(f"using existing layer sha256:{digest}" for digest in existing),
        *(f"creating new layer sha256:{digest}" for digest in new),
        "writing manifest",
        "success",
    ]
    return [encode({"status": status}) for status in statuses]


def _brief(message: dict[str, Any]) -> dict[str, Any]:
    """Without what a message does not say. Nulls in a call's arguments are part of them."""
    brief = {key: value for key, value in message.items() if value is not None}
    if "tool_calls" in brief:
        brief["tool_calls"] = [
            {key: value for key, value in call.items() if value is not None} for call in brief["tool_calls"]
        ]
    return brief


def _weight(request: CreateRequest) -> int:
    """Bytes of what would be kept, give or take what says nothing."""
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
    """As Go's fs.ValidPath has it."""
    return path == "." or all(part not in ("", ".", "..") for part in path.split("/"))
