"""Probes of static workers, and of registered workers whose beats are late."""

from __future__ import annotations

import asyncio
import ssl

import httpx
import pytest

from tests.support.registry.membership_sink import Recorder
from tests.support.until import auntil
from vllama_pool.config.routing.schema import WorkerEntry
from vllama_pool.router.balance.pool import Discovered, Pool
from vllama_pool.router.discovery.health_probe import health_probe
from vllama_pool.router.discovery.membership import TTL, ProbeAnswer
from vllama_pool.router.discovery.static_watch import StaticWatch
from vllama_pool.router.discovery.trust import Endpoints
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import WorkerRecord, WorkerState
from vllama_pool.workers.vllm.server_identity import SEVERAL_SERVERS


class FakeClient:
    """An httpx client that answers as a static worker would, without a server."""

    def __init__(self) -> None:
        self.health = 200
        self.fault: type[httpx.TransportError] | None = None
        self.models = [{"id": "m", "root": "org/m", "max_model_len": 2048}]
        self.running = 0
        self.tokens = 0
        self.started: float | None = None
        self.able = self.busy = self.slow = self.asleep = self.embeds = False
        self.requests: list[str] = []
        self.authorization: set[str | None] = set()
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request.url.path)
        self.authorization.add(request.headers.get("authorization"))
        if self.fault is not None:
            raise self.fault("no", request=request)
        match request.url.path:
            case "/health":
                return httpx.Response(self.health)
            case "/v1/models":
                return httpx.Response(200, json={"object": "list", "data": self.models})
            case "/version":
                return httpx.Response(200, json={"version": "0.32.0"})
            case "/metrics":
                return httpx.Response(
                    200,
                    text=f'vllm:engine_sleep_state{{sleep_state="awake"}} {int(not self.asleep)}.0\n'
                    f'vllm:num_requests_running{{engine="0"}} {self.running}.0\n'
                    f'vllm:generation_tokens_total{{engine="0"}} {self.tokens}.0\n'
                    + (f"process_start_time_seconds {self.started}\n" if self.started else ""),
                )
            case "/v1/completions" if not self.embeds:
                return httpx.Response(405)
            case "/v1/embeddings" if self.embeds:
                return httpx.Response(405)
            case "/v1/chat/completions" if self.slow:
                await asyncio.Event().wait()
            case "/v1/chat/completions" if self.busy:
                return httpx.Response(503)
            case "/v1/chat/completions" if self.able:
                return httpx.Response(200, json={"choices": [{"message": {"reasoning": "hm"}}]})
        return httpx.Response(404)


class Balanced:
    """Gives each request to the next of several servers."""

    def __init__(self, *servers: FakeClient) -> None:
        self.servers = servers
        self.passed = 0
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.passed += 1
        return await self.servers[self.passed % len(self.servers)].answer(request)

    def questions(self) -> int:
        """Chats for abilities: two per detection on an able server."""
        return sum(server.requests.count("/v1/chat/completions") for server in self.servers)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


ID = "static/gpu"


def watch(vllm: FakeClient | Balanced, pool: Recorder | Pool, clock: Clock) -> StaticWatch:
    worker = WorkerEntry(url="http://10.0.0.5:8000", name="gpu", slots=4, tags=("a",))
    return StaticWatch(worker, pool, vllm.client, Endpoints("key"), "key", clock)


async def test_a_static_worker_joins_with_its_models_version_and_load() -> None:
    vllm, pool = FakeClient(), Recorder()
    vllm.running = 3
    await watch(vllm, pool, Clock()).probe()
    record = pool.known[ID].record
    assert [(m.name, m.context_length) for m in record.models] == [("m", 2048)]
    assert (record.slots, record.tags, record.engine_version) == (4, ("a",), "0.32.0")
    assert pool.known[ID].endpoint == Endpoint("10.0.0.5", 8000, "", None, "Bearer key")
    assert pool.loads[ID].running == 3
    assert vllm.authorization == {"Bearer key"}


async def test_the_log_names_some_of_many_models(caplog: pytest.LogCaptureFixture) -> None:
    vllm = FakeClient()
    vllm.models = [{"id": f"m{i}-{'x' * 1000}", "root": f"r{i}", "max_model_len": 2048} for i in range(1000)]
    with caplog.at_level("INFO"):
        await watch(vllm, Recorder(), Clock()).probe()
    (line,) = [message for message in caplog.messages if "serves m0-x" in message]
    assert line.endswith(" and 990 more")
    assert len(line) < 1500


async def probe_and_learn(static: StaticWatch, times: int = 1) -> None:
    """Probe and learn as `run` does."""
    for _ in range(times):
        await static.probe()
        if static.should_learn:
            await static.learn()


