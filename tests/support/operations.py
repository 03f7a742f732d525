"""A request for each operation of the router, and the marks of its answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.table import operations

HELLO = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True)
class Request:
    """A request that a worker answers at once."""

    path: str
    fields: dict[str, Any]
    worker_path: str
    """Path of vLLM that serves it."""
    embeds: bool = False
    """Needs a model for embeddings."""
    counts: bool = False
    """Counts tokens only."""
    hears: bool = False
    """Takes a form with a recording, and needs a model that transcribes."""
    stream: bool | None = None
    """None if the operation has no streams."""

    @property
    def names_model(self) -> bool:
        """True if the answer names the model."""
        return not self.counts and self.path != "/api/embeddings" and (not self.hears or self.stream is True)

    def content(self, model: str) -> dict[str, Any]:
        """Return the body, as arguments for httpx."""
        stream = {} if self.stream is None else {"stream": self.stream}
        fields = {"model": model, **stream, **self.fields}
        return {"data": fields, "files": {"file": ("a.wav", b"RIFF")}} if self.hears else {"json": fields}

    def __str__(self) -> str:
        return f"{self.path}{' streamed' if self.stream else ''}"


def _generation(path: str, worker_path: str, **fields: Any) -> tuple[Request, Request]:
    return tuple(Request(path, fields, worker_path, stream=stream) for stream in (False, True))  # type: ignore[return-value]


REQUESTS = (
    *_generation("/api/chat", "/v1/chat/completions", messages=HELLO),
    *_generation("/api/generate", "/v1/chat/completions", prompt="hello"),
    Request("/api/embed", {"input": "hello"}, "/v1/embeddings", embeds=True),
    Request("/api/embeddings", {"prompt": "hello"}, "/v1/embeddings", embeds=True),
    *_generation("/v1/chat/completions", "/v1/chat/completions", messages=HELLO),
    *_generation("/v1/completions", "/v1/completions", prompt="hello"),
    *_generation("/v1/responses", "/v1/responses", input="hello"),
    *_generation("/v1/messages", "/v1/messages", messages=HELLO, max_tokens=50),
    Request("/tokenize", {"prompt": "hello"}, "/tokenize", counts=True),
    Request("/detokenize", {"tokens": [1]}, "/detokenize", counts=True),
    Request("/v1/messages/count_tokens", {"messages": HELLO}, "/v1/messages/count_tokens", counts=True),
    Request("/v1/embeddings", {"input": "hello"}, "/v1/embeddings", embeds=True),
    *(
        Request(path, {"query": "hello", "documents": ["hello", "bye"]}, path, embeds=True)
        for path in ("/rerank", "/v1/rerank", "/v2/rerank")
    ),
    *(Request(path, {"text_1": "hello", "text_2": "bye"}, path, embeds=True) for path in ("/score", "/v1/score")),
    *(
        Request("/v1/audio/transcriptions", {}, "/v1/audio/transcriptions", hears=True, stream=stream)
        for stream in (False, True)
    ),
)


def all_paths() -> set[str]:
    return {operation.path for operation in operations(SystemClock())}


def is_whole(request: Request, response: httpx.Response) -> bool:
    """True if the response is a complete answer."""
    if response.status_code != 200:
        return False
    if not request.stream:
        found = response.json()
        return found.get("error") is None and found.get("type") != "error"
    return _ENDS.get(request.path, _ends_as_openai)(response.text)


def _ends_as_ollama(text: str) -> bool:
    return bool(json.loads(text.splitlines()[-1]).get("done"))


def _ends_as_openai(text: str) -> bool:
    return text.endswith("data: [DONE]\n\n")


_ENDS: dict[str, Callable[[str], bool]] = {
    "/api/chat": _ends_as_ollama,
    "/api/generate": _ends_as_ollama,
    "/v1/messages": lambda text: "event: message_stop\n" in text,
    "/v1/responses": lambda text: "event: response.completed\n" in text or "event: response.incomplete\n" in text,
}


def ends_with_error(request: Request, text: str) -> bool:
    """True for a stream with content that ends with an error in the format of the request's API."""
    if request.path.startswith("/api/"):
        *lines, last = text.splitlines()
        return bool(lines) and set(json.loads(last)) == {"error"}
    *events, last = text.removesuffix("\n\n").split("\n\n")
    payload = last.rpartition("data: ")[2]
    if not events or payload == "[DONE]":
        return False
    data = json.loads(payload)
    if request.path == "/v1/responses":
        return bool(data["type"] == "response.failed" and data["response"]["error"]["message"])
    return bool(data.get("error", {}).get("message")) and (request.path != "/v1/messages" or data["type"] == "error")


def error_text(request: Request, response: httpx.Response) -> str:
    """Return the message of an error in the format of the request's API. Raises KeyError for another format."""
    found = response.json()
    if request.path.startswith("/api/"):
        return str(found["error"])
    if request.path.startswith("/v1/messages"):
        assert found["type"] == "error"
        assert found["request_id"].startswith("req_")
        return str(found["error"]["message"])
    assert set(found["error"]) == {"message", "type", "param", "code"}
    return str(found["error"]["message"])
