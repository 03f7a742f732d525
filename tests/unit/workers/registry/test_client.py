"""The registry client: errors are one line with a remedy and without secrets."""

from __future__ import annotations

import pytest
import redis.asyncio as aioredis
from fakeredis import FakeAsyncRedis, FakeServer
from hypothesis import given
from hypothesis import strategies as st
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

from vllama_pool.config.redis_address import InvalidAddress
from vllama_pool.workers.registry.client import (
    CONNECT_TIMEOUT,
    LOCAL_CONNECT_TIMEOUT,
    REPLY_TIMEOUT,
    Registry,
    RegistryUnavailable,
    connect,
    ping,
)
from vllama_pool.workers.registry.connections import TlsConnection
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord


class Failing(FakeAsyncRedis):
    """Answers everything with one error."""

    error: Exception = ResponseError("wrong")

    async def execute_command(self, *args: object, **options: object) -> object:
        raise self.error


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (AuthenticationError("invalid username-password pair", status_code="WRONGPASS"), "correct the user name"),
        (NoPermissionError("no permissions to run evalsha", status_code="NOPERM"), "deploy/README.md"),
        (OutOfMemoryError("command not allowed", status_code="OOM"), "raise its maxmemory"),
        (ReadOnlyError("read only replica", status_code="READONLY"), "at the primary"),
        (ConnectionError("refused"), "is Redis running there"),
        (TimeoutError("Timeout reading"), "is Redis running there"),
        (ResponseError("WRONGTYPE"), "WRONGTYPE"),
        (OSError(113, "No route to host"), "No route to host"),
        (RedisError(), "RedisError"),
    ],
)
async def test_every_redis_error_is_one_line_with_a_remedy(error: Exception, remedy: str) -> None:
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
        assert remedy in str(failed.value)
        assert "\n" not in str(failed.value)


class Foreign(FakeAsyncRedis):
    """Answers everything with one reply."""

    reply: object = None

    async def execute_command(self, *args: object, **options: object) -> object:
        return self.reply


@pytest.mark.parametrize(
    "version",
    [(b"e", b"much"), (b"e", b"1.5"), (b"\xff", b"1"), (b"e", b"9" * 5000)],
    ids=["word", "half", "bytes", "long"],
)
async def test_foreign_data_in_redis_is_a_registry_unavailable_error(version: tuple[bytes, bytes]) -> None:
    redis = Foreign(server=FakeServer())
    registry = Registry(redis, "f")
    redis.reply = [*version, b"0", [], [], b""]
    with pytest.raises(RegistryUnavailable, match="no vLLama has written"):
        await registry.snapshot()
    redis.reply = [1, *version]
    with pytest.raises(RegistryUnavailable, match="no vLLama has written"):
        await registry.register(WorkerRecord(id="a", generation=1, url="http://127.0.0.1:1"), LoadReport())


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("redis://127.0.0.1:1/0", "at 127.0.0.1:1 (Connection refused)"),
        ("redis://no.such.host.invalid:6379/0", "at no.such.host.invalid:6379 (Name or service not known)"),
        ("/no/such.sock", "at /no/such.sock (No such file or directory); is Redis running there?"),
    ],
)
async def test_an_unreachable_registry_is_reported_with_the_systems_reason(address: str, text: str) -> None:
    redis = connect(address)
    with pytest.raises(RegistryUnavailable) as failed:
        await ping(redis)
    assert text in str(failed.value)
    await redis.aclose()


async def test_a_password_in_the_address_is_never_in_an_error() -> None:
    redis = connect("redis://user:hunter2@127.0.0.1:1/0")
    with pytest.raises(RegistryUnavailable) as failed:
        await ping(redis)
    assert "127.0.0.1:1" in str(failed.value)
    assert "hunter2" not in str(failed.value)
    await redis.aclose()


@pytest.mark.parametrize("address", ["", "127.0.0.1:6379", "http://127.0.0.1:6379", "redis://h:port"])
def test_an_invalid_registry_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidAddress, match=";"):
        connect(address)


@given(st.text(max_size=40) | st.text(alphabet="redis:/@?#=&%[]. 0123456789db", max_size=40).map("redis://".__add__))
def test_any_text_ends_in_a_client_or_in_one_line(text: str) -> None:
    try:
        client = connect(text)
    except InvalidAddress:
        return
    assert client.get_encoder().decode_responses is False
    assert client.connection_pool.connection_kwargs["protocol"] == 2
    assert client.connection_pool.make_connection() is not None


def test_credentials_database_and_tls_reach_the_client() -> None:
    client = connect("rediss://u:p%40ss@h:7000/3?ssl_cert_reqs=none&client_name=x")
    options = client.connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["db"]) == ("h", 7000, 3)
    assert (options["username"], options["password"], options["client_name"]) == ("u", "p@ss", "x")
    assert client.connection_pool.connection_class is TlsConnection
    assert "p@ss" not in repr(client)


@pytest.mark.parametrize(
    ("address", "connect_timeout"),
    [
        ("redis://127.0.0.1:6379/2", CONNECT_TIMEOUT),
        ("unix:///run/x.sock", LOCAL_CONNECT_TIMEOUT),
        ("/run/x.sock", LOCAL_CONNECT_TIMEOUT),
    ],
)
def test_a_registry_client_has_short_timeouts_and_does_not_retry(address: str, connect_timeout: float) -> None:
    options = connect(address).connection_pool.connection_kwargs
    assert (options["socket_connect_timeout"], options["socket_timeout"]) == (connect_timeout, REPLY_TIMEOUT)
    assert options["retry"].get_retries() == 0
    assert isinstance(connect(address), aioredis.Redis)


async def test_invalid_ids_and_generations_are_refused_before_sending() -> None:
    registry = Registry(FakeAsyncRedis(server=FakeServer()), "f")
    with pytest.raises(ValueError, match="worker id"):
        await registry.register(WorkerRecord(id="a\nb", generation=1, url="http://127.0.0.1:1"), LoadReport())
    with pytest.raises(ValueError, match="negative"):
        await registry.register(WorkerRecord(id="a", generation=-1, url="http://127.0.0.1:1"), LoadReport())