@pytest.mark.rule(176)
async def test_abilities_of_a_static_worker_are_detected_once() -> None:
    vllm, pool = FakeClient(), Recorder()
    vllm.able = True
    static = watch(vllm, pool, Clock())
    await static.probe()
    (model,) = pool.known[ID].record.models
    assert (model.capabilities, model.undetected) == (("completion",), ("tools", "thinking", "vision"))
    await probe_and_learn(static, times=12)
    (model,) = pool.known[ID].record.models
    assert (model.capabilities, model.undetected) == (("completion", "tools", "thinking", "vision"), ())
    assert vllm.requests.count("/v1/chat/completions") == 2
    vllm.health = 503
    await probe_and_learn(static)
    vllm.health, vllm.able = 200, False
    await probe_and_learn(static)
    (model,) = pool.known[ID].record.models
    assert (model.capabilities, model.undetected) == (("completion",), ())


@pytest.mark.rule(176)
async def test_missing_abilities_are_undetected_again_when_the_model_or_the_server_changes() -> None:
    vllm, pool, clock = FakeClient(), Recorder(), Clock()
    vllm.tokens = 100
    static = watch(vllm, pool, clock)

    def undetected() -> tuple[str, ...]:
        return pool.known[ID].record.models[0].undetected

    await probe_and_learn(static)
    assert undetected() == ()
    vllm.tokens = 5
    await static.probe()
    assert undetected() == ("tools", "thinking", "vision"), "it may have been restarted with other flags"
    for _ in range(20):
        await probe_and_learn(static)
        clock.now += 1
    assert undetected() == ()
    vllm.models = [{"id": "other", "root": "org/other", "max_model_len": 2048}]
    for _ in range(10):
        await static.probe()
    assert pool.known[ID].record.models[0].name == "other"
    assert undetected() == ("tools", "thinking", "vision")


@pytest.mark.rule(157)
async def test_an_embedding_model_has_no_undetected_abilities() -> None:
    vllm, pool = FakeClient(), Recorder()
    vllm.embeds = True
    static = watch(vllm, pool, Clock())
    await probe_and_learn(static)
    (model,) = pool.known[ID].record.models
    assert (model.capabilities, model.undetected) == (("embedding",), ())


@pytest.mark.rule(176)
async def test_detection_on_a_busy_static_worker_is_retried_with_backoff() -> None:
    vllm, pool, clock = FakeClient(), Recorder(), Clock()
    vllm.busy = True
    static = watch(vllm, pool, clock)
    at = []
    for _ in range(1000):
        before = len(vllm.requests)
        await probe_and_learn(static)
        if "/v1/chat/completions" in vllm.requests[before:]:
            at.append(clock.now - 100)
        clock.now += 10
    assert at == [0, 10, 30, 70, 150, 310, 630]
    vllm.health = 503
    await probe_and_learn(static)
    vllm.health = 200
    await probe_and_learn(static)
    vllm.busy, vllm.able, clock.now = False, True, clock.now + 10
    await probe_and_learn(static)
    assert pool.known[ID].record.models[0].capabilities == ("completion", "tools", "thinking", "vision")


async def test_a_static_worker_is_probed_while_its_abilities_are_detected() -> None:
    vllm, pool, clock = FakeClient(), Recorder(), Clock()
    vllm.slow = True
    running = asyncio.get_running_loop().create_task(watch(vllm, pool, clock).run())
    await auntil(lambda: "/v1/chat/completions" in vllm.requests, 10, "detection begins")
    vllm.running = 9
    await auntil(lambda: pool.loads[ID].running == 9, 10, "a probe")
    assert vllm.requests.count("/v1/chat/completions") == 1
    running.cancel()
    await asyncio.wait([running])


async def test_a_full_probe_of_a_static_worker_is_done_every_tenth_time() -> None:
    vllm, pool, clock = FakeClient(), Recorder(), Clock()
    static = watch(vllm, pool, clock)
    await static.probe()
    vllm.requests.clear()
    vllm.tokens, clock.now = 50, clock.now + 2
    await static.probe()
    assert vllm.requests == ["/health", "/metrics"]
    assert pool.loads[ID].tokens_per_second == 25.0
    assert pool.puts == 1


async def test_a_new_model_of_a_static_worker_reaches_the_pool() -> None:
    vllm, pool = FakeClient(), Recorder()
    static = watch(vllm, pool, Clock())
    await static.probe()
    vllm.models.append({"id": "adapter", "root": "x", "parent": "m"})  # type: ignore[dict-item]
    for _ in range(10):
        await static.probe()
    assert [m.name for m in pool.known[ID].record.models] == ["m", "adapter"]


async def test_a_restarted_static_worker_is_a_new_generation() -> None:
    vllm, pool = FakeClient(), Recorder()
    static = watch(vllm, pool, Clock())
    vllm.tokens = 100
    await static.probe()
    before = pool.known[ID].record.generation
    vllm.tokens = 5
    await static.probe()
    assert pool.known[ID].record.generation == before + 1


