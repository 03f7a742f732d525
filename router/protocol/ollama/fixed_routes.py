"""Endpoints whose response does not depend on the pool.

Their texts avoid "not found" and "unauthorized", which the stock CLI searches for (R037).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.error_bodies import error_body
from vllama_pool.router.protocol.json_lines import JSON, encode
from vllama_pool.router.protocol.ollama.gojson import BodyDecoder, GoType
from vllama_pool.router.protocol.ollama.request_base import RegistryRequest, require_model
from vllama_pool.router.protocol.operation import DirectResponse

TEXT = "text/plain; charset=utf-8"
RUNNING = b"Ollama is running"
"""Without a newline (R002)."""
NO_PUSH = "push is not supported: vLLM serves models from files on the workers' machines; publish those files"
NO_FILES = (
    "'files' is not supported: copy the files to a worker's machine, and serve them with vllama serve --model FOLDER"
)
NO_RESPONSES = "no response is stored, because the pool keeps no state between requests; send the whole conversation"
NOT_SIGNED_IN = "you are not currently signed in"

BAD_DIGEST = "invalid digest format"
DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}\Z")


class PushRequest(RegistryRequest, frozen=True):
    pass


PUSH = BodyDecoder(PushRequest)


@dataclass(frozen=True, slots=True)
class FixedRequest:
    method: str
    path: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class FixedRoute:
    path: str
    """"{name:str}" matches any last segment."""
    methods: tuple[str, ...]
    answer: Callable[[FixedRequest], DirectResponse]
    body: GoType | None = None
    """None if the body is not read."""
    model: Callable[[bytes], str] | None = None
    """Reads the model's name from a body that `answer` accepts."""


def always(body: bytes, status: int = 200, content_type: str = JSON) -> Callable[[FixedRequest], DirectResponse]:
    response = DirectResponse(body, status, content_type)
    return lambda _: response


def refused(status: int, text: str) -> Callable[[FixedRequest], DirectResponse]:
    return lambda request: DirectResponse(error_body(request.path, status, text), status)


def push(request: FixedRequest) -> DirectResponse:
    """Always a 501 (R007), but a missing name is reported first (R146)."""
    require_model(PUSH.decode(request.body).requested)
    return DirectResponse(error_body(request.path, 501, NO_PUSH), 501)


def blob(request: FixedRequest) -> DirectResponse:
    """No blob exists or is accepted (R016, R017)."""
    digest = request.path.rpartition("/")[2]
    if not DIGEST.match(digest):
        raise BadRequest(BAD_DIGEST)
    if request.method == "HEAD":
        return DirectResponse(encode({"error": f'blob "{digest}" not found'}), 404)
    return DirectResponse(encode({"error": NO_FILES}), 501)


FIXED_ROUTES = (
    FixedRoute("/", ("HEAD", "GET"), always(RUNNING, content_type=TEXT)),
    FixedRoute("/health", ("HEAD", "GET"), always(b"OK", content_type=TEXT)),
    FixedRoute("/api/status", ("GET",), always(encode({"cloud": {"disabled": True, "source": "config"}}))),
    FixedRoute("/api/push", ("POST",), push, PUSH.type, model=lambda body: PUSH.decode(body).requested),
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
    FixedRoute("/v1/responses/{id:str}", ("GET", "DELETE"), refused(404, NO_RESPONSES)),
)
