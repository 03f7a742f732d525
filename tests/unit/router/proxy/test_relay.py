"""The relay: bytes that reach the client, back-pressure, and endings."""

import asyncio
from collections.abc import MutableMapping
from typing import Any, ClassVar

import pytest

from tests.support.until import auntil
from vllama_pool.router.protocol.operation import StreamFailure, Usage
from vllama_pool.router.proxy.relay import Relay, RelayOutcome
from vllama_pool.router.upstream.interface import ConnectionLost, Sink


class ScriptedResponse:
    """A worker's response whose bytes the test pushes."""

    status = 200
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.paused = False

    async def read(self) -> bytes:
        raise AssertionError("a relay does not read")

    def attach(self, sink: Sink) -> None:
        self.sink = sink

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.sink = None


class Shouting:
    """A translator to upper case; "!" completes the answer, "#" is an error event."""

    ready = True
    usage = Usage()
    cut_off = False

    def __init__(self) -> None:
        self.done = False
        self.failure: StreamFailure | None = None

    def feed(self, data: bytes) -> bytes:
        if b"#" in data:
            self.failure = StreamFailure(500, "engine died")
            return b""
        self.done = self.done or b"!" in data
        return data.upper()

    def finish(self) -> bytes:
        return b"<end>" if self.done else self.fail("cut short")

    def fail(self, text: str) -> bytes:
        return b"<error " + text.encode() + b">"


class Client:
    """Receives ASGI messages; waits before each while `open` is cleared."""

    def __init__(self) -> None:
        self.body = b""
        self.closed = False
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if not self.open.is_set():
            await self.open.wait()
        assert not self.closed, "a message after the final one"
        self.body += message["body"]
        self.closed = not message["more_body"]


def relay_to(client: Client, *, stall: float = 5.0) -> tuple[Relay, ScriptedResponse, Sink]:
    response = ScriptedResponse()
    relay = Relay(response, Shouting(), client.send, client_stall=stall, lost_text="worker lost")
    relay.start(b"")
    assert response.sink is not None
    return relay, response, response.sink


async def test_bytes_are_sent_within_the_read_callback() -> None:
    client = Client()
    relay, _, sink = relay_to(client)
    sink.data(b"hello ")
    assert client.body == b"HELLO "
    sink.data(b"you!")
    sink.eof()
    assert client.body == b"HELLO YOU!<end>"
    assert client.closed
    assert await relay.ended is RelayOutcome.COMPLETE


async def test_a_lost_worker_becomes_one_error_line() -> None:
    client = Client()
    relay, _, sink = relay_to(client)
    sink.data(b"hel")
    sink.lost(ConnectionLost("reset"))
    sink.data(b"late")
    assert client.body == b"HEL<error worker lost>"
    assert client.closed
    assert await relay.ended is RelayOutcome.LOST


async def test_an_incomplete_body_ends_as_lost() -> None:
    client = Client()
    relay, _, sink = relay_to(client)
    sink.data(b"hel")
    sink.eof()
    assert client.body == b"HEL<error cut short>"
    assert await relay.ended is RelayOutcome.LOST


async def test_a_connection_lost_after_the_complete_answer_ends_as_complete() -> None:
    client = Client()
    relay, _, sink = relay_to(client)
    sink.data(b"done!")
    sink.lost(ConnectionLost("reset"))
    assert client.body == b"DONE!<end>"
    assert await relay.ended is RelayOutcome.COMPLETE


async def test_an_answer_that_is_cut_off_ends_while_the_worker_goes_on() -> None:
    class CuttingOff(Shouting):
        def feed(self, data: bytes) -> bytes:
            out = super().feed(data)
            self.cut_off = self.done
            return out

    client = Client()
    response = ScriptedResponse()
    relay = Relay(response, CuttingOff(), client.send, client_stall=5, lost_text="")
    relay.start(b"")
    assert response.sink is not None
    response.sink.data(b"a")
    response.sink.data(b"b!")
    response.sink.data(b"late")
    assert client.body == b"AB!"
    assert client.closed
    assert await relay.ended is RelayOutcome.COMPLETE


async def test_an_answer_that_is_cut_off_before_the_relay_starts_is_not_read_further() -> None:
    client = Client()
    response = ScriptedResponse()
    translator = Shouting()
    translator.cut_off = True
    relay = Relay(response, translator, client.send, client_stall=5, lost_text="")
    relay.start(b"all")
    assert client.body == b"all"
    assert client.closed
    assert response.sink is None
    assert await relay.ended is RelayOutcome.COMPLETE


async def test_an_error_event_ends_the_answer() -> None:
    client = Client()
    relay, _, sink = relay_to(client)
    sink.data(b"a")
    sink.data(b"#")
    sink.eof()
    assert client.body == b"A<error engine died>"
    assert await relay.ended is RelayOutcome.FAILED


async def test_a_slow_client_pauses_reading_and_gets_every_byte() -> None:
    client = Client()
    relay, response, sink = relay_to(client)
    client.open.clear()
    sink.data(b"one ")
    assert response.paused
    sink.data(b"two ")
    sink.data(b"three!")
    sink.eof()
    assert client.body == b""
    client.open.set()
    assert await relay.ended is RelayOutcome.COMPLETE
    assert client.body == b"ONE TWO THREE!<end>"


