"""A light client of streamed chats: sends requests at given times, and notes when tokens and ends arrive."""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.programs import CannotMeasure

LOOPBACK = "127.0.0.1"
READ_SIZE = 1 << 16
_CONTENT = re.compile(rb'"content": ?"[^"]')
"""The first token. vLLM sends the role with an empty content ahead of it."""
_COUNT = re.compile(rb'"(?:eval_count|completion_tokens)": ?(\d+)')
_END = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    port: int
    path: str
    body: bytes
    after: float = 0.0
    """Seconds from the begin of the round until it is sent."""

    def encode(self) -> bytes:
        head = f"POST {self.path} HTTP/1.1\r\nHost: {LOOPBACK}:{self.port}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body


@dataclass(frozen=True, slots=True)
class Round:
    """Several streams at once."""

    tokens: int
    seconds: float
    """From the first request to the end of the last stream."""
    first: tuple[float, ...]
    """Seconds from each request to its first token."""

    @property
    def rate(self) -> float:
        """Tokens per second of all streams."""
        return self.tokens / self.seconds

    @property
    def mean_first(self) -> float:
        return sum(self.first) / len(self.first)


def run(requests: Sequence[Request], limit: float) -> Round:
    """Raises CannotMeasure if a stream fails or `limit` seconds pass."""
    with selectors.DefaultSelector() as selector:
        streams = [_Stream(request) for request in requests]
        try:
            begin = time.perf_counter()
            waiting = sorted(streams, key=lambda stream: -stream.request.after)
            while waiting or selector.get_map():
                now = time.perf_counter() - begin
                if now > limit:
                    raise CannotMeasure(f"the streams did not end within {limit:g} s; see the logs")
                if waiting and waiting[-1].request.after <= now:
                    stream = waiting.pop()
                    stream.send()
                    selector.register(stream.connection, selectors.EVENT_READ, stream)
                    continue
                for key, _ in selector.select(max(0.0, waiting[-1].request.after - now) if waiting else 1.0):
                    if key.data.read():
                        selector.unregister(key.fileobj)
        finally:
            for stream in streams:
                stream.connection.close()
    seconds = max(stream.end for stream in streams) - min(stream.begin for stream in streams)
    return Round(sum(map(_Stream.tokens, streams)), seconds, tuple(stream.first - stream.begin for stream in streams))


class _Stream:
    """One connection, open from the start, with one request."""

    def __init__(self, request: Request) -> None:
        self.connection = socket.create_connection((LOOPBACK, request.port), timeout=10)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = request
        self._data = bytearray()
        self.begin = 0.0
        self.first = 0.0
        self.end = 0.0

    def send(self) -> None:
        data = self.request.encode()
        self.begin = time.perf_counter()
        self.connection.sendall(data)

    def read(self) -> bool:
        """Read what has arrived. Return True at the end of the response."""
        data = self.connection.recv(READ_SIZE)
        now = time.perf_counter()
        self._data += data
        if not self.first and _CONTENT.search(self._data):
            self.first = now
        if data and not self._data.endswith(_END):
            return False
        self.end = now
        return True

    def tokens(self) -> int:
        return tokens(bytes(self._data))


def tokens(response: bytes) -> int:
    """Return the number of tokens that a whole response states. Raises CannotMeasure for any other response."""
    found = _COUNT.findall(response)
    if not (response.startswith(b"HTTP/1.1 200 ") and response.endswith(_END) and _CONTENT.search(response) and found):
        raise CannotMeasure(f"a stream failed; read its response: {response[:300]!r} … {response[-300:]!r}")
    return int(found[-1])
