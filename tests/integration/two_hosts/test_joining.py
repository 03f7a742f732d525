"""Workers on another host join, answer clients and leave."""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx
import ollama

from tests.support.fleet.two_hosts import (
    ADMIN_KEY,
    CLIENT_KEY,
    FLEET,
    PASSWORD,
    PATIENCE,
    SECRET,
    TWO_HOSTS,
    VLLAMA,
    Figures,
    Site,
    http_get,
)
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable, connect
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord

pytestmark = TWO_HOSTS


def test_a_worker_on_another_host_answers_the_ollama_client(site: Site) -> None:
    with site.workers("greeter"):

        def talk() -> tuple[str, str, list[str]]:
            client = ollama.Client(host=site.url, headers={"Authorization": f"Bearer {CLIENT_KEY}"}, trust_env=False)
            messages = [{"role": "user", "content": "hello"}]
            whole = client.chat("greeter", messages=messages).message.content or ""
            parts = [part.message.content or "" for part in client.chat("greeter", messages=messages, stream=True)]
            models = [model.model or "" for model in client.list().models]
            client._client.close()
            return whole, "".join(parts), models

        for host in (site.front, site.c):
            whole, streamed, models = host.call(talk)
            assert whole == streamed != ""
            assert "greeter:latest" in models
        worker = next(w for w in site.get("/admin/workers", site.c).json()["workers"] if w["id"] == "b")
        assert worker["url"] == f"http://{site.b.address}:8100"
        assert site.b.call(http_get, f"{site.url}/api/tags").status_code == 401
        assert site.b.call(http_get, f"{site.url}/admin/workers").status_code == 401
        anyone = site.front.call(
            httpx.post, f"{worker['url']}/v1/chat/completions", json={}, trust_env=False, timeout=PATIENCE
        )
        assert anyone.status_code == 401


def test_joins_and_leaves_reach_routers_on_other_hosts_at_once(site: Site, record_property: Figures) -> None:
    """Times include polling the admin page."""

    async def rounds() -> tuple[list[float], list[float]]:
        join, leave = [], []
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        http = httpx.AsyncClient(headers=headers, trust_env=False, timeout=PATIENCE)
        async with connect(site.registry_url) as client, http:
            registry = Registry(client, FLEET, secret=SECRET.encode())

            async def wait(present: bool) -> float:
                began = time.monotonic()
                async with asyncio.timeout(PATIENCE):
                    while True:
                        page = (await http.get(f"{site.url}/admin/workers")).json()
                        if present is any(worker["id"] == "passer-by" for worker in page["workers"]):
                            return time.monotonic() - began

            record = WorkerRecord(id="passer-by", generation=1, url=f"http://{site.b.address}:1", models=())
            for _ in range(20):
                await registry.register(record, LoadReport())
                join.append(await wait(True))
                await registry.deregister(record.id, record.generation)
                leave.append(await wait(False))
        return join, leave

    join, leave = site.b.call(lambda: asyncio.run(rounds()))
    for what, times in (("join", join), ("leave", leave)):
        record_property(
            "figure",
            f"{what} across hosts: median {statistics.median(times) * 1000:.1f} ms, max {max(times) * 1000:.1f} ms",
        )
        assert statistics.median(times) < 2


def test_advertising_a_loopback_address_to_other_hosts_is_refused(site: Site) -> None:
    log = site.log("loopback")
    argv = [*VLLAMA, "worker", "--engine", "simulated", "--model", "m", "--advertise", "127.0.0.1"]
    process = site.b.start(argv, site.environ(site.b), log)
    assert process.wait(PATIENCE) == 1
    text = log.read_text()
    assert len(text.splitlines()) == 1
    assert text.startswith(f"vllama: the registry is on {site.front.address}")
    assert "--advertise" in text
    assert PASSWORD not in text


def test_missing_rights_of_the_registry_user_are_reported(site: Site) -> None:
    async def register() -> str:
        async with connect(site.registry_url.replace("fleet:", "narrow:")) as client:
            record = WorkerRecord(id="w", generation=1, url=f"http://{site.b.address}:1")
            try:
                await Registry(client, FLEET, secret=SECRET.encode()).register(record, LoadReport())
            except RegistryUnavailable as error:
                return str(error)
            return ""

    text = site.b.call(lambda: asyncio.run(register()))
    assert "'time'" in text
    assert text.endswith("give its user the permissions that deploy/README.md lists")
