"""Error bodies in the format of Ollama, OpenAI or Anthropic, depending on the path."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.protocol.json_lines import encode

OPENAI_PATHS = frozenset({"/rerank", "/v2/rerank", "/score", "/tokenize", "/detokenize"})
"""vLLM's paths outside /v1, whose errors have OpenAI's format, too."""

_INVALID = "invalid_request_error"
_OPENAI = {
    400: _INVALID,
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: _INVALID,
    413: _INVALID,
    415: _INVALID,
    422: _INVALID,
    429: "rate_limit_error",
}
_ANTHROPIC = {
    **_OPENAI,
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def speaks_anthropic(path: str) -> bool:
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def speaks_openai(path: str) -> bool:
    return (path.startswith("/v1/") and not speaks_anthropic(path)) or path in OPENAI_PATHS


def error_body(
    path: str, status: int, text: str, request_id: str = "", *, param: str | None = None, code: str | None = None
) -> bytes:
    """`request_id`: part of Anthropic's format; "" if unknown. `param` and `code`: part of OpenAI's."""
    if speaks_anthropic(path):
        return encode(anthropic_error(status, text, request_id))
    if speaks_openai(path):
        return encode(openai_error(status, text, param, code))
    return encode({"error": text})


def openai_error(status: int, text: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """`param`: the field at fault. `code`: a word for programs, such as "invalid_api_key"."""
    return {"error": {"message": text, "type": _OPENAI.get(status, "api_error"), "param": param, "code": code}}


def anthropic_error(status: int, text: str, request_id: str = "") -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": "error",
        "error": {"type": _ANTHROPIC.get(status, "api_error"), "message": text},
    }
    return {**body, "request_id": anthropic_id(request_id)} if request_id else body


def anthropic_id(request_id: str) -> str:
    """Return a request's id with Anthropic's prefix."""
    return request_id if request_id.startswith("req_") else f"req_{request_id}"
