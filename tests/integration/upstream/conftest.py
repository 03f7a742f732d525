"""Runs the tests on both event loops, and with both implementations of `interface.Client`."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import trustme
import uvloop

from tests.support.clients.httpx_client import HttpxClient
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import Client


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=["ours", "httpx"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """Our client, and the httpx client as its oracle."""
    client: Client = UpstreamClient(idle_expiry=600) if request.param == "ours" else HttpxClient()
    yield client
    await client.aclose()


@pytest.fixture
async def ours() -> AsyncIterator[UpstreamClient]:
    """Our client alone, where the oracle differs; the test says how. No idle connection expires."""
    client = UpstreamClient(idle_expiry=600)
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """A certificate for `localhost` and the loopback addresses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections: bound but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
