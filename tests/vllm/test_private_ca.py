"""A vLLM that speaks TLS itself, with a certificate of a private authority."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.support.fleet.live import PATIENT, Fleet, fleet
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.vllm.servers import ANSWER_TIMEOUT, Servers, Spec, VllmServer
from vllama_pool.config.routing.table import RoutingTable

CHAT: dict[str, Any] = {
    "model": "tiny-qwen3",
    "messages": [{"role": "user", "content": "hello"}],
    "options": {"num_predict": 8},
}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_vllm(
    authority: trustme.CA, servers: Servers, tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServer]:
    """Its certificate is for localhost alone."""
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("localhost")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    issued.private_key_pem.write_to_path(str(key))
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    flags = ("--max-model-len", "512", "--ssl-keyfile", str(key), "--ssl-certfile", str(certificate))
    server = servers.get(Spec("tiny-qwen3", tiny_qwen3, flags), own=True)
    yield server
    server.stop()


async def worker(running: Fleet) -> dict[str, Any]:
    found: dict[str, Any] = (await running.http.get("/admin/workers")).json()["workers"][0]
    return found


def table(url: str) -> RoutingTable:
    return routing_table(workers=[{"url": url, "name": "gpu"}])


async def test_it_is_discovered_probed_and_streams_a_chat(
    authority: trustme.CA, tls_vllm: VllmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    url = f"https://localhost:{tls_vllm.port}"
    async with fleet(tmp_path, {}, table=table(url), **PATIENT) as running:
        running.http.timeout = httpx.Timeout(ANSWER_TIMEOUT)
        answer = await running.http.post("/api/chat", json=CHAT)
        assert answer.status_code == 200, answer.text
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert len(lines) > 1
        assert lines[-1]["done"]
        assert (await worker(running))["state"] == "ready"


@pytest.mark.parametrize(
    ("scheme", "host", "trusts", "words"),
    [
        ("https", "localhost", False, "its certificate is not trusted"),
        ("https", "127.0.0.1", True, "its certificate is for another name"),
        ("http", "localhost", True, "if the port speaks TLS, use https://"),
    ],
)
async def test_a_failed_connection_is_named_in_the_log_and_in_the_list_of_workers(
    scheme: str,
    host: str,
    trusts: bool,
    words: str,
    authority: trustme.CA,
    tls_vllm: VllmServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trusted = tmp_path / "ca.pem"
    (authority if trusts else trustme.CA()).cert_pem.write_to_path(str(trusted))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    url = f"{scheme}://{host}:{tls_vllm.port}"
    async with fleet(tmp_path, {}, table=table(url), wait=False) as running:

        async def named() -> bool:
            return words in (await worker(running))["note"]

        await auntil(named, 20, "the reason")
        assert len([message for message in caplog.messages if words in message]) == 1
