"""One generating request, between engine and client, and its fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllama_pool.workers.simulated import errors, script
from vllama_pool.workers.simulated.answers import Kind, Token
from vllama_pool.workers.simulated.chunks import Stream
from vllama_pool.workers.simulated.documents import Collected
from vllama_pool.workers.simulated.engine import Entry
from vllama_pool.workers.simulated.errors import Refusal
from vllama_pool.workers.simulated.runner import Runner
from vllama_pool.workers.simulated.wire import Exchange

GARBAGE = {
    "head": b"\x00\xff\xfe not HTTP \x80\r\n\r\n",
    "chunk": b"zz\r\n\xff\xfe\r\n",
    "event": b"data: {\xff\xfe not JSON \x00\n\n",
}


class Job:
    def __init__(
        self, exchange: Exchange, runner: Runner, fault: script.RequestFault | None, die: Callable[[], None]
    ) -> None:
        self.exchange = exchange
        self.output: Stream | Collected | None = None
        """Set before the first token."""
        self.entry: Entry | None = None
        """Set once the engine has the request."""
        self.first = 0.0
        self.last = 0.0
        self.tokens = 0
        self.reasoning = 0
        """Number of reasoning tokens."""
        self.over = False
        self.aborted = False
        self.on_over: Callable[[Job], None] | None = None
        """Called once, when the engine is finished with the job."""
        self._runner = runner
        self._fault = fault
        self._die = die
        exchange.on_lost = self.lost
        exchange.on_resume = self.catch_up

    @property
    def streams(self) -> bool:
        return isinstance(self.output, Stream)

    def token(self, token: Token, finish: str, stop_reason: str | None) -> None:
        """Receive a token from the engine, within a step."""
        if self.over:
            return
        if self._fault is not None and self._is_due():
            self._act(self._fault)
            return
        output = self.output
        assert output is not None
        self.last = self._runner.now
        if not self.tokens:
            self.first = self.last
        self.tokens += 1
        self.reasoning += token.kind is Kind.REASONING
        output.token(token, finish, stop_reason)
        if self.streams:
            self._runner.touch(self.exchange)
            if finish:
                self._finished()
                self.exchange.end()

    def respond(self, answer: errors.HttpAnswer) -> None:
        self._finished()
        self.exchange.respond(answer)

    def fail(self, refusal: Refusal) -> None:
        """End with an error: inside a started stream, else as the response."""
        if self.over:
            return
        self._finished()
        if isinstance(self.output, Stream) and self.exchange.started:
            self.output.fail(refusal)
            self.exchange.end()
        else:
            self.exchange.respond(refusal.answer)

    def abort(self) -> None:
        """End after the engine aborted the sequence (sleep)."""
        if self.over or self.output is None:
            return
        self.output.abort()
        if self.streams:
            self._finished()
            self.exchange.end()

    def lost(self) -> None:
        """Leave the engine, because the client disconnected."""
        if self.over:
            return
        self.aborted = True
        self._leave_engine()
        self._finished()

    def catch_up(self) -> None:
        """Write waiting tokens to a client that reads again."""
        if isinstance(self.output, Stream) and not self.over:
            self.output.catch_up()
            self.exchange.flush()

    def begin_fault(self) -> bool:
        """Act out a fault before the first token. Returns True if it ends the request."""
        fault = self._fault
        if isinstance(fault, script.Split):
            self.exchange.split = True
        if isinstance(fault, script.Garbage) and fault.where == "head":
            self.exchange.garbled = GARBAGE["head"]
        at_once = isinstance(fault, script.Die | script.Error) and fault.after_tokens == 0
        if fault is not None and (at_once or isinstance(fault, script.Empty)):
            if not isinstance(fault, script.Die) and self.streams:
                self.exchange.begin()
            self._act(fault)
            return True
        return False

    def _is_due(self) -> bool:
        fault = self._fault
        if isinstance(fault, script.Garbage) and fault.where == "head":
            return False
        after: Any = getattr(fault, "after_tokens", None)
        return after is not None and self.tokens == after

    def _act(self, fault: script.RequestFault) -> None:
        """Act out a fault in place of a token. The engine changes only after its step."""
        if isinstance(fault, script.Garbage):
            self._fault = None
            self._garble(fault)
            return
        self.over = True
        end = self._die if isinstance(fault, script.Die) else lambda: self._break(fault)
        if self.entry is not None:
            self._runner.after(end)
        else:
            end()

    def _break(self, fault: script.RequestFault) -> None:
        self._leave_engine()
        self.over = False
        if isinstance(fault, script.Error):
            self.fail(errors.scripted(fault.status))
        elif isinstance(fault, script.Empty) and isinstance(self.output, Stream):
            self._finished()
            self.output.abort()
            self.exchange.end()
        elif isinstance(fault, script.Empty):
            self.fail(errors.scripted(500))
        elif isinstance(fault, script.Cut):
            self._finished()
            self.exchange.cut(reset=fault.reset)
        else:  # stall: the stream stays open until the client disconnects
            self._finished()

    def _garble(self, fault: script.Garbage) -> None:
        if fault.where == "event" and self.streams:
            self.exchange.event(GARBAGE["event"])
        else:
            self.exchange.flush()
            self.exchange.garbled = GARBAGE["chunk"]

    def _leave_engine(self) -> None:
        if self.entry is not None:
            self._runner.abort(self.entry)

    def _finished(self) -> None:
        if not self.over:
            self.over = True
            if self.on_over is not None:
                self.on_over(self)
