"""https workers: a private authority for probes and requests, and the true reason of each failed connection."""

from __future__ import annotations

import asyncio
import datetime
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result

from tests.support.clients.exchanges import PulledResponse, begin
from tests.support.fleet.agents import agent, wait_for
from tests.support.fleet.live import fleet, model
from tests.support.registry.membership_sink import Recorder
from tests.support.registry.valkey import running_valkey
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.vllm.balancer import Balancer
from tests.support.vllm.simulated import FAST
from vllama_pool.config.routing.schema import WorkerEntry
from vllama_pool.router.cli.main import main
from vllama_pool.router.discovery.membership import TTL
from vllama_pool.router.discovery.static_watch import StaticWatch
from vllama_pool.router.discovery.trust import Endpoints
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import TransportError
from vllama_pool.workers.registry import embedded
from vllama_pool.workers.registry.client import Registry, connect
from vllama_pool.workers.registry.record import WorkerRecord, WorkerState
from vllama_pool.workers.simulated.server import Simulated
from vllama_pool.workers.vllm.probe import http_client
from vllama_pool.workers.vllm.trust_store import TrustStore

CHAT: dict[str, Any] = {"model": "m", "stream": False, "messages": [{"role": "user", "content": "hi"}]}
PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with the authority, as SSL_CERT_FILE."""
    path = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(path)
    monkeypatch.setenv("SSL_CERT_FILE", path)
    return path


def certificate(authority: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("localhost",)), **options).configure_cert(context)
    return context


@asynccontextmanager
async def tls_worker(tls: ssl.SSLContext, host: str = "localhost") -> AsyncIterator[Balancer]:
    async with Simulated(FAST) as worker, Balancer([worker.port], tls=tls, host=host) as front:
        yield front


async def test_a_static_worker_with_a_private_authority_is_probed_and_used(
    authority: trustme.CA, trusted: str, tmp_path: Path
) -> None:
    async with tls_worker(certificate(authority)) as front:
        table = routing_table(workers=[{"url": front.url, "name": "gpu"}])
        async with fleet(tmp_path, {}, table=table) as running:
            assert await running.states() == {"static/gpu": "ready"}
            assert (await running.http.post("/api/chat", json=CHAT)).status_code == 200


async def test_an_agent_trusts_the_same_authority(authority: trustme.CA, trusted: str, tmp_path: Path) -> None:
    async with (
        tls_worker(certificate(authority)) as front,
        running_valkey(tmp_path),
        connect(embedded.address(tmp_path)) as redis,
    ):
        env = {"SSL_CERT_FILE": trusted}
        async with agent("--attach", front.url, "--name", "w", state_dir=tmp_path, env=env):
            found = await wait_for(Registry(redis, "default"), "w", WorkerState.READY, 60)
            assert found.record.url == front.url
        async with agent("--attach", front.url, "--name", "w", state_dir=tmp_path, env={"SSL_CERT_FILE": ""}) as worker:
            await auntil(lambda: worker.says("is not trusted"), 60, "the reason")


async def test_a_registered_worker_that_is_not_trusted_is_shown_with_the_reason(
    trusted: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its agent trusts it and beats; the request moves to another worker."""
    async with (
        tls_worker(certificate(trustme.CA())) as front,
        fleet(tmp_path, {"good": FAST}, worker_key=None) as running,
    ):
        record = WorkerRecord(id="bad", generation=1, url=front.url, models=(model(FAST),), slots=100)
        announced = running.workers["good"]
        await running.registry.register(record, announced.load())

        async def view() -> dict[str, Any] | None:
            workers = (await running.http.get("/admin/workers")).json()["workers"]
            return next((worker for worker in workers if worker["id"] == "bad"), None)

        async def noted() -> bool:
            await running.registry.beat("bad", 1, announced.load())
            answers = await asyncio.gather(*(running.http.post("/api/chat", json=CHAT) for _ in range(4)))
            assert [answer.status_code for answer in answers] == [200] * 4
            seen = await view()
            return seen is not None and "is not trusted" in seen["note"]

        await auntil(noted, 20, "the reason")
        assert len([m for m in caplog.messages if "cannot be reached" in m and "not trusted" in m]) == 1


async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(16)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(16)
    writer.close()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(16)
    writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")
    await writer.drain()
    writer.close()


async def complain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As nginx and Go answer plain HTTP at their TLS port."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
    await writer.drain()
    writer.close()


async def alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x15\x03\x01\x00\x02\x02\x46")
    await writer.drain()
    writer.close()