@pytest.mark.parametrize(("health", "fault"), [(503, None), (200, httpx.ConnectError)])
async def test_a_static_worker_whose_engine_died_is_down_at_once(
    health: int, fault: type[httpx.TransportError] | None
) -> None:
    vllm, pool = FakeClient(), Recorder()
    static = watch(vllm, pool, Clock())
    await static.probe()
    vllm.health, vllm.fault = health, fault
    await static.probe()
    assert pool.down == {ID}
    load = pool.known[ID].load
    assert load is not None
    assert load.state is WorkerState.STOPPED
    assert "10.0.0.5:8000" in load.note
    vllm.health, vllm.fault = 200, None
    await static.probe()
    assert (pool.down, pool.suspect) == (set(), set())
    assert [m.name for m in pool.known[ID].record.models] == ["m"]


async def test_a_static_worker_without_answers_is_suspect_then_down() -> None:
    vllm, pool, clock = FakeClient(), Recorder(), Clock()
    static = watch(vllm, pool, clock)
    await static.probe()
    vllm.fault = httpx.ReadTimeout
    await static.probe()
    assert (pool.suspect, pool.down) == ({ID}, set())
    clock.now += TTL
    await static.probe()
    assert pool.down == {ID}


async def test_a_static_worker_that_answers_again_within_the_ttl_is_up() -> None:
    vllm, pool, clock = FakeClient(), Recorder(), Clock()
    static = watch(vllm, pool, clock)
    await static.probe()
    for _ in range(3):
        vllm.fault = httpx.ReadTimeout
        await static.probe()
        vllm.fault, clock.now = None, clock.now + TTL
        await static.probe()
    assert (pool.suspect, pool.down) == (set(), set())


async def test_a_static_worker_leaves_and_returns_to_the_rotation_of_the_real_pool() -> None:
    vllm, clock = FakeClient(), Clock()
    vllm.fault = httpx.ConnectError
    pool = Pool(clock)
    static = watch(vllm, pool, clock)
    await static.probe()
    worker = pool.get(ID)
    assert worker is not None
    assert not worker.is_available(clock.now)
    vllm.fault = None
    await static.probe()
    assert worker.is_available(clock.now)
    assert pool.served() == ("m",)
    vllm.fault = httpx.ReadTimeout
    await static.probe()
    assert not worker.is_available(clock.now)
    vllm.fault = None
    await static.probe()
    assert worker.is_available(clock.now)


@pytest.mark.parametrize(
    ("health", "fault", "answer"),
    [
        (200, None, ProbeAnswer.UP),
        (503, None, ProbeAnswer.GONE),
        (200, httpx.ConnectError, ProbeAnswer.GONE),
        (200, httpx.ConnectTimeout, ProbeAnswer.NONE),
        (200, httpx.ReadTimeout, ProbeAnswer.NONE),
        (404, None, ProbeAnswer.NONE),
    ],
)
async def test_late_workers_are_probed_at_their_health_route(
    health: int, fault: type[httpx.TransportError] | None, answer: ProbeAnswer
) -> None:
    vllm = FakeClient()
    vllm.health, vllm.fault = health, fault
    record = WorkerRecord(id="a", generation=1, url="http://[fd00::5]:8100/v")
    found = Discovered(record, Endpoint("fd00::5", 8100, "/v"))
    seen: list[str] = []

    def route(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return vllm.answer(httpx.Request("GET", str(request.url).replace("/v/", "/")))

    async with httpx.AsyncClient(transport=httpx.MockTransport(route)) as client:
        assert await health_probe(client, None)(found) is answer
    assert seen == ["http://[fd00::5]:8100/v/health"]


async def test_late_workers_are_probed_at_their_pinned_address_with_their_host_name() -> None:
    seen: list[tuple[str, str, object]] = []

    def route(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.host, request.headers["host"], request.extensions.get("sni_hostname")))
        return httpx.Response(200)

    record = WorkerRecord(id="a", generation=1, url="https://gpu.example:8443")
    tls = ssl.create_default_context()
    found = Discovered(record, Endpoint("10.0.0.5", 8443, tls=tls, server_name="gpu.example"))
    async with httpx.AsyncClient(transport=httpx.MockTransport(route)) as client:
        assert await health_probe(client, None)(found) is ProbeAnswer.UP
    assert seen == [("10.0.0.5", "gpu.example:8443", "gpu.example")]


async def test_only_a_static_worker_that_stays_unreachable_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    vllm, pool, clock = FakeClient(), Recorder(), Clock()
    vllm.fault = httpx.ConnectTimeout
    static = watch(vllm, pool, clock)
    static.mark_unreached()
    running = asyncio.get_running_loop().create_task(static.run())
    await auntil(lambda: vllm.requests, 5, "a first probe")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    load = pool.known[ID].load
    assert load is not None
    assert load.state is WorkerState.STOPPED
    assert caplog.messages == []
    clock.now += TTL
    await static.probe()
    assert len(caplog.messages) == 1
    assert "static worker gpu is down" in caplog.messages[0]


