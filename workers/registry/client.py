"""Registry client: agents register workers in Redis, and routers read them.

`keys.py` lists the data; the scripts in `scripts/` change it atomically. The client never retries: callers do.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from vllama_pool.workers.registry.keys import COLLECT_AFTER, ROUTER_TTL, Keys, check_worker_id
from vllama_pool.workers.registry.messages import (
    Beat,
    Event,
    ModelAck,
    Snapshot,
    Subscribed,
    Version,
    decode_beat,
    decode_event,
    encode_ack,
    encode_beat,
)
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord
from vllama_pool.workers.registry.signature import sign_record

CONNECT_TIMEOUT = 0.5
"""Seconds."""
REPLY_TIMEOUT = 1.0
"""Seconds."""
SILENCE = 2.0
"""Seconds without a message after which a subscription sends a ping."""


class RegistryUnavailable(Exception):
    """Redis is unreachable or refused a command. One line with the remedy."""


class InvalidRegistryAddress(ValueError):
    """The message shows the valid forms."""


@dataclass(frozen=True, slots=True)
class Registered:
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Fenced:
    """A newer start of this worker is registered."""

    generation: int


@dataclass(frozen=True, slots=True)
class StoredModels:
    """All virtual models and tombstones, unverified."""

    version: str
    """As in `Snapshot.models`."""
    envelopes: Mapping[str, bytes]
    """Name key -> envelope."""


@dataclass(frozen=True, slots=True)
class ModelStored:
    version: str
    """After the change."""
    routers: int
    """Router processes that poll."""


@dataclass(frozen=True, slots=True)
class ModelConflict:
    """Another process has changed the entry."""

    envelope: bytes
    """Current; empty for no entry."""


def connect(address: str) -> aioredis.Redis:
    """Return a client for redis://, rediss://, unix:// or a socket path. Raises InvalidRegistryAddress."""
    url = f"unix://{address}" if address.startswith("/") else address
    try:
        return aioredis.Redis.from_url(
            url,
            protocol=2,
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_timeout=REPLY_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise InvalidRegistryAddress(
            "that is not the address of a Redis; use redis://HOST:6379/0, rediss:// for TLS, or unix:///PATH"
        ) from error


async def ping(redis: aioredis.Redis) -> None:
    """Raises RegistryUnavailable."""
    with _mapped(_address(redis)):
        await redis.ping()


class Registry:
    """One fleet's registry. Methods raise RegistryUnavailable. Numbers the beats, so use one per process."""

    def __init__(
        self, redis: aioredis.Redis, fleet: str, *, secret: bytes | None = None, silence: float = SILENCE
    ) -> None:
        self.fleet = fleet
        self._redis = redis
        self._keys = Keys.of(fleet)
        self._secret = secret
        self._silence = silence
        self._count = itertools.count(1)
        self._where = _address(redis)
        folder = resources.files("vllama_pool.workers.registry") / "scripts"
        self._register, self._beat, self._deregister, self._snapshot, self._models, self._put_model = (
            redis.register_script((folder / f"{name}.lua").read_text("utf-8"))
            for name in ("register", "beat", "deregister", "snapshot", "models", "put_model")
        )

    # --- agents ---

    async def register(self, record: WorkerRecord, load: LoadReport) -> Registered | Fenced:
        """Write a worker's record, which is also a beat. Raises ValueError for an invalid id."""
        keys = self._keys
        check_worker_id(record.id)
        if record.generation < 0:
            raise ValueError(f"generation {record.generation} is negative")
        envelope = sign_record(record, fleet=self.fleet, secret=self._secret)
        beat = encode_beat(Beat(record.generation, next(self._count), load))
        with _mapped(self._where):
            reply = await self._register(
                [keys.meta, keys.w, keys.load, keys.hbz],
                [keys.ev, record.id, record.generation, envelope, beat, secrets.token_hex(8)],
            )
        with _understood(self._where):
            return Registered(reply[1].decode(), int(reply[2])) if reply[0] else Fenced(int(reply[1]))

    async def beat(self, worker_id: str, generation: int, load: LoadReport) -> bool:
        """Return False if the worker must register again."""
        keys = self._keys
        beat = encode_beat(Beat(generation, next(self._count), load))
        with _mapped(self._where):
            reply = await self._beat([keys.w, keys.load, keys.hbz], [keys.ev, worker_id, generation, beat])
        return bool(reply)

    async def deregister(self, worker_id: str, generation: int) -> bool:
        """Return False if the worker is absent or a newer start is registered."""
        keys = self._keys
        with _mapped(self._where):
            reply = await self._deregister([keys.meta, keys.w, keys.load, keys.hbz], [keys.ev, worker_id, generation])
        return bool(reply)

    # --- routers ---

    async def snapshot(self, known: Version | None = None, *, router: str = "") -> Snapshot:
        """Return all beats, and all records unless their version equals `known`.

        `router`: a router process to count for ROUTER_TTL.
        """
        keys = self._keys
        with _mapped(self._where):
            reply = await self._snapshot(
                [keys.meta, keys.w, keys.load, keys.hbz, keys.routers, keys.vm],
                [str(known or ""), int(COLLECT_AFTER * 1000), router, int(ROUTER_TTL * 1000)],
            )
        epoch, seq, collected, beats, records, models = reply
        with _understood(self._where):
            return Snapshot(
                Version(epoch.decode(), int(seq)),
                int(collected),
                None if records is None else {_text(key): bytes(value) for key, value in _pairs(records)},
                {_text(key): beat for key, value in _pairs(beats) if (beat := decode_beat(value))},
                _text(models),
            )

    async def retire_router(self, router: str) -> None:
        with _mapped(self._where):
            await self._redis.zrem(self._keys.routers, router)

    async def models(self) -> StoredModels:
        with _mapped(self._where):
            version, entries = await self._models([self._keys.meta, self._keys.vm], [])
        return StoredModels(_text(version), {_text(key): bytes(value) for key, value in _pairs(entries)})

    async def put_model(
        self, key: str, expected: bytes, envelope: bytes, *, request_acks: bool = False
    ) -> ModelStored | ModelConflict:
        """Replace the entry of `key` if it equals `expected`, and publish the change. Empty bytes mean no entry."""
        arguments: list[bytes | str | int] = [
            self._keys.ev,
            key,
            expected,
            envelope,
            int(request_acks),
            secrets.token_hex(8),
        ]
        with _mapped(self._where):
            put, answer, *routers = await self._put_model(
                [self._keys.meta, self._keys.vm, self._keys.routers], arguments
            )
        return ModelStored(_text(answer), int(*routers)) if put else ModelConflict(bytes(answer))

    async def acknowledge(self, version: str, router: str) -> None:
        """Publish that this router has applied the change to `version`."""
        with _mapped(self._where):
            await self._redis.publish(self._keys.ev, encode_ack(ModelAck(version, router)))

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield changes. Messages can be lost; polling repairs that. Raises when the connection is lost or silent."""
        async with self._redis.pubsub() as pubsub:
            with _mapped(self._where):
                await pubsub.subscribe(self._keys.ev)
            silent = False
            while True:
                with _mapped(self._where):
                    message = await pubsub.get_message(timeout=self._silence)
                    if message is None:
                        if silent:
                            raise RegistryUnavailable(f"the registry at {self._where} has gone silent")
                        await pubsub.ping()
                silent = message is None
                event = _event(message) if message is not None else None
                if event is not None:
                    yield event


def _pairs(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _event(message: Mapping[str, Any]) -> Event | None:
    match message["type"]:
        case "message":
            return decode_event(message["data"])
        case "subscribe":
            return Subscribed()
    return None


@contextmanager
def _mapped(where: str) -> Iterator[None]:
    """Convert redis-py errors into RegistryUnavailable, and restore a swallowed cancellation.

    redis-py uses asyncio.wait_for, which before Python 3.12 swallows one that arrives just as the send completes.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except (RedisError, OSError) as error:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise RegistryUnavailable(_explain(error, where)) from error
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


@contextmanager
def _understood(where: str) -> Iterator[None]:
    """Convert errors in decoding foreign data into RegistryUnavailable."""
    try:
        yield
    except ValueError as error:
        raise RegistryUnavailable(
            f"the registry at {where} holds what no vLLama has written ({error}); remove it, or change VLLAMA_FLEET"
        ) from error


def _address(redis: aioredis.Redis) -> str:
    """Without the password."""
    options = redis.connection_pool.connection_kwargs
    return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")


def _explain(error: Exception, where: str) -> str:
    match error:
        case AuthenticationError() | NoPermissionError():
            return f"the registry at {where} refuses these credentials ({error}); check those in REDIS_URL"
        case ResponseError() if "ACL failure" in str(error):  # ACL errors in scripts have no class of their own
            return f"the registry at {where} does not let this user do what it must ({error}); correct its ACL"
        case OutOfMemoryError():
            return f"the registry at {where} is out of memory; raise its maxmemory"
        case ReadOnlyError():
            return f"the registry at {where} is a read-only replica; point REDIS_URL at the primary"
    question = "is Redis running there?" if where.startswith("/") else "is Redis running there, and is REDIS_URL right?"
    return f"no answer from the registry at {where} ({_reason(error)}); {question}"


def _reason(error: Exception) -> str:
    """Prefer the system's error text: redis-py's repeats the address."""
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, socket.gaierror):
            return str(cause.strerror)
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
    return str(error).rstrip(".") or type(error).__name__
