"""Request bodies and error responses."""

import json
import threading
from collections.abc import MutableMapping
from typing import Any

import pytest

from tests.support.asgi import FakeClient
from vllama_pool.router.errors import BadRequest, ClientError, ServerBusy, TooLarge
from vllama_pool.router.offload import INLINE_BYTES
from vllama_pool.router.server.asgi import ClientDisconnected, Receive, decode_body, read_body, send_error


def receiving(*messages: MutableMapping[str, Any]) -> Receive:
    unread = list(messages)

    async def receive() -> MutableMapping[str, Any]:
        return unread.pop(0)

    return receive


def part(body: bytes, more: bool = True) -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def thread_of(body: bytes) -> int:
    return threading.get_ident()


def refuse(body: bytes) -> None:
    raise BadRequest("no")


async def test_a_large_body_is_decoded_in_a_thread() -> None:
    assert await decode_body(thread_of, b" " * INLINE_BYTES) == threading.get_ident()
    assert await decode_body(thread_of, b" " * (INLINE_BYTES + 1)) != threading.get_ident()


async def test_a_body_with_a_schema_as_format_is_decoded_in_a_thread_from_a_smaller_size_on() -> None:
    for body in (b'{"format":{}}', b'{"format" :\r\n\t {}}'):
        assert await decode_body(thread_of, body) == threading.get_ident()
        assert await decode_body(thread_of, body.ljust(INLINE_BYTES // 16)) != threading.get_ident()
    for body in (b"{}", b'{"tools":[{"format":"uri"}]}', b'{"format":"json"}'):
        assert await decode_body(thread_of, body.ljust(INLINE_BYTES // 16)) == threading.get_ident()


@pytest.mark.parametrize("size", [1, INLINE_BYTES + 1])
async def test_a_decoding_error_is_raised_from_the_thread_too(size: int) -> None:
    with pytest.raises(BadRequest, match="no"):
        await decode_body(refuse, b" " * size)


async def test_a_body_in_several_messages_is_joined() -> None:
    assert await read_body(receiving(part(b"a"), part(b""), part(b"b", more=False)), 2) == b"ab"


@pytest.mark.parametrize("messages", [[part(b"abc", more=False)], [part(b"ab"), part(b"c")]])
async def test_a_body_over_the_limit_is_refused_before_its_end(messages: list[MutableMapping[str, Any]]) -> None:
    with pytest.raises(TooLarge, match="larger than"):
        await read_body(receiving(*messages), 2)


async def test_a_disconnect_within_the_body_raises_client_disconnected() -> None:
    with pytest.raises(ClientDisconnected):
        await read_body(receiving(part(b"a"), {"type": "http.disconnect"}), 10)


async def sent(error: ClientError, path: str, request_id: str = "") -> FakeClient:
    client = FakeClient()
    await send_error(client.send, error, path, request_id)
    return client


async def test_an_error_has_its_field_and_code_for_openais_clients() -> None:
    client = await sent(BadRequest("too many", param="n", code="too_many"), "/v1/completions")
    assert (client.status, json.loads(client.body)["error"]) == (
        400,
        {"message": "too many", "type": "invalid_request_error", "param": "n", "code": "too_many"},
    )


@pytest.mark.parametrize(("path", "kind"), [("/v1/messages", "overloaded_error"), ("/v1/responses", "api_error")])
async def test_an_overload_says_when_to_come_back(path: str, kind: str) -> None:
    client = await sent(ServerBusy("busy", retry_after=3), path, "a1")
    assert (client.status, client.headers[b"retry-after"]) == (503, b"3")
    assert json.loads(client.body)["error"]["type"] == kind


async def test_an_anthropic_error_names_its_request() -> None:
    assert json.loads((await sent(BadRequest("no"), "/v1/messages", "a1")).body)["request_id"] == "req_a1"