async def test_abilities_of_a_sleeping_static_worker_are_detected_after_it_wakes() -> None:
    vllm, pool = FakeClient(), Recorder()
    vllm.asleep = vllm.able = True
    static = watch(vllm, pool, Clock())
    await probe_and_learn(static, times=3)
    assert pool.loads[ID].state is WorkerState.SLEEPING
    assert "/v1/chat/completions" not in vllm.requests
    vllm.asleep = False
    await probe_and_learn(static, times=2)
    assert pool.loads[ID].state is WorkerState.READY
    assert "/v1/chat/completions" in vllm.requests


def balanced(servers: int, *, tells: bool) -> Balanced:
    """Able servers with different counters. `tells`: they have start times."""
    clients = [FakeClient() for _ in range(servers)]
    for index, client in enumerate(clients):
        client.able, client.tokens = True, 5000 * (index + 1) % 12_000
        client.started = 1.5e9 + index if tells else None
    return Balanced(*clients)


async def minute(static: StaticWatch, address: Balanced, pool: Recorder, clock: Clock) -> list[tuple[float, int]]:
    """Probe for a minute while the servers generate. Return speeds, and the number of capabilities."""
    seen = []
    for _ in range(60):
        await probe_and_learn(static)
        seen.append((pool.loads[ID].tokens_per_second, len(pool.known[ID].record.models[0].capabilities)))
        clock.now += 1
        for index, server in enumerate(address.servers):
            server.tokens += 30 * (index + 1)
    return seen


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("servers", [2, 3, 5])
async def test_several_servers_behind_an_address_are_asked_once_and_reported_once(
    servers: int, tells: bool, caplog: pytest.LogCaptureFixture
) -> None:
    address, pool, clock = balanced(servers, tells=tells), Recorder(), Clock()
    static = watch(address, pool, clock)
    seen = await minute(static, address, pool, clock)
    seen += await minute(static, address, pool, clock)
    assert {capabilities for _, capabilities in seen} == {4}
    assert address.questions() == 2
    assert [message for message in caplog.messages if "list each server" in message] == caplog.messages
    assert len(caplog.messages) == 1
    assert {speed for speed, _ in seen[10:]} == {0.0}
    assert SEVERAL_SERVERS in pool.loads[ID].note
    assert pool.puts <= 4


@pytest.mark.parametrize("health", [502, 503])
async def test_a_failing_server_behind_a_balancer_does_not_take_the_address_down(health: int) -> None:
    address, pool, clock = balanced(3, tells=True), Recorder(), Clock()
    static = watch(address, pool, clock)
    await minute(static, address, pool, clock)
    address.servers[1].health = health
    for _ in range(60):
        await probe_and_learn(static)
        assert pool.down == set()
        clock.now += 1
    assert address.questions() == 2


async def test_different_models_behind_one_address_do_not_alternate() -> None:
    address, pool, clock = balanced(2, tells=True), Recorder(), Clock()
    address.servers[0].models = [{"id": "other", "root": "org/other", "max_model_len": 512}]
    static = watch(address, pool, clock)
    await minute(static, address, pool, clock)
    names = set()
    for _ in range(120):
        await probe_and_learn(static)
        names.add(pool.known[ID].record.models[0].name)
        clock.now += 1
    assert len(names) == 1
    assert address.questions() <= 6


@pytest.mark.parametrize("tells", [True, False])
async def test_a_restart_between_two_probes_is_asked_for_abilities_again(tells: bool) -> None:
    address, pool, clock = balanced(1, tells=tells), Recorder(), Clock()
    (server,) = address.servers
    static = watch(address, pool, clock)
    await minute(static, address, pool, clock)
    server.tokens, server.able, server.started = 0, False, server.started and server.started + 100
    before = pool.known[ID].record.generation
    await static.probe()
    assert pool.known[ID].record.generation == before + 1
    assert len(pool.known[ID].record.models[0].capabilities) == 4
    await minute(static, address, pool, clock)
    assert pool.known[ID].record.models[0].capabilities == ("completion",)
    assert "several" not in pool.loads[ID].note


async def test_a_server_that_was_only_unreachable_is_not_asked_again() -> None:
    address, pool, clock = balanced(1, tells=True), Recorder(), Clock()
    (server,) = address.servers
    static = watch(address, pool, clock)
    await minute(static, address, pool, clock)
    for _ in range(20):
        server.fault = httpx.ConnectError
        await static.probe()
        server.fault = None
        await probe_and_learn(static)
        clock.now += 1
    assert address.questions() == 2
