"""The endpoints whose answer is always the same: what Ollama has and a pool of vLLM servers has not, and whether a
server is here at all. One table; pure.

No text of these says "not found" or "unauthorized" where it means something else: the stock CLI looks for both (R037).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.error_bodies import error_body
from vllama_pool.router.protocol.json_lines import JSON, encode
from vllama_pool.router.protocol.ollama import gojson
from vllama_pool.router.protocol.ollama.gojson import BOOL, STRING, GoType, struct
from vllama_pool.router.protocol.operation import DirectResponse

TEXT = "text/plain; charset=utf-8"
RUNNING = b"Ollama is running"
"""What Ollama says at `/`: 17 bytes, no newline (R002)."""
NOPUSH = "models cannot be pushed from here: vLLM serves them from files on the workers' machines; publish those files"
NO_FILES = (
    "models cannot be made from files here: put the files where a worker runs, and serve them with vllama serve --model"
)
NOT_SIGNED_IN = "you are not currently signed in"
_SERVED_V1 = "use /api/chat, /api/generate or /api/embed, as Ollama's own clients do; of /v1 there is /v1/models"

BAD_DIGEST = "invalid digest format"
DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}\Z")
PUSH = struct(
    "api.PushRequest", model=STRING, name=STRING, insecure=BOOL, username=STRING, password=STRING, stream=BOOL
)


@dataclass(frozen=True, slots=True)
class FixedRequest:
    """What of a request such an answer may depend on."""

    method: str
    path: str
    """Decoded."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class FixedRoute:
    """One endpoint."""

    path: str
    """Its last part may be "{name:str}", any one segment."""
    methods: tuple[str, ...]
    answer: Callable[[FixedRequest], DirectResponse]
    """Raises ClientError."""
    body: GoType | None = None
    """What the answer depends on in a body; None where it is not read."""


def always(body: bytes, status: int = 200, content_type: str = JSON) -> Callable[[FixedRequest], DirectResponse]:
    reply = DirectResponse(body, status, content_type)
    return lambda _: reply


def refused(status: int, text: str) -> Callable[[FixedRequest], DirectResponse]:
    """An error in the shape of the path's clients."""
    return lambda question: DirectResponse(error_body(question.path, status, text), status)


def push(question: FixedRequest) -> DirectResponse:
    """R007: nothing is ever pushed, but a request without a name is told so first (R146)."""
    request = msgspec.json.decode(gojson.rewrite(question.body, PUSH), type=dict[str, object])
    if not (str(request.get("model", "")).strip() or str(request.get("name", "")).strip()):
        raise BadRequest("model is required")
    return DirectResponse(error_body(question.path, 501, NOPUSH), 501)


def blob(question: FixedRequest) -> DirectResponse:
    """R016, R017: there are no blobs, and none are taken."""
    digest = question.path.rpartition("/")[2]
    if not DIGEST.match(digest):
        raise BadRequest(BAD_DIGEST)
    if question.method == "HEAD":
        return DirectResponse(encode({"error": f'blob "{digest}" not found'}), 404)
    return DirectResponse(encode({"error": NO_FILES}), 501)


def _v1(name: str) -> FixedRoute:
    path = f"/v1/{name}"
    return FixedRoute(path, ("POST",), refused(501, f"{path} is not served by this version: {_SERVED_V1}"))


FIXED_ROUTES = (
    FixedRoute("/", ("HEAD", "GET"), always(RUNNING, content_type=TEXT)),
    FixedRoute("/health", ("HEAD", "GET"), always(b"OK", content_type=TEXT)),
    FixedRoute("/api/status", ("GET",), always(encode({"cloud": {"disabled": True, "source": "config"}}))),
    FixedRoute("/api/push", ("POST",), push, PUSH),
    FixedRoute("/api/me", ("POST",), refused(401, "unauthorized")),
    FixedRoute("/api/signout", ("POST",), refused(401, NOT_SIGNED_IN)),
    FixedRoute("/api/user/keys/{encoded_key:str}", ("DELETE",), refused(401, NOT_SIGNED_IN)),
    FixedRoute("/api/blobs/{digest:str}", ("HEAD", "POST"), blob),
    FixedRoute(
        "/api/experimental/web_search",
        ("POST",),
        refused(403, "ollama cloud is disabled: web search is unavailable"),
    ),
    FixedRoute(
        "/api/experimental/web_fetch",
        ("POST",),
        refused(403, "ollama cloud is disabled: web fetch is unavailable"),
    ),
    _v1("chat/completions"),
    _v1("completions"),
    _v1("embeddings"),
    _v1("responses"),
    _v1("messages"),
    _v1("audio/transcriptions"),
)
