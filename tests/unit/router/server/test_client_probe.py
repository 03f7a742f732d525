"""The probe of a client that may have left, on a pair of sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from tests.support.garbage import watch_garbage
from tests.support.until import auntil
from vllama_pool.router.server.client_probe import RESPONSE_START, ClientProbe, ResponseStart

RESPONSE = b"HTTP/1.1 200 OK\r\n\r\n"


class Cycle:
    """A request and its response."""

    response_started = False

    def __init__(self, transport: Any) -> None:
        self.transport = transport


class Served:
    """A server's end of a connection with one request that waits for its response."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.client = socket.create_connection(listening.getsockname())
            self._accepted, _ = listening.accept()
        self.client.setblocking(False)
        self.aborted = self.half_closed = False
        self.cycle: Any = Cycle(self)
        self.waiting = self.cycle
        loop = asyncio.get_running_loop()
        transport: Any = self
        self.probe = ClientProbe(transport, loop, lambda: self.waiting, self._end_of_stream)

    def _end_of_stream(self) -> None:
        self.half_closed = True

    def get_extra_info(self, name: str) -> socket.socket:
        return self._accepted

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def write(self, data: bytes) -> None:
        self._accepted.sendall(data)

    def close(self) -> None:
        self.probe.stop()
        self._accepted.close()
        self.client.close()


@pytest.fixture
async def served() -> Any:
    opened = Served()
    yield opened
    opened.close()


async def test_a_client_that_closed_is_found(served: Served) -> None:
    served.client.close()
    await auntil(lambda: served.aborted, 5, "the abort")
    assert not served.probe.running


async def test_a_half_closed_client_gets_every_byte_once(served: Served) -> None:
    served.client.shutdown(socket.SHUT_WR)
    await auntil(lambda: served.half_closed, 5, "the end of stream")
    await auntil(lambda: isinstance(served.cycle.transport, ResponseStart), 5, "the first byte")
    served.cycle.transport.write(RESPONSE[:9])
    served.cycle.transport.write(RESPONSE[9:])
    assert served.client.recv(100, socket.MSG_PEEK) == RESPONSE
    assert not served.aborted


async def test_at_most_the_common_start_of_responses_is_written_ahead(served: Served) -> None:
    begun = ResponseStart(served.cycle)
    for _ in RESPONSE_START:
        begun.write_ahead()
    assert served.client.recv(100) == RESPONSE_START
    begun.write(RESPONSE)
    assert RESPONSE_START + served.client.recv(100) == RESPONSE


async def test_an_http_1_0_client_gets_its_version_after_bytes_that_were_written_ahead(served: Served) -> None:
    start = ResponseStart(served.cycle, http10=True)
    start.write_ahead()
    start.write(RESPONSE)
    served.cycle.transport.write(RESPONSE)
    assert served.client.recv(100) == RESPONSE.replace(b"1.1", b"1.0") + RESPONSE


async def test_nothing_is_written_into_a_response(served: Served) -> None:
    served.cycle.response_started = True
    served.client.shutdown(socket.SHUT_WR)
    await auntil(lambda: served.half_closed, 5, "the end of stream")
    assert served.cycle.transport is served


@pytest.mark.parametrize("http10", [False, True])
async def test_a_client_that_leaves_before_its_response_leaves_no_garbage(served: Served, http10: bool) -> None:
    with watch_garbage() as garbage:
        cycle: Any = Cycle(served)
        cycle.transport = ResponseStart(cycle, http10=http10)
        del cycle
    assert garbage == []


async def test_it_ends_with_the_response(served: Served) -> None:
    served.waiting = None
    await auntil(lambda: not served.probe.running, 5, "the end")
    assert not served.aborted
