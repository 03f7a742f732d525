"""The dispatcher: fixed routes, and requests refused before a handler is called."""

import json

import pytest

from tests.support.asgi import DISCONNECT, FakeClient, body_part, http_scope
from tests.support.zstd import frame
from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.ollama.fixed_routes import FixedRoute, always
from vllama_pool.router.server.asgi import (
    BODY,
    App,
    Receive,
    Scope,
    Send,
    read_body,
    send_and_drain,
    send_error,
    send_response,
    take_body,
)
from vllama_pool.router.server.dispatch import Dispatcher
from vllama_pool.router.server.zstd_body import ZSTD_PATHS

HI = FixedRoute("/hi", ("GET",), always(b"fixed"))


async def served(scope: Scope, receive: Receive, send: Send) -> None:
    await send_response(send, 200, b"served")


async def test_a_served_path_wins_over_a_fixed_route() -> None:
    alone, both = Dispatcher(served, [], [HI], 10), Dispatcher(served, [("/hi", ("GET",))], [HI], 10)
    for dispatcher, body in ((alone, b"fixed"), (both, b"served")):
        client = FakeClient()
        await dispatcher(http_scope("GET", "/hi"), client.receive, client.send)
        assert client.body == body


async def call_hot(app: App, method: str = "POST", **headers: str) -> FakeClient:
    """Call a dispatcher whose hot path /hot is served by `app`, and the same path by `served` otherwise."""
    client, scope = FakeClient(body_part(b"", more=False)), http_scope(method, "/hot", **headers)
    dispatcher = Dispatcher(served, [("/hot", ("GET",))], [], 10, {"/hot": app})
    await dispatcher(scope, client.receive, client.send)
    return client


