"""A server of /v1 that answers as Ollama does, without a model and without a connection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.support.compat.changes import Change
from tests.support.compat.messages_route import messages
from tests.support.compat.openai_routes import chat, completions, embeddings
from tests.support.compat.reply import MODELS, Refused, known
from tests.support.compat.responses_route import responses
from tests.support.compat.zstd_bodies import InvalidBody, decompress
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import RawResponse, ServerUrl

TYPES = {400: "invalid_request_error", 404: "not_found_error"}
TRANSCRIPTIONS = "/v1/audio/transcriptions"
UNCACHED = ("/v1/responses", "/v1/messages")
ROUTES: Mapping[str, Callable[[Mapping[str, Any]], Iterator[Any]]] = {
    "/v1/chat/completions": chat,
    "/v1/completions": completions,
    "/v1/embeddings": embeddings,
    "/v1/responses": responses,
    "/v1/messages": messages,
}


class OllamaV1(CheckedServer):
    """`change` makes a wrong server of it."""

    def __init__(self, change: Change = lambda response: response) -> None:
        super().__init__(ServerUrl("127.0.0.1", 1), MODELS)
        self._change = change

    async def send(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> RawResponse:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self._change(answer(path.partition("?")[0], data, (headers or {}).get("Content-Encoding", "")))


def answer(path: str, data: bytes, coding: str) -> RawResponse:
    try:
        if path == TRANSCRIPTIONS:
            return transcription(data.decode("latin-1"))
        if path == "/api/status":
            return json_response(200, {"cloud": {"disabled": True, "source": "config"}})
        body = parse(decompress(data) if coding == "zstd" and path in ROUTES else data)
        if body.get("model") == "vllama-compat:cloud":
            return json_response(403, {"error": "ollama cloud is disabled: remote model is unavailable"})
        items = list(ROUTES[path](body))
    except InvalidBody as error:
        return json_response(400, {"error": str(error)})
    except Refused as refused:
        return json_response(refused.status, error_body(path, refused.status, refused.text))
    if body.get("stream") and path != "/v1/embeddings":
        return event_stream(items, uncached=path in UNCACHED)
    return json_response(200, items[0])


def parse(data: bytes) -> dict[str, Any]:
    if not data:
        raise Refused(400, "EOF")
    try:
        return dict(json.loads(data))
    except (TypeError, ValueError):
        raise Refused(400, "invalid character") from None


def error_body(path: str, status: int, text: str) -> dict[str, Any]:
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": TYPES[status], "message": text}, "request_id": "req_1"}
    return {"error": {"message": text, "type": TYPES[status], "param": None, "code": None}}


def json_response(status: int, body: Any) -> RawResponse:
    return RawResponse(status, (("content-type", "application/json"),), json.dumps(body).encode() + b"\n", None)


def event_stream(items: list[Any], *, uncached: bool) -> RawResponse:
    """Events of OpenAI's older routes have no names."""
    chunks = []
    for item in items:
        name = f"event: {item['type']}\n" if isinstance(item, dict) and "type" in item else ""
        data = item if isinstance(item, str) else json.dumps(item)
        chunks.append(f"{name}data: {data}\n\n".encode())
    headers = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
    headers += [("cache-control", "no-cache")] if uncached else []
    return RawResponse(200, tuple(headers), b"".join(chunks), tuple(chunks))


def transcription(form: str) -> RawResponse:
    def value(name: str) -> str:
        return form.partition(f'name="{name}"\r\n\r\n')[2].partition("\r\n--")[0]

    if not form.startswith("--"):
        raise Refused(400, "failed to parse multipart form: request Content-Type isn't multipart/form-data")
    if not value("model"):
        raise Refused(400, "model is required")
    if 'name="file"' not in form:
        raise Refused(400, "file is required: http: no such file")
    if "RIFF" not in form:
        raise Refused(400, "audio file is empty")
    known({"model": value("model")})
    if value("response_format") == "text":
        return RawResponse(200, (("content-type", "text/plain"),), b"hello", None)
    return json_response(200, {"text": "hello"})