async def test_reading_resumes_after_a_slow_client_caught_up() -> None:
    client = Client()
    relay, response, sink = relay_to(client)
    client.open.clear()
    sink.data(b"one ")
    client.open.set()
    await auntil(lambda: not response.paused)
    assert not relay.waits_for_client
    sink.data(b"two!")
    sink.eof()
    assert client.body == b"ONE TWO!<end>"
    assert await relay.ended is RelayOutcome.COMPLETE


async def test_a_drain_counts_as_the_workers_progress() -> None:
    client = Client()
    relay, response, sink = relay_to(client)
    client.open.clear()
    sink.data(b"one ")
    paused_at = relay.last_progress
    await auntil(lambda: asyncio.get_running_loop().time() > paused_at + 0.01)
    client.open.set()
    await auntil(lambda: not response.paused)
    assert relay.last_progress > paused_at + 0.01


async def test_an_empty_final_message_is_sent_to_a_slow_client() -> None:
    client = Client()
    response = ScriptedResponse()

    class Silent(Shouting):
        def finish(self) -> bytes:
            return b""

    relay = Relay(response, Silent(), client.send, client_stall=5, lost_text="")
    relay.start(b"")
    assert response.sink is not None
    client.open.clear()
    response.sink.data(b"x!")
    response.sink.eof()
    client.open.set()
    assert await relay.ended is RelayOutcome.COMPLETE
    assert client.closed


async def test_a_client_that_reads_nothing_ends_as_stalled() -> None:
    client = Client()
    relay, response, sink = relay_to(client, stall=0.05)
    client.open.clear()
    sink.data(b"one")
    assert await relay.ended is RelayOutcome.CLIENT_STALLED
    assert response.paused


async def test_nothing_is_sent_after_the_client_disconnected() -> None:
    client = Client()
    relay, _, sink = relay_to(client)
    sink.data(b"one")
    relay.client_gone()
    sink.data(b"two")
    sink.eof()
    assert client.body == b"ONE"
    assert await relay.ended is RelayOutcome.CLIENT_GONE


async def test_aborting_after_the_complete_answer_ends_as_complete() -> None:
    client = Client()
    relay, _, sink = relay_to(client)
    sink.data(b"done!")
    relay.abort("the worker fell silent")
    assert client.body == b"DONE!<end>"
    assert client.closed
    assert await relay.ended is RelayOutcome.COMPLETE


@pytest.mark.parametrize("error", [ConnectionResetError(), RuntimeError("the handler is closed")])
async def test_a_suspended_send_that_fails_ends_as_client_gone(error: Exception) -> None:
    async def breaking(message: MutableMapping[str, Any]) -> None:
        await asyncio.sleep(0)
        raise error

    response = ScriptedResponse()
    relay = Relay(response, Shouting(), breaking, client_stall=5, lost_text="")
    relay.start(b"x")
    assert await asyncio.wait_for(relay.ended, 5) is RelayOutcome.CLIENT_GONE


@pytest.mark.parametrize("error", [ConnectionResetError(), RuntimeError("the handler is closed")])
async def test_a_send_that_fails_at_once_ends_as_client_gone(error: Exception) -> None:
    async def broken(message: MutableMapping[str, Any]) -> None:
        raise error

    response = ScriptedResponse()
    relay = Relay(response, Shouting(), broken, client_stall=5, lost_text="")
    relay.start(b"")
    assert response.sink is not None
    response.sink.data(b"x")
    assert await relay.ended is RelayOutcome.CLIENT_GONE


@pytest.mark.parametrize("slow", [False, True])
async def test_a_fast_and_a_slow_client_get_the_same_bytes(slow: bool) -> None:
    client = Client()
    relay, _, sink = relay_to(client)
    for piece in (b"a", b"b", b"c!"):
        if slow:
            client.open.clear()
            asyncio.get_running_loop().call_soon(client.open.set)
        sink.data(piece)
        if slow:
            await auntil(client.open.is_set)
    sink.eof()
    assert await relay.ended is RelayOutcome.COMPLETE
    assert client.body == b"ABC!<end>"


async def test_a_failure_in_one_chunk_with_the_first_content_is_sent_after_it() -> None:
    client, response, translator = Client(), ScriptedResponse(), Shouting()
    translator.feed(b"#")
    relay = Relay(response, translator, client.send, client_stall=5, lost_text="")
    relay.start(b"first ")
    assert client.body == b"first <error engine died>"
    assert await relay.ended is RelayOutcome.FAILED
    assert response.sink is None, "the rest of the response is not read"


async def test_a_client_that_left_before_start_gets_nothing() -> None:
    client, response = Client(), ScriptedResponse()
    relay = Relay(response, Shouting(), client.send, client_stall=5, lost_text="")
    relay.client_gone()
    relay.start(b"first")
    assert client.body == b""
    assert await relay.ended is RelayOutcome.CLIENT_GONE
    assert response.sink is None


async def test_stop_cancels_a_send_that_waits_for_the_client() -> None:
    client = Client()
    relay, _, sink = relay_to(client)
    client.open.clear()
    sink.data(b"one")
    assert relay.waits_for_client
    relay.stop()
    relay.stop()
    client.open.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert client.body == b""
    assert not relay.ended.done()
