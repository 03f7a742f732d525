"""Both sides of a relay without a socket: an upstream client that plays scripts, and a client's recorded response."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vllama_pool.router.upstream.interface import Endpoint, Exchange, Headers, Sink, TransportError


class Hang:
    """A step that never completes."""


Step = bytes | TransportError | Hang


@dataclass
class FakeResponse:
    """A worker's response: its head, then these steps, each in a turn of the event loop, then its end."""

    steps: Sequence[Step] = ()
    status: int = 200
    """0: without a head."""
    headers: Mapping[str, str] = field(default_factory=dict)


class FakeExchange:
    """An `interface.Exchange` that plays a response, or one that the test pushes into `sink`."""

    def __init__(self, sink: Sink, response: FakeResponse | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._steps = [] if response is None else list(response.steps)
        self._next: asyncio.Handle | None = None
        self._ended = False
        self.last_heard = self._loop.time()
        self.sink: Sink | None = sink
        """None once nothing more reaches it."""
        self.played = 0
        """Steps."""
        self.paused = False
        self.finished = 0
        self.closed = 0
        if response is not None:
            self._next = self._loop.call_soon(self._play_head, response)

    @property
    def released(self) -> bool:
        return bool(self.finished or self.closed)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        if self._next is None and self._steps:
            self._schedule()

    def fail(self, error: TransportError) -> None:
        if not self._ended and (sink := self._end()) is not None:
            sink.lost(error)

    def finish(self) -> None:
        self.finished += 1
        self._end()

    def close(self) -> None:
        self.closed += 1
        self._end()

    def _end(self) -> Sink | None:
        self._ended = True
        sink, self.sink = self.sink, None
        return sink

    def _schedule(self) -> None:
        self._next = self._loop.call_soon(self._play)

    def _play_head(self, response: FakeResponse) -> None:
        if self.sink is not None:
            if response.status:
                self.sink.head(response.status, response.headers)
            self._schedule()

    def _play(self) -> None:
        self._next = None
        if self.sink is None or self.paused:
            return
        if not self._steps:
            self._ended = True
            self.sink.eof()
            self.sink = None
            return
        step = self._steps.pop(0)
        self.played += 1
        if isinstance(step, TransportError):
            self.fail(step)
        elif isinstance(step, bytes):
            self.last_heard = self._loop.time()
            self.sink.data(step)
            self._schedule()


Script = Sequence[FakeResponse | TransportError]


class FakeClient:
    """Plays a script per worker: the response to each request, or its failure."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self._scripts = {worker: list(script) for worker, script in scripts.items()}
        self.sent: list[tuple[str, str, bytes]] = []
        """Worker, path and body of each request."""
        self.request_ids: list[str] = []
        self.exchanges: list[FakeExchange] = []
        self.connect_timeouts: set[float] = set()

    @property
    def workers(self) -> list[str]:
        return [worker for worker, _, _ in self.sent]

    def send(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        *,
        headers: Headers,
        request_id: str,
        body: bytes,
        sink: Sink,
        connect_timeout: float,
    ) -> Exchange:
        self.sent.append((endpoint.host, path, body))
        self.request_ids.append(request_id)
        self.connect_timeouts.add(connect_timeout)
        exchange = FakeExchange(sink, self.next_response(endpoint.host))
        self.exchanges.append(exchange)
        return exchange

    def next_response(self, worker: str) -> FakeResponse | None:
        """None: the test pushes the response."""
        step = self._scripts[worker].pop(0)
        return step if isinstance(step, FakeResponse) else FakeResponse([step], 0)

    async def aclose(self) -> None: ...


class RecordingWriter:
    """A `ClientWriter` that records a response. Its client lags while `behind` is set."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.writes: list[bytes] = []
        self.ended = False
        """The last write was seen."""
        self.behind = False
        self.dropped = False
        self._caught_up = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.writes)

    def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        assert not self.status, "a second response"
        self.status, self.headers = status, dict(headers)

    def write(self, data: bytes, *, last: bool = False) -> bool:
        assert self.status, "a write before the response's start"
        assert not self.ended, "a write after the last one"
        self.writes.append(data)
        self.ended = last
        return not self.behind

    async def drained(self) -> None:
        if self.behind:
            await self._caught_up.wait()
        if self.dropped:
            raise TimeoutError

    def lag(self) -> None:
        self.behind = True
        self._caught_up.clear()

    def catch_up(self) -> None:
        self.behind = False
        self._caught_up.set()

    def drop(self) -> None:
        """End the connection of a client that lags, as the server does."""
        self.dropped = self.behind
        self._caught_up.set()
