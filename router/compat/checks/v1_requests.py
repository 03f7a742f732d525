"""Requests to the routes of /v1, and what is common to their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllama_pool.router.compat.expect import expect, field, json_object, same
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import RawResponse

HELLO = {"role": "user", "content": "Say hello to me."}
SHORT = {"max_tokens": 8, "temperature": 0}


@dataclass(frozen=True, slots=True)
class Route:
    path: str
    rules: frozenset[int]
    """Those of the route itself."""
    fields: Mapping[str, Any]
    """Of a short request, without its model."""
    use: str = "chat"
    """Purpose of the model."""
    limit: str = "max_tokens"
    """The field that bounds the answer."""
    streams: bool = True

    @property
    def name(self) -> str:
        return self.path.removeprefix("/v1/")


CHAT = Route("/v1/chat/completions", frozenset({27}), {"messages": [HELLO], "seed": 1, **SHORT})
COMPLETIONS = Route("/v1/completions", frozenset({28}), {"prompt": "Say hello to me.", "seed": 1, **SHORT})
EMBEDDINGS = Route(
    "/v1/embeddings", frozenset({29}), {"input": "Why is the sky blue?"}, use="embed", limit="", streams=False
)
RESPONSES = Route(
    "/v1/responses",
    frozenset({32}),
    {"input": "Say hello to me.", "max_output_tokens": 16, "temperature": 0},
    limit="max_output_tokens",
)
MESSAGES = Route("/v1/messages", frozenset({34}), {"messages": [HELLO], **SHORT})


async def ask(server: CheckedServer, route: Route, *, use: str = "", **fields: Any) -> RawResponse:
    body = {"model": server.model(use or route.use), **route.fields, **fields}
    return await server.post_cached(route.path, body)


async def whole(server: CheckedServer, route: Route, *, use: str = "", **fields: Any) -> dict[str, Any]:
    """Require a JSON object that names the model as the request does."""
    response = await ask(server, route, use=use, **fields)
    found = json_object(response)
    is_json(response)
    same("model", server.model(use or route.use), field(found, "model", str))
    return found


def is_json(response: RawResponse) -> None:
    kind = response.header("content-type") or ""
    same("Content-Type", "application/json", kind.partition(";")[0])


OPENAI_TYPES = {400: {"invalid_request_error"}, 404: {"not_found_error", "invalid_request_error"}}
"""Ollama's, then OpenAI's."""
ANTHROPIC_TYPES = {400: {"invalid_request_error"}, 404: {"not_found_error"}}


def refused(route: Route, response: RawResponse, code: int, *words: str) -> str:
    """Require an error in the route's format with these words in its message, and return the message."""
    found = json_object(response, code=code)
    is_json(response)
    error = _anthropic_error(found) if route is MESSAGES else _openai_error(found)
    kinds = (ANTHROPIC_TYPES if route is MESSAGES else OPENAI_TYPES)[code]
    kind = field(error, "type", str, "error.")
    expect(kind in kinds, f"error.type {' or '.join(sorted(kinds))}", kind)
    message = field(error, "message", str, "error.")
    for word in words:
        expect(word in message, f"a message with {word!r}", message)
    return message


def _openai_error(found: dict[str, Any]) -> dict[str, Any]:
    same("keys", ["error"], sorted(found))
    error: dict[str, Any] = field(found, "error", dict)
    same("keys of the error", ["code", "message", "param", "type"], sorted(error))
    for key in ("code", "param"):
        expect(error[key] is None or isinstance(error[key], str), f"{key} as a text or null", error[key])
    return error


def _anthropic_error(found: dict[str, Any]) -> dict[str, Any]:
    same("type", "error", field(found, "type", str))
    expect(set(found) <= {"type", "error", "request_id"}, "type, error and request_id", found)
    error: dict[str, Any] = field(found, "error", dict)
    same("keys of the error", ["message", "type"], sorted(error))
    return error


def choice(found: Mapping[str, Any]) -> dict[str, Any]:
    """Require a single choice, and return it."""
    choices = field(found, "choices", list)
    expect(len(choices) == 1 and isinstance(choices[0], dict), "one choice", choices)
    same("index", 0, field(choices[0], "index", int))
    return dict(choices[0])


def counts(usage: Mapping[str, Any], prompt: str, completion: str) -> int:
    """Require token counts that add up where there is a total, and return that of the answer."""
    before, after = field(usage, prompt, int, "usage."), field(usage, completion, int, "usage.")
    expect(before > 0 and after > 0, "token counts above 0", dict(usage))
    if "total_tokens" in usage:
        same("usage.total_tokens", before + after, usage["total_tokens"])
    return after
