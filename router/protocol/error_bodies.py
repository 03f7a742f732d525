"""Error bodies in the format of Ollama, OpenAI or Anthropic, depending on the path."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.protocol.json_lines import encode

_OPENAI = {400: "invalid_request_error", 404: "not_found_error"}
_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def error_body(path: str, status: int, text: str) -> bytes:
    if path.startswith("/v1/messages"):
        return encode(anthropic_error(status, text))
    if path.startswith("/v1/"):
        return encode(openai_error(status, text))
    return encode({"error": text})


def openai_error(status: int, text: str) -> dict[str, Any]:
    return {"error": {"message": text, "type": _OPENAI.get(status, "api_error"), "param": None, "code": None}}


def anthropic_error(status: int, text: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": _ANTHROPIC.get(status, "api_error"), "message": text}}
