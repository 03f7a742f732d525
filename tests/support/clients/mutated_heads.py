"""Sends mutated HTTP requests over raw sockets.

python -m tests.support.clients.mutated_heads HOST:PORT COUNT [SEED]
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

_CHAT = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}'
_CHUNKED = b"%x\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(_CHAT), _CHAT)
_HOST = b"Host: localhost\r\n"
REQUESTS = [
    b"GET / HTTP/1.0\n\n",
    b"HEAD / HTTP/1.1\r\n" + _HOST + b"Connection: close\r\n\r\n",
    b"GET /api/tags HTTP/1.1\r\n" + _HOST + b"Accept: */*\r\nUser-Agent: curl/8.5.0\r\nX-Request-Id: a\r\n\r\n",
    b"GET http://localhost/api/version?a=%20b HTTP/1.1\r\n" + _HOST + b"Proxy-Connection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n",
    b"OPTIONS /api/chat HTTP/1.1\r\n" + _HOST + b"Origin: http://localhost:3000\r\n"
    b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n\r\n",
    b"POST //api/./show HTTP/1.1\r\n" + _HOST + b'Content-Length: 16\r\n\r\n{"model":"tiny"}',
    b"POST /api/chat HTTP/1.1\r\n" + _HOST + b"Authorization: Bearer k\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_CHAT) + _CHAT,
    b"POST /api/chat HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n" % len(_CHAT) + _CHAT,
    b"POST /api/chat HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n" + _CHUNKED,
    b"POST /v1/messages?beta=true HTTP/1.1\r\n" + _HOST + b'Content-Length: 16\r\n\r\n{"model":"tiny"}',
    b"POST /api/generate HTTP/1.1\r\n" + _HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b'HTTP2-Settings: AAEA\r\nContent-Length: 31\r\n\r\n{"model":"tiny","prompt":"hi"}\n',
]
_PIECES = [
    *(
        b"\n",
        b"\r",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"\0",
        b"\x7f",
        b"\xff",
        b"\xc3\xa4",
        b":",
        b"%",
        b"%00",
        b"%2f",
    ),
    *(b"/", b"//", b"/../", b"/./", b"?", b"#", b"*", b"\\", b"@", b"[", b"]", b"0", b"-1", b"9" * 20, b"HTTP/1.1"),
    *(b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"GET", b"FOO", b"get", b"M-SEARCH", b"PRI", b"CONNECT", b"http://", b";"),
    *(b"\r\nContent-Length: 5", b"\r\nTransfer-Encoding: chunked", b"\r\nTransfer-Encoding: xchunked", b"\r\n folded"),
    *(b"\r\nContent-Length:", b"\r\nHost: evil.example", b"\r\nConnection: close", b"\r\nExpect: 100-continue"),
    *(b"\r\nContent-Encoding: gzip", b"\r\nOrigin: null", b"\r\nUpgrade: websocket", b"\r\nX: " + b"a" * 5000),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]
_STATUS = re.compile(rb"^HTTP/1\.[01] ([0-9]{3}) ", re.MULTILINE)
PATIENCE = 0.3
"""Seconds until a server that sends nothing is taken to wait for the rest of the request."""


def mutated(rng: random.Random) -> bytes:
    """Draw a request and change it in up to four places."""
    data = rng.choice(REQUESTS)
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(_MUTATIONS)(rng, data)
    return data


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(_PIECES) + data[at:]


def _insert_in_first_line(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, max(0, data.find(b"\n")))
    return data[:at] + rng.choice(_PIECES) + data[at:]


def _delete(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + data[at + rng.randint(1, 6) :]


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _repeat_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    at = rng.randrange(len(lines))
    return b"".join([*lines[:at], lines[at], *lines[at:]])


def _swap_line_ends(rng: random.Random, data: bytes) -> bytes:
    return data.replace(b"\r\n", rng.choice([b"\n", b"\r", b"\n\r", b"\r\r\n"]), rng.randint(1, 9))


def _replace_word(rng: random.Random, data: bytes) -> bytes:
    words = data.split(b" ")
    words[rng.randrange(len(words))] = rng.choice(_PIECES)
    return b" ".join(words)


def _append_request(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice(REQUESTS)


_MUTATIONS: list[Callable[[random.Random, bytes], bytes]] = [
    *(_insert, _insert, _insert_in_first_line, _insert_in_first_line, _delete, _overwrite, _overwrite, _repeat_line),
    *(_swap_line_ends, _replace_word, _append_request),
]


async def statuses(host: str, port: int, request: bytes) -> list[int]:
    """Return the statuses of all responses until the server closes or waits."""
    reader, writer = await asyncio.open_connection(host, port)
    received = b""
    try:
        writer.write(request)
        with suppress(TimeoutError, ConnectionError):
            while part := await asyncio.wait_for(reader.read(65536), PATIENCE):
                received += part
    finally:
        writer.close()
    return [int(status) for status in _STATUS.findall(received)]


async def fuzz(host: str, port: int, count: int, seed: int = 0, at_once: int = 25) -> dict[int, list[bytes]]:
    """Send `count` mutated requests. Return those of each status; of status 0 those without any response."""
    rng = random.Random(seed)
    answered: dict[int, list[bytes]] = {}
    turns = asyncio.Semaphore(at_once)

    async def one(request: bytes) -> None:
        async with turns:
            for status in await statuses(host, port, request) or [0]:
                answered.setdefault(status, []).append(request)

    await asyncio.gather(*(one(mutated(rng)) for _ in range(count)))
    return answered


def main(address: str, count: int, seed: int) -> None:
    host, _, port = address.rpartition(":")
    answered = asyncio.run(fuzz(host, int(port), count, seed))
    counts = Counter({status: len(sent) for status, sent in sorted(answered.items())})
    sys.stdout.write("".join(f"{status}: {number}\n" for status, number in counts.items()))
    errors = [request for status, sent in answered.items() if status >= 500 for request in sent]
    sys.stdout.write("".join(f"5xx: {request!r}\n" for request in errors[:20]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 0)
