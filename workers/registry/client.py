"""Registry client: agents register workers in Redis, and routers read them.

`keys.py` lists the data; the scripts in `scripts/` change it atomically. The client never retries: callers do.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, cast

import redis.asyncio as aioredis
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError, ResponseError

from vllama_pool.config.redis_address import DEFAULT_PORT, RedisAddress, at_socket, parse
from vllama_pool.workers.registry.connections import RegistryPool, SocketConnection, TcpConnection, TlsConnection
from vllama_pool.workers.registry.errors import explain
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
from vllama_pool.workers.registry.primary import Locator, Nodes, Sentinels
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord
from vllama_pool.workers.registry.signature import sign_record

CONNECT_TIMEOUT = 0.5
"""Seconds, over the network."""
LOCAL_CONNECT_TIMEOUT = 5.0
"""Seconds, to a Unix socket. It accepts or refuses at once: only a busy machine takes longer."""
REPLY_TIMEOUT = 1.0
"""Seconds."""
SILENCE = 2.0
"""Seconds without a message after which a subscription sends a ping."""
RETRY_PAUSE = 0.5
"""Seconds."""


class RegistryUnavailable(Exception):
    """Redis is unreachable or refused a command. One line with the remedy."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        """`passing`: waiting alone may help."""
        super().__init__(message)
        self.passing = passing


@dataclass(frozen=True, slots=True)
class Registered:
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Fenced:
    """A newer start of this worker is registered."""

    generation: int
    beat: int = 0
    """Number of its latest beat."""


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


def connect(address: RedisAddress | str, reply_timeout: float = REPLY_TIMEOUT) -> aioredis.Redis:
    """Return a client. `address` is the path of a socket or a URL, or parsed; `reply_timeout` is in seconds.

    Raises InvalidAddress.
    """
    if isinstance(address, str):
        address = at_socket(address) if address.startswith("/") else parse(address)
    timeouts = {
        "protocol": 2,
        "socket_connect_timeout": LOCAL_CONNECT_TIMEOUT if address.path else CONNECT_TIMEOUT,
        "socket_timeout": reply_timeout,
        "retry": Retry(NoBackoff(), 0),
        "driver_info": None,  # its commands, and the search for the library's version, would cost each connection time
    }
    pool = RegistryPool(
        address,
        _locator(address, timeouts),
        **_connection(address),
        **{name: value for name, value in address.options.items() if not name.startswith("sentinel_")},
        db=address.db,
        **timeouts,
    )
    return aioredis.Redis.from_pool(pool)


def _locator(address: RedisAddress, timeouts: Mapping[str, Any]) -> Locator | None:
    if address.path:
        return None
    if not address.master:
        return Nodes(address.nodes or [(address.host, address.port)])
    shared = {name: value for name, value in address.options.items() if name.startswith(("ssl_", "socket_"))}
    own = {name: address.options.get(f"sentinel_{name}") for name in ("username", "password")}
    kind: dict[str, Any] = {"connection_class": SSLConnection} if address.tls else {}
    return Sentinels(address.nodes, address.master, {**timeouts, **shared, **own, **kind, "decode_responses": True})


def _connection(address: RedisAddress) -> dict[str, Any]:
    if address.path:
        return {"connection_class": SocketConnection, "path": address.path}
    kind = TlsConnection if address.tls else TcpConnection
    return {"connection_class": kind, "host": address.host, "port": address.port}


async def ping(redis: aioredis.Redis) -> None:
    """Raises RegistryUnavailable."""
    with _mapped(redis):
        await redis.ping()


async def wait_usable(address: RedisAddress, fleet: str, say: Callable[[str], None], *, patience: float) -> None:
    """Return when this Redis can hold the fleet. Raises RegistryUnavailable.

    While it starts, loads its data or takes over from another, wait up to `patience` seconds, and `say` each reason
    once.
    """
    redis, deadline = connect(address), time.monotonic() + patience
    told: set[str] = set()
    try:
        while (problem := await _problem(redis, fleet)) is not None:
            left = deadline - time.monotonic()
            if not problem.passing or left <= 0:
                raise problem
            if str(problem) not in told:
                told.add(str(problem))
                say(f"waiting up to {left:.0f} s: {problem}")
            await asyncio.sleep(min(RETRY_PAUSE, left))
    finally:
        await redis.aclose()


async def _problem(redis: aioredis.Redis, fleet: str) -> RegistryUnavailable | None:
    """Read by a script and write, since a replica or a cluster answers a ping."""
    registry = Registry(redis, fleet)
    try:
        await ping(redis)
        await registry.snapshot()
        await registry.retire_router("")
    except RegistryUnavailable as error:
        return error
    return None


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
        self._want = b""
        """The want of the agent's worker at its last beat, for a registry that was flushed."""
        folder = resources.files("vllama_pool.workers.registry") / "scripts"
        self._register, self._beat, self._deregister, self._snapshot, self._models, self._put_model, self._put_want = (
            redis.register_script((folder / f"{name}.lua").read_text("utf-8"))
            for name in ("register", "beat", "deregister", "snapshot", "models", "put_model", "want")
        )
        self._begin_trial, self._end_trial = (
            redis.register_script((folder / f"{name}.lua").read_text("utf-8")) for name in ("trial", "end_trial")
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
        with _mapped(self._redis), _understood(self._where):
            reply = await self._run(
                self._register,
                [keys.meta, keys.w, keys.load, keys.hbz],
                [keys.ev, record.id, record.generation, envelope, beat, secrets.token_hex(8)],
            )
            if not reply[0]:
                return Fenced(int(reply[1]), int(reply[2]))
            if self._want:
                await self.put_want(record.id, self._want)
            return Registered(reply[1].decode(), int(reply[2]))

    async def beat(self, worker_id: str, generation: int, load: LoadReport) -> bool:
        """Return False if the worker must register again."""
        keys = self._keys
        beat = encode_beat(Beat(generation, next(self._count), load))
        with _mapped(self._redis):
            reply = await self._run(
                self._beat, [keys.w, keys.load, keys.hbz, keys.want], [keys.ev, worker_id, generation, beat]
            )
        if not isinstance(reply, bytes):
            return False
        self._want = reply or self._want
        return True

    async def deregister(self, worker_id: str, generation: int) -> bool:
        """Return False if the worker is absent or a newer start is registered."""
        keys = self._keys
        with _mapped(self._redis):
            reply = await self._run(
                self._deregister, [keys.meta, keys.w, keys.load, keys.hbz], [keys.ev, worker_id, generation]
            )
        return bool(reply)

    # --- routers ---

    async def snapshot(self, known: Version | None = None, *, router: str = "") -> Snapshot:
        """Return all beats, and all records unless their version equals `known`.

        `router`: a router process to count for ROUTER_TTL.
        """
        keys = self._keys
        with _mapped(self._redis), _understood(self._where):
            epoch, seq, collected, beats, records, models, wants = await self._run(
                self._snapshot,
                [keys.meta, keys.w, keys.load, keys.hbz, keys.routers, keys.vm, keys.want],
                [str(known or ""), int(COLLECT_AFTER * 1000), router, int(ROUTER_TTL * 1000)],
            )
            return Snapshot(
                Version(epoch.decode(), int(seq)),
                int(collected),
                None if records is None else {_text(key): bytes(value) for key, value in _pairs(records)},
                {_text(key): beat for key, value in _pairs(beats) if (beat := decode_beat(value))},
                _text(models),
                {_text(key): bytes(value) for key, value in _pairs(wants)},
            )

    async def put_want(self, worker_id: str, entry: bytes) -> bytes:
        """Write what is asked of a worker and publish it. Return b"", or the stored entry if its revision is not lower.

        Raises ValueError for an invalid id.
        """
        if not worker_id.isprintable():  # a static worker's id is any name or URL
            raise ValueError(f"{worker_id!r} is not a worker id")
        with _mapped(self._redis), _understood(self._where):
            return bytes(await self._run(self._put_want, [self._keys.want], [self._keys.ev, worker_id, entry]))

    async def publish_poison(self, envelope: bytes) -> None:
        """Tell all routers about crashed engines or refused requests."""
        with _mapped(self._redis):
            await self._redis.publish(self._keys.ev, b"poison\n" + envelope)

    async def refusals(self) -> dict[str, bytes]:
        """Return the envelopes of refused requests by digest, unverified."""
        with _mapped(self._redis), _understood(self._where):
            stored = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.poison))
            return {_text(key): bytes(value) for key, value in stored.items()}

    async def put_refusal(self, digest: str, envelope: bytes) -> None:
        with _mapped(self._redis):
            await self._redis.hset(self._keys.poison, digest, envelope)

    async def drop_refusals(self, *digests: str) -> None:
        with _mapped(self._redis):
            await self._redis.hdel(self._keys.poison, *digests)

    async def begin_trial(self, worker_id: str, owner: str, seconds: float) -> bool:
        """Reserve the worker for one suspect request. Return False if another router tries one."""
        with _mapped(self._redis), _understood(self._where):
            return bool(
                await self._run(self._begin_trial, [self._keys.trials], [worker_id, owner, int(seconds * 1000)])
            )

    async def end_trial(self, worker_id: str, owner: str) -> None:
        with _mapped(self._redis):
            await self._run(self._end_trial, [self._keys.trials], [worker_id, owner])

    async def retire_router(self, router: str) -> None:
        with _mapped(self._redis):
            await self._redis.zrem(self._keys.routers, router)

    async def models(self) -> StoredModels:
        with _mapped(self._redis), _understood(self._where):
            version, entries = await self._run(self._models, [self._keys.meta, self._keys.vm], [])
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
        with _mapped(self._redis), _understood(self._where):
            put, answer, *routers = await self._run(
                self._put_model, [self._keys.meta, self._keys.vm, self._keys.routers], arguments
            )
            return ModelStored(_text(answer), int(*routers)) if put else ModelConflict(bytes(answer))

    async def acknowledge(self, version: str, router: str) -> None:
        """Publish that this router has applied the change to `version`."""
        with _mapped(self._redis):
            await self._redis.publish(self._keys.ev, encode_ack(ModelAck(version, router)))

    async def _run(self, script: AsyncScript, keys: list[str], arguments: list[Any]) -> Any:
        """Run a script, once more if the keys are elsewhere: a cluster names the owner, and a replica has no part."""
        try:
            return await script(keys, arguments)
        except ResponseError as error:
            pool = self._redis.connection_pool
            if not (isinstance(pool, RegistryPool) and pool.follow(error)):
                raise
            return await script(keys, arguments)

    @property
    def _renewals(self) -> int:
        return getattr(self._redis.connection_pool, "renewals", 0)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield changes. Messages can be lost; polling repairs that. Raises when the connection is lost or silent."""
        async with self._redis.pubsub() as pubsub:
            with _mapped(self._redis), _understood(self._where):
                await pubsub.subscribe(self._keys.ev)
            silent, renewals = False, self._renewals
            while True:
                if renewals != self._renewals:
                    raise RegistryUnavailable(f"the registry at {self._where.endpoint} may be elsewhere now")
                with _mapped(self._redis), _understood(self._where):
                    message = await pubsub.get_message(timeout=self._silence)
                    if message is None:
                        if silent:
                            raise RegistryUnavailable(f"the registry at {self._where.endpoint} has gone silent")
                        await pubsub.ping()
                    event = _event(message) if message is not None else None
                silent = message is None
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
def _mapped(redis: aioredis.Redis) -> Iterator[None]:
    """Convert redis-py errors into RegistryUnavailable, and restore a swallowed cancellation.

    A client whose primary is lost then connects anew.

    redis-py uses asyncio.wait_for, which before Python 3.12 swallows one that arrives just as the send completes.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except (RedisError, OSError) as error:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from error
        if isinstance(redis.connection_pool, RegistryPool):
            redis.connection_pool.follow(error)
        explanation = explain(error, _address(redis))
        raise RegistryUnavailable(explanation.text, passing=explanation.passing) from error
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


@contextmanager
def _understood(where: RedisAddress) -> Iterator[None]:
    """Convert errors in decoding foreign data into RegistryUnavailable."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise RegistryUnavailable(
            f"the registry at {where.endpoint} answered what no vLLama has written ({type(error).__name__}); remove "
            "the fleet's keys, or change VLLAMA_FLEET"
        ) from error


def _address(redis: aioredis.Redis) -> RedisAddress:
    """Return the address of a client, for messages."""
    if isinstance(redis.connection_pool, RegistryPool):
        return redis.connection_pool.address
    options = redis.connection_pool.connection_kwargs
    return RedisAddress(
        options.get("host", "localhost"),
        options.get("port", DEFAULT_PORT),
        options.get("path", ""),
        tls=issubclass(redis.connection_pool.connection_class, TlsConnection),
        options={name: options[name] for name in ("password", "ssl_password") if name in options},
    )
