from __future__ import annotations

import socket

import pytest

from vllama_pool.router.supervisor.checks import CannotLaunch
from vllama_pool.router.supervisor.listening_socket import listen, url


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
