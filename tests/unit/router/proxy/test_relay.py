"""The relay: held output, bytes that reach the client, back-pressure, and endings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable

import pytest

from tests.support.protocol import CLOCK, DONE, TIMING, delta, event, usage
from tests.support.until import auntil
from tests.support.upstream import FakeExchange, FakeResponse, RecordingWriter
from vllama_pool.router.errors import AttemptFailed, Busy, Faulty, Lost, Refused, Unavailable
from vllama_pool.router.protocol.ollama import chat
from vllama_pool.router.protocol.ollama.requests import decode_chat
from vllama_pool.router.protocol.ollama.stream import TextTranslator
from vllama_pool.router.protocol.operation import StreamFailure, StreamTranslator, Usage
from vllama_pool.router.proxy.relay import WORKER_LOST, Ending, Relay
from vllama_pool.router.proxy.worker_errors import MAX_ERROR_BODY
from vllama_pool.router.upstream.interface import ConnectionLost, ResponseTimeout, Sink

HEADERS = ((b"content-type", b"text/x"),)


class Shouting:
    """A translator to upper case; "!" completes the answer, "#" is an error event. It is ready with its first "A"."""

    usage = Usage()
    cut_off = False

    def __init__(self, *, ready: bool = True) -> None:
        self.ready = self.begun = ready
        self.done = False
        self.failure: StreamFailure | None = None

    def feed(self, data: bytes) -> bytes:
        self.ready = self.begun = self.ready or b"a" in data
        if b"#" in data:
            self.failure = StreamFailure(500, "engine died")
            data = data.partition(b"#")[0]
        self.done = self.done or b"!" in data
        return data.upper()

    def finish(self) -> bytes:
        return b"<end>" if self.done else self.fail("cut short")

    def fail(self, text: str) -> bytes:
        return b"<error " + text.encode() + b">"


class Scene:
    """A relay between an exchange that the test pushes and a client."""

    def __init__(
        self,
        translator: StreamTranslator | None = None,
        *,
        stream: bool = True,
        response: FakeResponse | None = None,
    ) -> None:
        self.translator = translator or Shouting()
        self.client = RecordingWriter()
        self.begun = 0
        self.relay = Relay(self.translator, self.client, HEADERS, self._begin, stream=stream)
        self.exchange = self.relay.exchange = FakeExchange(self.relay, response)
        self.sink: Sink = self.relay

    @property
    def ended(self) -> Awaitable[Ending]:
        return asyncio.wait_for(asyncio.shield(self.relay.ended), 30)

    async def failure(self) -> AttemptFailed:
        with pytest.raises(AttemptFailed) as caught:
            await self.ended
        assert (self.client.status, self.client.writes, self.begun) == (0, [], 0)
        return caught.value

    def _begin(self) -> None:
        assert not self.client.status, "the response began before it was announced"
        self.begun += 1


def relaying() -> Scene:
    """A relay whose client has the first bytes."""
    scene = Scene()
    scene.sink.head(200, {})
    scene.sink.data(b"a ")
    assert scene.client.body == b"A "
    return scene


# before the client's response begins


async def test_output_is_held_until_the_first_content() -> None:
    scene = Scene(Shouting(ready=False))
    scene.sink.head(200, {})
    scene.sink.data(b"x")
    scene.sink.data(b"y")
    assert (scene.client.status, scene.client.writes, scene.begun) == (0, [], 0)
    scene.sink.data(b"a")
    assert (scene.client.status, scene.client.headers) == (200, {b"content-type": b"text/x"})
    assert (scene.client.writes, scene.begun) == ([b"XYA"], 1)
    assert scene.relay.size == 3
    assert not scene.relay.ended.done()


async def test_an_answer_within_one_chunk_is_complete_at_once_in_one_last_write() -> None:
    scene = Scene()
    scene.sink.head(200, {})
    scene.sink.data(b"all!")
    assert (scene.client.writes, scene.client.ended) == ([b"ALL!<end>"], True)
    assert await scene.ended is Ending.COMPLETE
    assert scene.begun == 1


async def test_an_answer_that_is_ready_only_at_the_end_of_its_body_is_streamed_all_the_same() -> None:
    class Late(Shouting):
        def finish(self) -> bytes:
            if self.done:
                return b""
            self.done = True
            return b"<end>"

    scene = Scene(Late(ready=False))
    scene.sink.head(200, {})
    scene.sink.data(b"x")
    assert scene.client.status == 0
    scene.sink.eof()
    assert (scene.client.body, scene.client.ended) == (b"X<end>", True)
    assert await scene.ended is Ending.COMPLETE


@pytest.mark.parametrize("chunks", [[], [b"x"]])
async def test_a_stream_that_ends_before_its_first_content_is_lost(chunks: list[bytes]) -> None:
    scene = Scene(Shouting(ready=False))
    scene.sink.head(200, {})
    for chunk in chunks:
        scene.sink.data(chunk)
    scene.sink.eof()
    failure = await scene.failure()
    assert isinstance(failure, Lost)
    assert failure.status == 502


@pytest.mark.parametrize("head", [False, True])
async def test_a_connection_lost_before_the_first_content_fails_the_attempt(head: bool) -> None:
    scene = Scene(Shouting(ready=False))
    if head:
        scene.sink.head(200, {})
        scene.sink.data(b"x")
    scene.sink.lost(ConnectionLost("reset"))
    failure = await scene.failure()
    assert (type(failure), failure.status, failure.text) == (Lost, 502, "the worker was lost: reset")


async def test_a_stall_before_the_first_content_fails_the_attempt_with_504() -> None:
    scene = Scene(Shouting(ready=False))
    scene.exchange.fail(ResponseTimeout("the worker stopped responding"))
    failure = await scene.failure()
    assert (type(failure), failure.status, failure.text) == (Lost, 504, "the worker stopped responding")


async def test_an_error_response_is_read_to_its_end_and_classified() -> None:
    scene = Scene()
    scene.sink.head(429, {"retry-after": "7"})
    scene.sink.data(b'{"error":{"message":')
    scene.sink.data(b'"slow down","code":429}}')
    assert not scene.relay.ended.done()
    scene.sink.eof()
    failure = await scene.failure()
    assert (type(failure), failure.text, failure.retry_after) == (Busy, "slow down", 7)


async def test_an_endless_error_response_is_classified_at_its_limit() -> None:
    scene = Scene()
    scene.sink.head(500, {})
    scene.sink.data(b"x" * (MAX_ERROR_BODY - 1))
    assert not scene.relay.ended.done()
    scene.sink.data(b"x")
    assert isinstance(await scene.failure(), Faulty)
    scene.sink.data(b"x")
    scene.sink.eof()


async def test_a_connection_lost_in_an_error_body_is_lost() -> None:
    scene = Scene()
    scene.sink.head(500, {})
    scene.sink.data(b"oo")
    scene.sink.lost(ConnectionLost("reset"))
    assert isinstance(await scene.failure(), Lost)


async def test_nothing_more_of_a_failed_attempt_counts() -> None:
    scene = Scene(Shouting(ready=False))
    scene.sink.head(200, {})
    scene.sink.data(b"#")
    assert isinstance(await scene.failure(), Faulty)
    scene.sink.data(b"a!")
    scene.sink.eof()
    scene.sink.lost(ConnectionLost("reset"))
    scene.relay.client_gone()
    assert isinstance(await scene.failure(), Faulty)


# answers that are not streamed


async def test_a_whole_answer_is_not_written_by_the_relay() -> None:
    scene = Scene(stream=False)
    scene.sink.head(200, {})
    scene.sink.data(b"hi!")
    assert await scene.ended is Ending.WHOLE
    assert (scene.client.status, scene.begun) == (0, 0)


async def test_a_whole_answer_that_is_ready_only_at_the_end_of_its_body_is_whole_then() -> None:
    scene = Scene(Shouting(ready=False), stream=False)
    scene.sink.head(200, {})
    scene.sink.data(b"x")
    assert not scene.relay.ended.done()
    scene.sink.eof()
    assert await scene.ended is Ending.WHOLE
    assert (scene.client.status, scene.begun, scene.relay.size) == (0, 0, 1)


async def test_an_error_event_in_a_whole_answer_fails_the_attempt() -> None:
    scene = Scene(Shouting(ready=False), stream=False)
    scene.sink.head(200, {})
    scene.sink.data(b"x")
    scene.sink.data(b"#")
    failure = await scene.failure()
    assert (type(failure), failure.text) == (Faulty, "engine died")


# after the client's response has begun


async def test_bytes_are_written_within_the_read_callback() -> None:
    scene = relaying()
    scene.sink.data(b"hello ")
    assert scene.client.body == b"A HELLO "
    scene.sink.data(b"you!")
    assert scene.client.body == b"A HELLO YOU!<end>"
    assert scene.client.ended
    assert await scene.ended is Ending.COMPLETE
    assert scene.begun == 1


async def test_the_response_ends_with_the_answer_and_not_with_the_workers_body() -> None:
    scene = relaying()
    scene.sink.data(b"b!")
    assert scene.client.ended
    assert await scene.ended is Ending.COMPLETE
    written = list(scene.client.writes)
    scene.sink.data(b"late")
    scene.sink.eof()
    assert scene.client.writes == written


@pytest.mark.parametrize("last", [b"b", b"b!", b"b#"])
async def test_only_the_last_write_is_marked_as_last(last: bytes) -> None:
    scene = relaying()
    scene.sink.data(b"more ")
    assert not scene.client.ended
    scene.sink.data(last)
    scene.sink.eof()
    assert scene.client.ended


async def test_chunks_without_output_are_not_written() -> None:
    class Quiet(Shouting):
        def feed(self, data: bytes) -> bytes:
            return super().feed(data).replace(b"_", b"")

    scene = Scene(Quiet())
    scene.sink.head(200, {})
    scene.sink.data(b"a")
    scene.sink.data(b"_")
    assert scene.client.writes == [b"A"]


async def test_a_lost_worker_becomes_one_error_line() -> None:
    scene = relaying()
    scene.sink.lost(ConnectionLost("reset"))
    scene.sink.data(b"late")
    assert scene.client.body == b"A <error " + WORKER_LOST.encode() + b">"
    assert scene.client.ended
    assert await scene.ended is Ending.LOST


async def test_a_stalled_worker_becomes_an_error_line_that_says_so() -> None:
    scene = relaying()
    scene.exchange.fail(ResponseTimeout("the worker fell silent"))
    assert scene.client.body == b"A <error the worker fell silent>"
    assert await scene.ended is Ending.LOST


async def test_an_incomplete_body_ends_as_lost() -> None:
    scene = relaying()
    scene.sink.eof()
    assert scene.client.body == b"A <error cut short>"
    assert await scene.ended is Ending.LOST


async def test_an_answer_completed_by_the_end_of_the_body_ends_as_complete() -> None:
    class Late(Shouting):
        def finish(self) -> bytes:
            self.done = True
            return b"<end>"

    scene = Scene(Late())
    scene.sink.head(200, {})
    scene.sink.data(b"a")
    scene.sink.eof()
    assert scene.client.body == b"A<end>"
    assert await scene.ended is Ending.COMPLETE


async def test_a_connection_lost_or_aborted_after_the_complete_answer_ends_as_complete() -> None:
    for error in (ConnectionLost("reset"), ResponseTimeout("the worker fell silent")):
        scene = relaying()
        scene.sink.data(b"done!")
        scene.exchange.fail(error)
        assert scene.client.body == b"A DONE!<end>"
        assert await scene.ended is Ending.COMPLETE


async def test_an_error_event_ends_the_answer() -> None:
    scene = relaying()
    scene.sink.data(b"b#")
    scene.sink.eof()
    assert scene.client.body == b"A B<error engine died>"
    assert await scene.ended is Ending.FAILED


async def test_an_error_event_in_one_chunk_with_the_first_content_is_sent_after_it() -> None:
    scene = Scene(Shouting(ready=False))
    scene.sink.head(200, {})
    scene.sink.data(b"first a#")
    assert scene.client.writes == [b"FIRST A<error engine died>"]
    assert await scene.ended is Ending.FAILED
    assert scene.begun == 1


# the client


async def test_a_slow_client_pauses_reading_and_gets_every_byte() -> None:
    scene = relaying()
    scene.client.lag()
    scene.sink.data(b"one ")
    assert scene.exchange.paused
    assert scene.relay.waits_for_client
    scene.sink.data(b"two ")
    scene.sink.data(b"three!")
    assert not scene.relay.ended.done()
    scene.client.catch_up()
    assert await scene.ended is Ending.COMPLETE
    assert scene.client.body == b"A ONE TWO THREE!<end>"


async def test_a_client_that_is_slow_from_the_first_write_on_pauses_reading() -> None:
    scene = Scene()
    scene.client.lag()
    scene.sink.head(200, {})
    scene.sink.data(b"one")
    assert scene.exchange.paused


async def test_reading_resumes_after_a_slow_client_caught_up() -> None:
    scene = relaying()
    scene.client.lag()
    scene.sink.data(b"one ")
    scene.client.catch_up()
    await auntil(lambda: not scene.exchange.paused)
    assert not scene.relay.waits_for_client
    scene.sink.data(b"two!")
    assert scene.client.body == b"A ONE TWO!<end>"
    assert await scene.ended is Ending.COMPLETE


async def test_a_slow_client_stops_a_scripted_worker_and_lets_it_go_on() -> None:
    scene = Scene(response=FakeResponse([b"a", b"b", b"c!"]))
    scene.client.lag()
    await auntil(lambda: scene.exchange.paused)
    for _ in range(5):
        await asyncio.sleep(0)
    assert scene.exchange.played == 1
    scene.client.catch_up()
    assert await scene.ended is Ending.COMPLETE
    assert scene.client.body == b"ABC!<end>"


async def test_a_drain_counts_as_the_workers_progress() -> None:
    scene = relaying()
    scene.exchange.last_heard = 0
    scene.client.lag()
    scene.sink.data(b"one ")
    before = asyncio.get_running_loop().time()
    scene.client.catch_up()
    await auntil(lambda: not scene.exchange.paused)
    assert scene.exchange.last_heard >= before


async def test_a_client_that_is_dropped_ends_as_stalled() -> None:
    scene = relaying()
    scene.client.lag()
    scene.sink.data(b"one")
    scene.client.drop()
    assert await scene.ended is Ending.CLIENT_STALLED
    assert scene.exchange.paused
    scene.sink.data(b"two")
    assert scene.client.body == b"A ONE"


async def test_a_client_that_is_dropped_at_the_end_of_its_answer_ends_as_stalled() -> None:
    scene = relaying()
    scene.client.lag()
    scene.sink.data(b"one!")
    scene.client.drop()
    assert await scene.ended is Ending.CLIENT_STALLED


async def test_nothing_is_written_after_the_client_disconnected() -> None:
    scene = relaying()
    scene.relay.client_gone()
    scene.sink.data(b"two")
    scene.sink.eof()
    assert scene.client.body == b"A "
    assert await scene.ended is Ending.CLIENT_GONE


async def test_a_client_that_leaves_while_it_lags_is_gone_at_once() -> None:
    scene = relaying()
    scene.client.lag()
    scene.sink.data(b"one!")
    scene.relay.client_gone()
    assert await scene.ended is Ending.CLIENT_GONE
    scene.relay.stop()


async def test_a_client_that_left_before_the_first_content_gets_nothing() -> None:
    scene = Scene()
    scene.relay.client_gone()
    scene.sink.head(200, {})
    scene.sink.data(b"a!")
    scene.sink.eof()
    assert scene.client.status == 0
    assert await scene.ended is Ending.CLIENT_GONE


async def test_stop_ends_the_wait_for_the_client() -> None:
    scene = relaying()
    scene.relay.stop()
    scene.client.lag()
    scene.sink.data(b"one")
    assert scene.relay.waits_for_client
    scene.relay.stop()
    scene.relay.stop()
    scene.client.catch_up()
    for _ in range(3):
        await asyncio.sleep(0)
    assert scene.exchange.paused
    assert not scene.relay.ended.done()


# with Ollama's translator

ROLE = delta(role="assistant", content="")
HI = delta(content="hi")


def chatting(*, stream: bool = True) -> TextTranslator:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": stream})
    return chat.translator(decode_chat(body.encode()), TIMING, CLOCK)


async def test_a_chat_begins_with_its_first_content() -> None:
    scene = Scene(chatting())
    scene.sink.head(200, {})
    scene.sink.data(ROLE)
    assert scene.client.status == 0
    scene.sink.data(HI)
    assert json.loads(scene.client.body)["message"]["content"] == "hi"


async def test_a_chat_that_is_not_streamed_is_whole_with_its_usage() -> None:
    scene = Scene(chatting(stream=False), stream=False)
    scene.sink.head(200, {})
    for chunk in (ROLE, HI, delta(content=" you"), delta(finish="stop")):
        scene.sink.data(chunk)
    assert not scene.relay.ended.done()
    scene.sink.data(usage() + DONE)
    assert await scene.ended is Ending.WHOLE
    assert json.loads(scene.translator.finish())["message"]["content"] == "hi you"


@pytest.mark.parametrize(("status", "kind"), [(400, Refused), (429, Busy), (500, Faulty), (503, Unavailable)])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_event_before_the_first_content_fails_the_attempt_at_once(
    status: int, kind: type[Exception], stream: bool
) -> None:
    scene = Scene(chatting(stream=stream), stream=stream)
    scene.sink.head(200, {})
    scene.sink.data(ROLE)
    scene.sink.data(event(error={"message": "no", "code": status}))
    failure = await scene.failure()
    assert (type(failure), failure.text) == (kind, "no")


async def test_an_error_event_after_content_that_is_not_streamed_fails_the_attempt_at_once() -> None:
    scene = Scene(chatting(stream=False), stream=False)
    scene.sink.head(200, {})
    scene.sink.data(HI)
    scene.sink.data(event(error={"message": "died", "code": 500}))
    assert isinstance(await scene.failure(), Faulty)


async def test_a_chat_whose_last_event_lacks_its_blank_line_is_complete() -> None:
    scene = Scene(chatting())
    scene.sink.head(200, {})
    scene.sink.data((delta(finish="stop") + usage()).rstrip())
    scene.sink.eof()
    assert await scene.ended is Ending.COMPLETE
    lines = scene.client.body.splitlines()
    assert json.loads(lines[-1])["done"] is True
