"""What the registry says when Redis does not do what it is asked: one line, without secrets, with a cure."""

from __future__ import annotations

import pytest
import redis.asyncio as aioredis
from fakeredis import FakeAsyncRedis, FakeServer
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from vllama_pool.workers.registry.client import (
    CONNECT_TIMEOUT,
    REPLY_TIMEOUT,
    InvalidRegistryAddress,
    Registry,
    RegistryUnavailable,
    connect,
    ping,
)
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord


class Failing(FakeAsyncRedis):
    """A Redis that answers everything with one error."""

    error: Exception = ResponseError("wrong")

    async def execute_command(self, *args: object, **options: object) -> object:
        raise self.error


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (AuthenticationError("invalid username-password pair"), "check those in REDIS_URL"),
        (NoPermissionError("no permissions to run evalsha"), "check those in REDIS_URL"),
        (OutOfMemoryError("command not allowed"), "raise its maxmemory"),
        (ReadOnlyError("read only replica"), "at the primary"),
        (ConnectionError("refused"), "is Redis running there"),
        (TimeoutError("Timeout reading"), "is Redis running there"),
        (ResponseError("WRONGTYPE"), "WRONGTYPE"),
        (OSError(113, "No route to host"), "No route to host"),
        (RedisError(), "RedisError"),
    ],
)
async def test_every_failure_is_one_line_with_a_cure(error: Exception, cure: str) -> None:
    redis = Failing(server=FakeServer())
    redis.error = error
    registry = Registry(redis, "f")
    record = WorkerRecord(id="a", generation=1, url="http://127.0.0.1:1")
    for call in (
        lambda: registry.register(record, LoadReport()),
        lambda: registry.beat("a", 1, LoadReport()),
        lambda: registry.deregister("a", 1),
        lambda: registry.snapshot(),  # noqa: PLW0108
        lambda: registry.retire_router("r"),
    ):
        with pytest.raises(RegistryUnavailable) as failed:
            await call()
        assert cure in str(failed.value)
        assert "\n" not in str(failed.value)


class Foreign(FakeAsyncRedis):
    """A Redis in which somebody else has written."""

    reply: object = None

    async def execute_command(self, *args: object, **options: object) -> object:
        return self.reply


@pytest.mark.parametrize(
    "version",
    [(b"e", b"much"), (b"e", b"1.5"), (b"\xff", b"1"), (b"e", b"9" * 5000)],
    ids=["word", "half", "bytes", "long"],
)
async def test_what_others_have_written_is_a_registry_that_cannot_be_used(version: tuple[bytes, bytes]) -> None:
    redis = Foreign(server=FakeServer())
    registry = Registry(redis, "f")
    redis.reply = [*version, b"0", [], [], b""]
    with pytest.raises(RegistryUnavailable, match="no vLLama has written"):
        await registry.snapshot()
    redis.reply = [1, *version]
    with pytest.raises(RegistryUnavailable, match="no vLLama has written"):
        await registry.register(WorkerRecord(id="a", generation=1, url="http://127.0.0.1:1"), LoadReport())


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("redis://127.0.0.1:1/0", "at 127.0.0.1:1 (Connection refused)"),
        ("redis://no.such.host.invalid:6379/0", "at no.such.host.invalid:6379 (Name or service not known)"),
        ("/no/such.sock", "at /no/such.sock (No such file or directory); is Redis running there?"),
    ],
)
async def test_the_reason_is_said_in_the_systems_words_and_the_address_once(address: str, said: str) -> None:
    redis = connect(address)
    with pytest.raises(RegistryUnavailable) as failed:
        await ping(redis)
    assert said in str(failed.value)
    await redis.aclose()


async def test_a_password_is_never_told() -> None:
    redis = connect("redis://user:hunter2@127.0.0.1:1/0")
    with pytest.raises(RegistryUnavailable) as failed:
        await ping(redis)
    assert "127.0.0.1:1" in str(failed.value)
    assert "hunter2" not in str(failed.value)
    await redis.aclose()


@pytest.mark.parametrize("address", ["", "127.0.0.1:6379", "http://127.0.0.1:6379", "redis://h:port"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InvalidRegistryAddress, match="use redis://HOST"):
        connect(address)


@pytest.mark.parametrize("address", ["redis://127.0.0.1:6379/2", "unix:///run/x.sock", "/run/x.sock"])
def test_a_client_has_short_time_outs_and_does_not_retry(address: str) -> None:
    options = connect(address).connection_pool.connection_kwargs
    assert (options["socket_connect_timeout"], options["socket_timeout"]) == (CONNECT_TIMEOUT, REPLY_TIMEOUT)
    assert options["retry"].get_retries() == 0
    assert isinstance(connect(address), aioredis.Redis)


async def test_what_could_not_be_framed_is_refused_before_it_is_sent() -> None:
    registry = Registry(FakeAsyncRedis(server=FakeServer()), "f")
    with pytest.raises(ValueError, match="worker id"):
        await registry.register(WorkerRecord(id="a\nb", generation=1, url="http://127.0.0.1:1"), LoadReport())
    with pytest.raises(ValueError, match="negative"):
        await registry.register(WorkerRecord(id="a", generation=-1, url="http://127.0.0.1:1"), LoadReport())
