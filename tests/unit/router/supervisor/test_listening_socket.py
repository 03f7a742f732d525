from __future__ import annotations

import asyncio
import socket

import pytest

from vllama_pool.router.supervisor.checks import CannotLaunch
from vllama_pool.router.supervisor.listening_socket import close_gently, listen, url


def test_a_port_in_use_is_one_line_that_says_what_to_do() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(CannotLaunch) as caught:
            listen("127.0.0.1", port)
    assert f"127.0.0.1:{port} is in use" in str(caught.value)
    assert f"--port {port + 1}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotLaunch, match="not an address of this machine"):
        listen("192.0.2.1", 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6_loopback_can_be_listened_on() -> None:
    with listen("::1", 0) as sock:
        assert sock.family == socket.AF_INET6


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("::", "http://[::1]:1")],
)
def test_the_url_of_a_wildcard_address_is_reachable(host: str, expected: str) -> None:
    assert url(host, 1) == expected


async def test_a_gentle_close_waits_until_the_queued_connections_are_accepted_and_refuses_new_ones() -> None:
    listening = listen("127.0.0.1", 0)
    process = listening.dup()  # a router process shares the queue
    port = listening.getsockname()[1]
    queued = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for one in queued:
        one.sendall(b"request")
    closing = asyncio.ensure_future(close_gently(listening))
    await asyncio.sleep(0)
    with socket.socket() as late:
        late.setblocking(False)
        with pytest.raises(BlockingIOError):
            late.connect(("127.0.0.1", port))
        accepted = [process.accept()[0] for _ in range(20)]
        assert [one.recv(100) for one in accepted] == [b"request"] * 20
        await asyncio.wait_for(closing, 30)
        process.close()
        with pytest.raises(BlockingIOError):  # it never was in the queue
            late.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    for one in (*accepted, *queued):
        one.close()


async def test_a_gentle_close_ends_although_nobody_accepts() -> None:
    listening = listen("127.0.0.1", 0)
    with socket.create_connection(listening.getsockname()):
        await asyncio.wait_for(close_gently(listening), 30)
    await close_gently(listening)
