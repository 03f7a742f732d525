"""Clients that leave, write slowly, or send too much."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections import Counter

import psutil

from tests.chaos.fleet import Plan
from tests.chaos.leavings import Models, Moment, choose, leave
from tests.chaos.load import Load
from tests.chaos.requests import Malformed, Request, parse
from tests.chaos.row import Rows, Scene

KEEP_ALIVE = 1
"""Seconds after which a worker closes an idle connection."""
FULL = Plan(
    worker_flags=("--max-num-seqs", "4", "--max-model-len", "4096", "--tokens-per-second", "100", "--ttft", "0.03"),
    agent_env={"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE)},
)
"""Workers with fewer places than clients, so that some leave while they wait."""
LEAVE_AT_ONCE = 40
MODELS = Models("m", "m", "m", ("m",))
KIB, MIB = 1 << 10, 1 << 20
BODY_LIMIT = 64 * MIB
"""The default of the routers."""


def add(rows: Rows) -> None:
    rows.row("F21", "90 clients leave at once", "Workers stop at once for clients that have left.")(leave_at_once)
    rows.row(
        "F22",
        "clients leave at random moments",
        "Descriptors, leases and places come back to their base.",
        plan=FULL,
    )(leave_at_random)
    rows.row("F24", "clients that never finish a request's head", "They are closed in time; others notice nothing.")(
        write_slowly
    )
    rows.row("F25", "bodies and heads that are too large", "They are refused with the right status, and not stored.")(
        too_large
    )


async def leave_at_once(scene: Scene) -> None:
    requests = [Request(f"leaving {number}", 400) for number in range(90)]
    open_ones = [await opened(scene.fleet.ports[number % 2], request) for number, request in enumerate(requests)]

    async def all_there() -> bool:
        return await taken(scene) == len(requests)

    await scene.until(all_there, 10, "workers have all requests")
    for writer in open_ones:
        writer.transport.abort()

    async def none_left() -> bool:
        return await taken(scene) == 0

    await scene.recovers(none_left, 1, "workers have no request of a client that left")
    await scene.recovers(scene.fleet.at_rest, 2, "all counts are 0")
    await sound(scene)


async def leave_at_random(scene: Scene) -> None:
    await sound(scene)
    await scene.until(scene.fleet.at_rest, 5, "all counts are 0")
    base = await least_descriptors(scene)
    chance = random.Random(22)
    total = int(scene.size(1000, 10_000))
    moments = Counter[Moment]()
    numbers = iter(range(total))

    async def leave_one_by_one() -> None:
        for number in numbers:
            leaving = choose(chance, MODELS)
            await leave(scene.fleet.ports[number % 2], leaving)
            moments[leaving.moment] += 1

    await asyncio.gather(*(leave_one_by_one() for _ in range(LEAVE_AT_ONCE)))
    await scene.recovers(scene.fleet.at_rest, 5, "all counts are 0")
    await sound(scene)
    await scene.until(scene.fleet.at_rest, 5, "all counts are 0")
    await scene.recovers(lambda: descriptors(scene) <= base, 3 * KEEP_ALIVE, f"routers hold {base} descriptors again")
    scene.notes.append(f"{total} clients left at {len(moments)} kinds of moments; {base} descriptors before and after")


async def least_descriptors(scene: Scene) -> int:
    """Return the routers' descriptors once workers have closed the connections that no request uses."""
    least = descriptors(scene)
    deadline = time.monotonic() + 3 * KEEP_ALIVE
    while time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        least = min(least, descriptors(scene))
    return least


async def write_slowly(scene: Scene) -> None:
    usual = await quiet_load(scene)
    count = int(scene.size(100, 500))
    start = time.monotonic()
    pairs = [await asyncio.open_connection("127.0.0.1", scene.fleet.ports[number % 2]) for number in range(count)]
    for _, writer in pairs:
        writer.write(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    during = await quiet_load(scene)
    check_unaffected(scene, usual, during)

    async def closed() -> bool:
        for reader, writer in pairs:
            with contextlib.suppress(OSError, RuntimeError):
                writer.write(b"a")
            if not reader.at_eof():
                with contextlib.suppress(TimeoutError, OSError):
                    await asyncio.wait_for(reader.read(1000), 0.001)
        return all(reader.at_eof() or reader.exception() for reader, _ in pairs)

    try:
        await scene.recovers(closed, 12, "the routers close connections without a request", since=start)
    finally:
        for _, writer in pairs:
            writer.transport.abort()


async def too_large(scene: Scene) -> None:
    port = scene.fleet.ports[0]
    process = psutil.Process(scene.fleet.routers[0].pid)
    before = process.memory_info().rss
    post = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    piece = bytes(MIB)
    chunks = [b"%x\r\n%s\r\n" % (len(piece), piece)] * (BODY_LIMIT // MIB + 2)
    cases = {
        "a large Content-Length": ([f"{post}Content-Length: {BODY_LIMIT + 1}\r\n\r\n".encode()], (413,)),
        "a large chunked body": ([f"{post}Transfer-Encoding: chunked\r\n\r\n".encode(), *chunks], (413,)),
        "gzip": ([f"{post}Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc".encode()], (415,)),
        "a head of 1 MB": ([f"{post}X-Large: {'a' * 10**6}\r\n\r\n".encode()], (431,)),
    }
    async with scene.load(clients=10).running() as load:
        for name, (parts, statuses) in cases.items():
            status = await status_of(port, parts)
            scene.check(status in statuses, f"{name}: status {status} instead of {statuses[0]}")
        await load.until_complete(10)
    grown = process.memory_info().rss - before
    scene.notes.append(f"the router grew by {grown / MIB:.0f} MiB")
    scene.check(grown <= 2 * BODY_LIMIT, f"the router grew by {grown / MIB:.0f} MiB")


# --- observations


async def opened(port: int, request: Request) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.bytes())
    return writer


async def status_of(port: int, parts: list[bytes]) -> int:
    """Send a request in parts, until the router answers. Returns 0 for a connection without a response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()

    async def receive() -> None:
        with contextlib.suppress(OSError, TimeoutError):
            while data := await asyncio.wait_for(reader.read(65536), 10):
                received.extend(data)

    receiving = asyncio.create_task(receive())
    try:
        with contextlib.suppress(OSError):
            for part in parts:
                writer.write(part)
                await writer.drain()
        await receiving
        return parse(bytes(received)).status
    except Malformed:
        return 0
    finally:
        writer.transport.abort()


async def taken(scene: Scene) -> int:
    """Return the requests that workers run, or that wait in them."""
    stats = [await worker.stats() for worker in scene.fleet.workers]
    return sum(int(one["running"]) + int(one["waiting"]) for one in stats)


def descriptors(scene: Scene) -> int:
    return sum(psutil.Process(router.pid).num_fds() for router in scene.fleet.routers)


async def sound(scene: Scene) -> None:
    """Send some requests, which must succeed."""
    async with scene.load(clients=20, tokens=5).running() as load:
        await load.until_complete(40)


async def quiet_load(scene: Scene) -> Load:
    load = scene.load(clients=10, tokens=5)
    async with load.running():
        await load.until_complete(60)
    return load


def check_unaffected(scene: Scene, usual: Load, during: Load) -> None:
    """The median says it on a busy machine; the 99th percentile of so few is the machine's."""
    before, now = (statistics.median(one.seconds for one in load.outcomes) for load in (usual, during))
    scene.notes.append(f"median of others {before * 1000:.0f} ms before, {now * 1000:.0f} ms during")
    scene.check(now <= before * (1 + 0.1 * scene.patience) + 0.01, f"others took {now / before - 1:+.0%}")