@pytest.mark.parametrize(("method", "status", "body"), [("POST", 201, b"hot"), ("GET", 200, b"served")])
async def test_a_hot_path_is_called_directly_for_posts_only(method: str, status: int, body: bytes) -> None:
    async def hot(scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(send, 201, b"hot")

    client = await call_hot(hot, method)
    assert (client.status, client.body) == (status, body)


async def test_other_methods_of_a_hot_path_are_refused_with_the_allowed_ones() -> None:
    client = await call_hot(served, "PUT")
    assert (client.status, client.headers[b"allow"]) == (405, b"GET, POST")


@pytest.mark.parametrize(("headers", "status"), [({"content_length": "11"}, 413), ({"content_encoding": "zstd"}, 415)])
async def test_a_hot_path_gets_no_refused_bodies(headers: dict[str, str], status: int) -> None:
    async def hot(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    assert (await call_hot(hot, **headers)).status == status


@pytest.mark.parametrize(("headers", "status"), [({"content_length": "11"}, 413), ({"content_encoding": "gzip"}, 415)])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/rerank", "/api/chat"])
async def test_a_refused_body_gets_an_error_in_the_format_of_the_paths_api(
    path: str, headers: dict[str, str], status: int
) -> None:
    client = FakeClient(body_part(b"", more=False))
    dispatcher = Dispatcher(served, [], [], 10, {path: served})
    await dispatcher(http_scope("POST", path, **headers), client.receive, client.send)
    error = json.loads(client.body)
    text = {413: "request body is larger than", 415: "request bodies in gzip are not supported"}[status]
    assert client.status == status
    if path == "/api/chat":
        assert error["error"].startswith(text)
    else:
        assert error["error"]["message"].startswith(text)
        assert error.get("request_id") == ("req_id-1" if path == "/v1/messages" else None)


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    """Echo the body, as handlers read it."""
    try:
        await send_response(send, 200, take_body(scope) or await read_body(receive, 100))
    except ClientError as error:
        await send_error(send, error, scope["path"], "a1")


class Arrived:
    """A body that has arrived, as it was sent."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    def take_body(self) -> bytes | None:
        body, self._body = self._body, None
        return body


async def send_encoded(path: str, body: bytes, encoding: str = "zstd", **headers: str) -> FakeClient:
    client = FakeClient(body_part(body, more=False))
    dispatcher = Dispatcher(reading, [("/cold", ("POST",))], [], 100, {path: reading})
    scope = http_scope("POST", path, content_encoding=encoding, **headers)
    scope[BODY] = Arrived(body)
    await dispatcher(scope, client.receive, client.send)
    return client


@pytest.mark.rule(178)
@pytest.mark.parametrize("path", sorted(ZSTD_PATHS))
@pytest.mark.parametrize("encoding", ["zstd", "Zstd", " zstd "])
async def test_a_zstd_body_reaches_handlers_of_openais_and_anthropics_main_routes_decoded(
    path: str, encoding: str
) -> None:
    client = await send_encoded(path, frame(b"hello"), encoding)
    assert (client.status, client.body) == (200, b"hello")


@pytest.mark.rule(178)
@pytest.mark.parametrize(
    "path", ["/api/chat", "/v1/audio/transcriptions", "/v1/rerank", "/rerank", "/tokenize", "/cold"]
)
async def test_a_zstd_body_is_refused_on_other_routes(path: str) -> None:
    client = await send_encoded(path, frame(b"hello"))
    assert (client.status, b"zstd are not supported" in client.body) == (415, True)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd, gzip", "zstd,zstd", "x-zstd", "x" * 100])
@pytest.mark.parametrize("path", sorted(ZSTD_PATHS))
async def test_other_encodings_are_refused_on_the_routes_with_zstd_too(path: str, encoding: str) -> None:
    client = await send_encoded(path, b"hello", encoding)
    error = json.loads(client.body)["error"]
    assert (client.status, error["type"]) == (415, "invalid_request_error")
    assert error["message"] == f"request bodies in {encoding[:40]} are not supported; send them uncompressed"


@pytest.mark.parametrize(
    ("body", "headers", "status", "openai", "anthropic"),
    [
        (b"{}", {}, 400, "invalid_request_error", "invalid_request_error"),
        (frame(b"hello")[:-1], {}, 400, "invalid_request_error", "invalid_request_error"),
        (frame(b"a" * 101), {}, 413, "invalid_request_error", "request_too_large"),
        (b"", {"content_length": "101"}, 413, "invalid_request_error", "request_too_large"),
    ],
)
@pytest.mark.parametrize("path", sorted(ZSTD_PATHS))
async def test_a_bad_zstd_body_gets_an_error_in_the_format_of_the_paths_api(
    path: str, body: bytes, headers: dict[str, str], status: int, openai: str, anthropic: str
) -> None:
    client = await send_encoded(path, body, **headers)
    kind = anthropic if path.startswith("/v1/messages") else openai
    assert (client.status, json.loads(client.body)["error"]["type"]) == (status, kind)


@pytest.mark.parametrize("encoding", ["identity", "", "Identity"])
async def test_an_identity_encoding_changes_nothing(encoding: str) -> None:
    assert (await send_encoded("/api/chat", b"hello", encoding)).body == b"hello"


async def test_lifespan_events_pass_through() -> None:
    types: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        types.append(scope["type"])

    client = FakeClient()
    await Dispatcher(app, [], [], 10)({"type": "lifespan"}, client.receive, client.send)
    assert types == ["lifespan"]


@pytest.mark.parametrize(("length", "status"), [("10", 200), ("11", 413)])
async def test_a_content_length_over_the_limit_is_refused_before_the_body_is_read(length: str, status: int) -> None:
    client = FakeClient(body_part(b"", more=False))
    dispatcher = Dispatcher(served, [("/x", ("POST",))], [], 10)
    await dispatcher(http_scope("POST", "/x", content_length=length), client.receive, client.send)
    assert client.status == status


@pytest.mark.rule(178)
async def test_content_encoding_is_ignored_on_methods_without_a_body() -> None:
    client = FakeClient()
    dispatcher = Dispatcher(served, [("/x", ("GET",))], [], 10)
    await dispatcher(http_scope("GET", "/x", content_encoding="gzip"), client.receive, client.send)
    assert client.status == 200


async def test_an_early_response_is_sent_before_the_rest_of_the_body_is_discarded() -> None:
    client = FakeClient(body_part(b"a"), body_part(b"b"), body_part(b"c", more=False))
    await send_and_drain(http_scope("POST", "/x", content_length="3"), client.receive, client.send, 413, b"no")
    assert [message.get("body") for message in client.received] == [None, b"no", b""]
    assert [message.get("more_body") for message in client.received] == [None, True, False]
    assert client.unread == []
    assert b"connection" not in client.headers


async def test_discarding_a_body_ends_when_the_client_disconnects() -> None:
    client = FakeClient(body_part(b"a"), DISCONNECT)
    await send_and_drain(http_scope("POST", "/x", transfer_encoding="chunked"), client.receive, client.send, 413, b"no")
    assert (client.unread, client.body) == ([], b"no")


async def test_expect_100_continue_gets_connection_close_and_its_body_is_not_read() -> None:
    client = FakeClient()
    request = http_scope("POST", "/x", content_length="3", expect="100-continue")
    await send_and_drain(request, client.receive, client.send, 413, b"no")
    assert client.headers[b"connection"] == b"close"
