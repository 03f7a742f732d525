"""An attacker with the registry's password, and listeners that no router may connect to."""

from __future__ import annotations

import contextlib
import socket

import httpx
import redis

from tests.support.fleet.network_namespaces import Host
from tests.support.fleet.two_hosts import FLEET, PATIENCE
from vllama_pool.workers.registry.keys import Keys
from vllama_pool.workers.registry.record import ModelInfo, WorkerRecord
from vllama_pool.workers.registry.signature import sign_record


class Trap:
    """A listener that no router may connect to."""

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
        """Connect from this host, to prove that connections are counted."""
        parts = httpx.URL(self.url)
        host.call(socket.create_connection, (parts.host, parts.port), timeout=PATIENCE).close()

    def close(self) -> None:
        self._socket.close()


class Forger:
    """Writes to the registry without its scripts."""

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
        """Write a record of generation 1, and publish it as a registration."""
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
        event = b"\n".join((b"up", epoch, str(seq).encode(), worker_id.encode(), load, envelope))
        self._client.publish(self._keys.ev, event)

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
