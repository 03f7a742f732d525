from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.bench.programs import CannotMeasure
from tests.bench.real import requests
from tests.bench.streams import Request, run, tokens

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
TOKEN = b'data: {"choices":[{"delta":{"content":" a"}}]}\n\n'
USAGE = b'data: {"usage":{"prompt_tokens":3,"completion_tokens":12}}\n\n'
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@contextmanager
def a_server(writes: Sequence[bytes], connections: int) -> Iterator[int]:
    """Answer so many connections with the writes; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for _ in range(connections):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    for data in writes:
                        connection.sendall(data)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def test_the_tokens_of_all_streams_are_counted() -> None:
    with a_server([HEAD, chunk(ROLE), chunk(TOKEN), chunk(USAGE), LAST_CHUNK], 3) as port:
        result = run([Request(port, "/v1/chat/completions", b"{}")] * 3, 10)
    assert result.tokens == 36
    assert len(result.first) == 3
    assert 0 < result.mean_first <= result.seconds
    assert result.rate == result.tokens / result.seconds


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 503 Busy\r\n\r\n" + chunk(TOKEN + USAGE) + LAST_CHUNK,
        HEAD + chunk(TOKEN + USAGE),
        HEAD + chunk(ROLE + USAGE) + LAST_CHUNK,
        HEAD + chunk(TOKEN) + LAST_CHUNK,
        b"",
    ],
    ids=["refused", "cut off", "no content", "no count", "nothing"],
)
def test_a_stream_that_failed_does_not_count(response: bytes) -> None:
    with pytest.raises(CannotMeasure, match="a stream failed"):
        tokens(response)


def test_requests_are_sent_at_their_times() -> None:
    with a_server([HEAD, chunk(TOKEN), chunk(USAGE), LAST_CHUNK], 2) as port:
        result = run([Request(port, "/api/chat", b"{}", 0.2), Request(port, "/api/chat", b"{}")], 10)
    assert result.seconds >= 0.2
    assert len(result.first) == 2


def test_a_connection_that_ends_early_is_reported() -> None:
    with a_server([HEAD, chunk(TOKEN)], 1) as port, pytest.raises(CannotMeasure, match="a stream failed"):
        run([Request(port, "/api/chat", b"{}")], 10)


def test_both_kinds_ask_for_the_same_chats_and_tokens() -> None:
    direct = [json.loads(each.body) for each in requests(1, routed=False, tokens=64, times=[0.1] * 9)]
    routed = [json.loads(each.body) for each in requests(2, routed=True, tokens=64, times=[0.1] * 9)]
    assert [one["messages"] for one in direct] == [one["messages"] for one in routed]
    assert len({one["messages"][0]["content"] for one in direct}) == 9
    assert {one["max_tokens"] for one in direct} == {one["options"]["num_predict"] for one in routed} == {64}
    assert all(one["stream"] and one["temperature"] == 0 for one in direct)
    assert all(one["stream"] and one["options"]["temperature"] == 0 for one in routed)
