"""vLLM's error responses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class HttpResponse:
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class ApiError(Exception):
    """An error response.

    `in_stream`: vLLM finds the error after it sent 200, so it becomes the stream's only event.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "BadRequestError",
        param: str | None = None,
        in_stream: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param
        self.in_stream = in_stream
        self.shape: Shape = openai

    @property
    def fields(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}

    @property
    def response(self) -> HttpResponse:
        return self.shape(self)

    @property
    def event(self) -> bytes:
        return b"data: " + spaced(self.fields) + b"\n\n"


Shape = Callable[[ApiError], HttpResponse]
"""Makes an error response of a protocol."""


def openai(error: ApiError) -> HttpResponse:
    return HttpResponse(error.status, msgspec.json.encode(error.fields))


def anthropic(error: ApiError) -> HttpResponse:
    fields = {"type": "error", "error": {"type": error.kind, "message": error.message}}
    return HttpResponse(error.status, msgspec.json.encode(fields))


@contextlib.contextmanager
def shaped(shape: Shape) -> Iterator[None]:
    """Give the errors of the block this shape."""
    try:
        yield
    except ApiError as error:
        error.shape = shape
        raise


def parameter(message: str, param: str, value: object = None, *, in_stream: bool = False) -> ApiError:
    """Append the parameter and any value to the message."""
    shown = f"parameter={param}" if value is None else f"parameter={param}, value={value}"
    return ApiError(f"{message} ({shown})", param=param, in_stream=in_stream)


def unknown_model(name: str, served: tuple[str, ...]) -> ApiError:
    """`served` is () for embeddings, where vLLM omits names and parameter."""
    aliases = f" Valid aliases: {', '.join(served)}." if served else ""
    return ApiError(
        f"The model `{name}` does not exist.{aliases}",
        status=404,
        kind="NotFoundError",
        param="model" if served else None,
    )


def too_long(limit: int, tokens: int, *, exact: bool) -> ApiError:
    """`exact` is False for text, which vLLM counts only up to the limit."""
    least = "" if exact else "at least "
    return parameter(
        f"This model's maximum context length is {limit} tokens. However, your prompt contains {least}{tokens} "
        "input tokens, which exceeds this limit even without any output tokens. Please reduce the length of "
        "the input prompt.",
        "input_tokens",
        tokens,
    )


def too_many_characters(limit: int, characters: int, bound: int) -> ApiError:
    return parameter(
        f"This model's maximum context length is {limit} tokens. However, your prompt contains {characters} "
        f"characters (more than {bound} characters, which is the upper bound for {limit} input tokens). Please "
        "reduce the length of the input prompt.",
        "input_text",
        characters,
    )


def busy() -> ApiError:
    """More than --max-num-queued-reqs requests."""
    return ApiError(
        "The engine is currently busy and cannot accept new requests. Please try again later or on a different "
        "instance.",
        status=503,
        kind="Service Unavailable",
    )


def engine_dead() -> ApiError:
    return ApiError(
        "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        status=500,
        kind="InternalServerError",
    )


def shutting_down() -> ApiError:
    """After SIGTERM."""
    return ApiError("cannot schedule new futures after shutdown", status=500, kind="InternalServerError")


def scripted(status: int) -> ApiError:
    if status == 503:
        return busy()
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"
    kind = "InternalServerError" if status == 500 else phrase
    return ApiError(f"simulated fault: {phrase}", status=status, kind=kind)


def no_template() -> ApiError:
    return ApiError(
        "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat "
        "template if the tokenizer does not define one."
    )


NOT_FOUND = HttpResponse(404, b'{"detail":"Not Found"}')
UNAUTHORIZED = HttpResponse(401, b'{"error":"Unauthorized"}')


def method_not_allowed(allow: str) -> HttpResponse:
    return HttpResponse(405, b'{"detail":"Method Not Allowed"}', headers=(("allow", allow),))


def spaced(value: object) -> bytes:
    """Encode with the spaces of Python's json."""
    return json.dumps(value).encode()
