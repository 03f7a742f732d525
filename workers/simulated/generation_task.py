"""One generating request between engine and client, with its fault. It may have several sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllama_pool.workers.simulated import errors, faults
from vllama_pool.workers.simulated.answers import Token
from vllama_pool.workers.simulated.collector import Collector
from vllama_pool.workers.simulated.counts import Counts
from vllama_pool.workers.simulated.engine import Entry
from vllama_pool.workers.simulated.engine_loop import EngineLoop
from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.http_server import Exchange
from vllama_pool.workers.simulated.streams import Stream

GARBAGE = {
    "head": b"\x00\xff\xfe not HTTP \x80\r\n\r\n",
    "chunk": b"zz\r\n\xff\xfe\r\n",
    "event": b"data: {\xff\xfe not JSON \x00\n\n",
}


HALF_EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"cont'
HALF_ANSWER = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 512\r\n\r\n{"id":"chatcmpl-1","cho'


class GenerationTask:
    def __init__(
        self,
        exchange: Exchange,
        engine_loop: EngineLoop,
        counts: Counts,
        error_shape: errors.Shape,
        fault: faults.RequestFault | None,
        die: Callable[[], None],
    ) -> None:
        self.exchange = exchange
        self.counts = counts
        self.output: Stream | Collector | None = None
        self.entries: list[Entry] = []
        """Empty until the engine has the request."""
        self.finished = False
        self.aborted = False
        self.on_finish: Callable[[GenerationTask], None] | None = None
        self._engine_loop = engine_loop
        self._error_shape = error_shape
        self._fault = fault
        self._die = die
        self._running = counts.sequences
        exchange.on_disconnect = self.disconnect
        exchange.on_resume = self.catch_up

    @property
    def streams(self) -> bool:
        return isinstance(self.output, Stream)

    def sequence(self, index: int) -> SequenceOutput:
        return SequenceOutput(self, index)

    def token(self, index: int, token: Token, finish: str, stop_reason: str | None) -> None:
        if self.finished:
            return
        if self._fault is not None and self._is_due():
            self._inject(self._fault)
            return
        output = self.output
        assert output is not None
        self._count(index, token)
        output.token(index, token, finish, stop_reason)
        self._running -= bool(finish)
        if self.streams:
            self._engine_loop.flush_later(self.exchange)
            if not self._running:
                self._finish()
                self.exchange.end()

    def begin(self) -> None:
        """Start the stream."""
        self.exchange.begin()
        if isinstance(self.output, Stream):
            self.output.begin()
            self.exchange.flush()

    def respond(self, answer: errors.HttpResponse) -> None:
        self._finish()
        self.exchange.respond(answer)

    def fail(self, error: ApiError) -> None:
        """Respond with an error, or send it in the started stream."""
        if self.finished:
            return
        self._finish()
        if not (isinstance(self.output, Stream) and self.exchange.started):
            self.exchange.respond(self._error_shape(error))
            return
        self.output.fail(error)
        self._end(self.output)

    def abort(self) -> None:
        """End after the engine aborted the sequence."""
        if self.finished or self.output is None:
            return
        self.output.abort()
        if isinstance(self.output, Stream):
            self._finish()
            self._end(self.output)

    def disconnect(self) -> None:
        if self.finished:
            return
        self.aborted = True
        self._leave_engine()
        self._finish()

    def catch_up(self) -> None:
        if isinstance(self.output, Stream) and not self.finished:
            self.output.catch_up()
            self.exchange.flush()

    def inject_early(self) -> bool:
        """Inject a fault before the first token. Returns True if it ends the request."""
        fault = self._fault
        if isinstance(fault, faults.Split):
            self.exchange.split = True
        if isinstance(fault, faults.Garbage) and fault.where == "head":
            self.exchange.garbled = GARBAGE["head"]
        at_once = isinstance(fault, faults.Die | faults.Error) and fault.after_tokens == 0
        if fault is not None and (at_once or isinstance(fault, faults.Empty)):
            if not isinstance(fault, faults.Die) and self.streams:
                self.exchange.begin()
            self._inject(fault)
            return True
        return False

    def _is_due(self) -> bool:
        fault = self._fault
        if isinstance(fault, faults.Garbage) and fault.where == "head":
            return False
        after: Any = getattr(fault, "after_tokens", None)
        return after is not None and self.counts.total == after

    def _inject(self, fault: faults.RequestFault) -> None:
        """Inject a fault in place of a token. The engine must not change within its step."""
        if isinstance(fault, faults.Garbage):
            self._fault = None
            self._send_garbage(fault)
            return
        self.finished = True
        end = self._die if isinstance(fault, faults.Die) else lambda: self._break(fault)
        if self.entries:
            self._engine_loop.call_after_flush(end)
        else:
            end()

    def _break(self, fault: faults.RequestFault) -> None:
        self._leave_engine()
        self.finished = False
        if isinstance(fault, faults.Error):
            self.fail(errors.scripted(fault.status))
        elif isinstance(fault, faults.Empty) and isinstance(self.output, Stream):
            self._finish()
            self.output.abort()
            self._end(self.output)
        elif isinstance(fault, faults.Empty):
            self.fail(errors.scripted(500))
        elif isinstance(fault, faults.Half):
            self._finish()
            self._send_half()
        elif isinstance(fault, faults.Cut):
            self._finish()
            self.exchange.close(reset=fault.reset)
        else:  # stall: the stream stays open until the client disconnects
            self._finish()

    def _send_garbage(self, fault: faults.Garbage) -> None:
        if fault.where == "event" and self.streams:
            self.exchange.event(GARBAGE["event"])
        else:
            self.exchange.flush()
            self.exchange.garbled = GARBAGE["chunk"]

    def _send_half(self) -> None:
        if self.streams:
            self.exchange.begin()
            self.exchange.event(HALF_EVENT)
        else:
            self.exchange.garbled = HALF_ANSWER
            self.exchange.begin()
        self.exchange.close()

    def _end(self, stream: Stream) -> None:
        if stream.broken:
            self.exchange.close()
        else:
            self.exchange.end()

    def _leave_engine(self) -> None:
        for entry in self.entries:
            self._engine_loop.abort(entry)

    def _count(self, index: int, token: Token) -> None:
        counts = self.counts
        if not counts.total:
            counts.arrived, counts.scheduled = self.entries[0].arrived, self.entries[0].scheduled
        counts.add(index, token, self._engine_loop.now)

    def _finish(self) -> None:
        if not self.finished:
            self.finished = True
            if self.on_finish is not None:
                self.on_finish(self)


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """The output of one of a task's sequences."""

    task: GenerationTask
    index: int

    def token(self, token: Token, finish: str, stop_reason: str | None) -> None:
        self.task.token(self.index, token, finish, stop_reason)
