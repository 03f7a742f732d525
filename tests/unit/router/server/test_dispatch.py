"""What is settled before a handler is chosen, without a server."""

from collections.abc import MutableMapping
from typing import Any

import pytest

from vllama_pool.router.protocol.ollama.fixed_routes import FixedRoute, always
from vllama_pool.router.server.asgi import Receive, Scope, Send, send_and_drain, send_response
from vllama_pool.router.server.dispatch import Dispatcher

Message = MutableMapping[str, Any]
HI = FixedRoute("/hi", ("GET",), always(b"fixed"))


async def served(scope: Scope, receive: Receive, send: Send) -> None:
    await send_response(send, 200, b"served")


class Client:
    """Sends what it is given, and keeps what it gets."""

    def __init__(self, *sent: Message) -> None:
        self.left = list(sent)
        self.got: list[Message] = []

    async def receive(self) -> Message:
        return self.left.pop(0)

    async def send(self, message: Message) -> None:
        self.got.append(message)

    @property
    def status(self) -> int:
        return int(self.got[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.got[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.got[1:])


def scope(method: str, path: str, **headers: str) -> Scope:
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "query_string": b"", "headers": listed}


def part(body: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_served_path_wins_over_a_fixed_route() -> None:
    alone, both = Dispatcher(served, [], [HI], 10), Dispatcher(served, [("/hi", ("GET",))], [HI], 10)
    for surface, body in ((alone, b"fixed"), (both, b"served")):
        client = Client()
        await surface(scope("GET", "/hi"), client.receive, client.send)
        assert client.body == body


async def test_lifespan_events_pass_through() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    client = Client()
    await Dispatcher(app, [], [], 10)({"type": "lifespan"}, client.receive, client.send)
    assert seen == ["lifespan"]


@pytest.mark.parametrize(("length", "status"), [("10", 200), ("11", 413)])
async def test_a_content_length_over_the_limit_is_refused_before_the_body_is_read(length: str, status: int) -> None:
    client = Client(part(b"", more=False))
    surface = Dispatcher(served, [("/x", ("POST",))], [], 10)
    await surface(scope("POST", "/x", content_length=length), client.receive, client.send)
    assert client.status == status


@pytest.mark.rule(178)
async def test_content_encoding_is_ignored_on_methods_without_a_body() -> None:
    client = Client()
    surface = Dispatcher(served, [("/x", ("GET",))], [], 10)
    await surface(scope("GET", "/x", content_encoding="gzip"), client.receive, client.send)
    assert client.status == 200


async def test_an_early_response_is_sent_before_the_rest_of_the_body_is_discarded() -> None:
    client = Client(part(b"a"), part(b"b"), part(b"c", more=False))
    await send_and_drain(scope("POST", "/x", content_length="3"), client.receive, client.send, 413, b"no")
    assert [message.get("body") for message in client.got] == [None, b"no", b""]
    assert [message.get("more_body") for message in client.got] == [None, True, False]
    assert client.left == []
    assert b"connection" not in client.headers


async def test_discarding_a_body_ends_when_the_client_disconnects() -> None:
    client = Client(part(b"a"), {"type": "http.disconnect"})
    await send_and_drain(scope("POST", "/x", transfer_encoding="chunked"), client.receive, client.send, 413, b"no")
    assert (client.left, client.body) == ([], b"no")


async def test_expect_100_continue_gets_connection_close_and_its_body_is_not_read() -> None:
    client = Client()
    asked = scope("POST", "/x", content_length="3", expect="100-continue")
    await send_and_drain(asked, client.receive, client.send, 413, b"no")
    assert client.headers[b"connection"] == b"close"