async def reasons(url: str, caplog: pytest.LogCaptureFixture) -> tuple[str, str]:
    """Return the reasons that a static worker and a request on it are given, once they are."""
    now, pool, trust = 100.0, Recorder(), TrustStore()
    async with http_client(5, trust=trust.context) as client:
        endpoints = Endpoints(None, trust)
        watch = StaticWatch(WorkerEntry(url=url, name="gpu"), pool, client, endpoints, None, lambda: now)
        for _ in range(4):
            await watch.probe()
            now += TTL
    load = pool.known["static/gpu"].load
    assert load is not None
    (logged,) = caplog.messages
    assert logged == f"static worker gpu is down: {load.note}"
    upstream, response = UpstreamClient(), PulledResponse()
    try:
        response.exchange = begin(upstream, pool.known["static/gpu"].endpoint, response, path="/health")
        await response.begun()
    except TransportError as error:
        return load.note, str(error)
    finally:
        await upstream.aclose()
    return load.note, f"HTTP {response.status}"


@pytest.mark.parametrize(
    ("names", "host", "options", "words"),
    [
        (("elsewhere.example",), "localhost", {}, "is for another name: Hostname mismatch"),
        (("localhost",), "127.0.0.1", {}, "is for another name: IP address mismatch"),
        (("localhost",), "localhost", {"not_before": PAST, "not_after": PAST.replace(year=2021)}, "has expired"),
    ],
)
async def test_an_unusable_certificate_is_named_once(
    names: tuple[str, ...],
    host: str,
    options: dict[str, Any],
    words: str,
    authority: trustme.CA,
    trusted: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with tls_worker(certificate(authority, *names, **options), host) as front:
        for reason in await reasons(front.url, caplog):
            assert words in reason


async def test_an_unknown_authority_is_named_with_the_cure(trusted: str, caplog: pytest.LogCaptureFixture) -> None:
    async with tls_worker(certificate(trustme.CA())) as front:
        for reason in await reasons(front.url, caplog):
            assert "is not trusted" in reason
            assert "set SSL_CERT_FILE" in reason


@pytest.mark.parametrize(
    ("server", "scheme", "probe", "request_words"),
    [
        (plain, "https", "does not speak TLS; use http://", "does not speak TLS; use http://"),
        (greet, "https", "does not speak TLS", "does not speak TLS"),
        (close, "https", "during the TLS handshake", "during the TLS handshake"),
        (complain, "http", "speaks TLS; use https://", "HTTP 400"),
        (alert, "http", "if the port speaks TLS, use https://", "speaks TLS; use https://"),
        (greet, "http", "without an answer", "not HTTP"),
        (close, "http", "without an answer; if the port speaks TLS, use https://", "closed the connection"),
    ],
)
async def test_a_server_of_another_protocol_is_named_once(
    server: Any, scheme: str, probe: str, request_words: str, caplog: pytest.LogCaptureFixture
) -> None:
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        noted, raised = await reasons(f"{scheme}://127.0.0.1:{port}", caplog)
    assert probe in noted
    assert request_words in raised


async def test_a_tls_port_addressed_as_plain_http_is_named(
    authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    async with tls_worker(certificate(authority)) as front:
        noted, _ = await reasons(front.url.replace("https:", "http:"), caplog)
    assert "use https://" in noted


async def command_line(*arguments: str, **env: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=env)


async def test_commands_trust_the_authority_of_a_router_behind_tls(
    authority: trustme.CA, trusted: str, tmp_path: Path
) -> None:
    async with (
        fleet(tmp_path, {"a": FAST}) as running,
        Balancer([int(running.url.rpartition(":")[2])], per_request=True, tls=certificate(authority)) as front,
    ):
        url = f"https://localhost:{front.port}"
        listed = await command_line("ps", "--url", url, "--json")
        assert (listed.exit_code, "ready" in listed.stdout) == (0, True), listed.output
        checked = await command_line("compat", url, "--rule", "R002")
        assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize("command", [("ps", "--url"), ("compat",)], ids=["ps", "compat"])
async def test_commands_name_the_reason_of_a_failed_connection_in_one_line(
    command: tuple[str, ...], authority: trustme.CA, trusted: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    listening = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with listening, tls_worker(certificate(authority)) as front:
        port = listening.sockets[0].getsockname()[1]
        cases = [
            (f"https://localhost:{front.port}", str(other), "is not trusted: .*; set SSL_CERT_FILE"),
            (f"https://127.0.0.1:{front.port}", trusted, "is for another name: .*; use a name of the certificate"),
            (f"https://127.0.0.1:{port}", trusted, "does not speak TLS; use http://"),
            (f"http://127.0.0.1:{front.port}", trusted, "use https://"),
            ("https://no-such-host.invalid", trusted, "does not resolve|cannot be resolved"),
        ]
        for url, store, words in cases:
            result = await command_line(*command, url, SSL_CERT_FILE=store)
            assert result.exit_code in (1, 2)
            assert re.fullmatch(f"vllama: .*({words}).*\n", result.stderr), (url, result.stderr)
            assert "Traceback" not in result.output


async def test_a_refused_connection_and_an_unknown_name_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        for reason in await reasons(f"https://127.0.0.1:{bound.getsockname()[1]}", caplog):
            assert "refuses connections" in reason
    caplog.clear()
    for reason in await reasons("https://no-such-host.invalid", caplog):
        assert "name" in reason
        assert "resolve" in reason
