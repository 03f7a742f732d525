"""Clients that leave at random moments of their requests, on every route that a worker serves."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from tests.chaos.fault_proxy import RESET
from tests.support.operations import REQUESTS, Request

LATEST = 0.06
"""Seconds. A short answer takes about 40 ms on an idle machine, so leavings meet each moment of it."""
PATIENCE = 20.0
"""Seconds until the first content of a stream."""


class Moment(enum.StrEnum):
    IN_HEAD = "before the head is sent"
    IN_BODY = "within the body"
    WAITING = "waiting for a place"
    BEFORE_TOKEN = "before the first token"
    IN_STREAM = "within a stream"
    UNSTREAMED = "before an answer in one piece"
    ANY = "at any moment of a short answer"


@dataclass(frozen=True)
class Models:
    """Models by the moments at which their clients leave."""

    short: str
    """Its answers end within LATEST."""
    long: str
    """Its answers end only because their clients have left."""
    late: str
    """Its first token comes later than LATEST."""
    full: Sequence[str]
    """They have fewer places than clients."""
    embedding: str = ""
    """"" for no requests that embed."""
    hearing: str = ""


@dataclass(frozen=True)
class Leaving:
    """One request, and when its client leaves."""

    moment: Moment
    request: Request
    model: str
    after: float
    """Seconds from the moment's beginning."""
    cut: float = 1.0
    """Share of the head or the body that is sent."""
    reset: bool = False
    """Leaves with RST in place of FIN."""

    def bytes(self) -> bytes:
        content = self.request.content(self.model)
        if "max_tokens" in self.request.fields:
            content["json"]["max_tokens"] = 4000  # more than a client stays for
        made = httpx.Request("POST", f"http://localhost{self.request.path}", **content)
        lines = [f"{name}: {value}\r\n" for name, value in made.headers.items()]
        head = f"POST {self.request.path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()
        if self.moment is Moment.IN_HEAD:
            return head[: int(self.cut * len(head))]
        body = made.read()
        return head + (body[: int(self.cut * len(body))] if self.moment is Moment.IN_BODY else body)


GENERATIONS = [one for one in REQUESTS if one.stream is not None and not one.hears]
STREAMS = [one for one in GENERATIONS if one.stream]
UNSTREAMED = [one for one in GENERATIONS if not one.stream]


def choose(rng: random.Random, models: Models) -> Leaving:
    moment = rng.choice(list(Moment))
    usable = [one for one in REQUESTS if (models.embedding or not one.embeds) and (models.hearing or not one.hears)]
    groups = {
        Moment.WAITING: (GENERATIONS, rng.choice(models.full)),
        Moment.BEFORE_TOKEN: (GENERATIONS, models.late),
        Moment.IN_STREAM: (STREAMS, models.long),
        Moment.UNSTREAMED: (UNSTREAMED, models.long),
    }
    requests, model = groups.get(moment, (usable, models.short))
    request = rng.choice(requests)
    model = models.embedding if request.embeds else models.hearing if request.hears else model
    return Leaving(moment, request, model, rng.uniform(0, LATEST), rng.random(), rng.random() < 0.5)


async def leave(port: int, leaving: Leaving) -> None:
    """Send the request, or its beginning, and leave. Raises AssertionError if a long stream has no content."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(leaving.bytes())
        if leaving.moment is Moment.IN_STREAM:
            await _content(reader)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(leaving.after):
                while await reader.read(2**16):
                    pass
    finally:
        if leaving.reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _content(reader: asyncio.StreamReader) -> None:
    """Read the head and the first content. Raises AssertionError if the answer ends before."""
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert await reader.read(2**16), "a stream without content"
