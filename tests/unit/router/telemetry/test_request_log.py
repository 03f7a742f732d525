"""The request log: lines, batches, and lost lines."""

from __future__ import annotations

import asyncio
import datetime
import io
import json
import threading
from typing import Any

import pytest

from tests.support.until import auntil
from vllama_pool.router.telemetry.request_log import RequestLog
from vllama_pool.router.telemetry.request_record import RequestRecord


class SlowStream(io.BytesIO):
    """A stream whose writes wait until the test lets them go on."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = threading.Event()
        self.may_write = threading.Event()
        self.threads: list[int] = []

    def write(self, data: Any) -> int:
        self.threads.append(threading.get_ident())
        self.writing.set()
        assert self.may_write.wait(10)
        return super().write(data)


class BrokenPipe(io.BytesIO):
    def write(self, data: Any) -> int:
        raise BrokenPipeError


def record(request_id: str = "1", **fields: Any) -> RequestRecord:
    return RequestRecord(id=request_id, operation="chat", **fields)


async def written(log: RequestLog) -> None:
    """Write everything that is buffered."""
    log.stop()
    await log.run()


async def test_a_line_is_one_json_object_with_its_time_first_and_without_defaults() -> None:
    stream = io.BytesIO()
    log = RequestLog(stream)
    log.finished(record(status=200, outcome="complete"))
    await written(log)
    assert stream.getvalue().endswith(b"\n")
    line = json.loads(stream.getvalue())
    assert list(line) == ["time", "level", "event", "id", "operation", "status", "outcome"]
    assert line["event"] == "request"
    time = datetime.datetime.fromisoformat(line["time"])
    assert line["time"].endswith("Z")
    assert abs((datetime.datetime.now(datetime.UTC) - time).total_seconds()) < 60


async def test_line_breaks_in_a_clients_text_stay_escaped() -> None:
    stream = io.BytesIO()
    log = RequestLog(stream)
    log.finished(record(outcome="a\nb"))
    await written(log)
    assert stream.getvalue().count(b"\n") == 1


async def test_control_characters_in_a_clients_text_are_escaped() -> None:
    requested = "a\x1b\x7f\x85\x9b\u2028\u202e\u2066\ufeffä\U0001f600"
    stream = io.BytesIO()
    log = RequestLog(stream)
    log.finished(record("before"))
    log.finished(record(requested=requested))
    log.finished(record("after"))
    await written(log)
    before, text, after = stream.getvalue().decode().splitlines()
    assert [json.loads(line)["id"] for line in (before, after)] == ["before", "after"]
    assert text.rstrip("\n").isprintable()
    assert json.loads(text)["requested"] == requested
    assert "ä\U0001f600" in text


async def test_the_time_has_milliseconds_and_follows_the_clock_also_backwards() -> None:
    times = [1.0, 1.25, 1.9999, 2.0, 61.5, 0.5]
    clock = iter(times)
    stream = io.BytesIO()
    log = RequestLog(stream, now=lambda: next(clock))
    for _ in times:
        log.finished(record())
    await written(log)
    texts = [json.loads(line)["time"].removeprefix("1970-01-01T00:0") for line in stream.getvalue().splitlines()]
    assert texts == ["0:01.000Z", "0:01.250Z", "0:01.999Z", "0:02.000Z", "1:01.500Z", "0:00.500Z"]


async def test_lines_are_written_while_the_log_runs_in_the_order_of_requests() -> None:
    stream = io.BytesIO()
    log = RequestLog(stream)
    running = asyncio.create_task(log.run())
    for number in range(3):
        log.finished(record(str(number)))
    await auntil(lambda: stream.getvalue().count(b"\n") == 3)
    assert [json.loads(line)["id"] for line in stream.getvalue().splitlines()] == ["0", "1", "2"]
    log.stop()
    await running


async def test_a_slow_stream_is_written_in_a_thread_and_meanwhile_requests_are_buffered() -> None:
    stream = SlowStream()
    log = RequestLog(stream)
    running = asyncio.create_task(log.run())
    log.finished(record("first"))
    await auntil(stream.writing.is_set)
    log.finished(record("second"))
    log.stop()
    stream.may_write.set()
    await running
    assert [json.loads(line)["id"] for line in stream.getvalue().splitlines()] == ["first", "second"]
    assert threading.get_ident() not in stream.threads


async def test_lines_beyond_the_buffer_are_dropped_and_counted() -> None:
    stream = io.BytesIO()
    log = RequestLog(stream, max_lines=2)
    for number in range(5):
        log.finished(record(str(number)))
    assert log.dropped == 3
    await written(log)
    assert [json.loads(line)["id"] for line in stream.getvalue().splitlines()] == ["0", "1"]


async def test_the_buffer_has_room_again_once_it_was_written() -> None:
    log = RequestLog(io.BytesIO(), max_lines=1)
    log.finished(record())
    await written(log)
    log.finished(record())
    assert log.dropped == 0


@pytest.mark.parametrize("closed", [False, True])
async def test_lines_that_cannot_be_written_are_counted_and_the_log_goes_on(closed: bool) -> None:
    stream = io.BytesIO() if closed else BrokenPipe()
    if closed:
        stream.close()
    log = RequestLog(stream)
    log.finished(record())
    log.finished(record())
    await written(log)
    assert log.dropped == 2
    log.finished(record())
    await written(log)
    assert log.dropped == 3


@pytest.mark.parametrize("debug", [False, True])
async def test_requests_that_only_read_are_logged_at_debug_level(debug: bool) -> None:
    stream = io.BytesIO()
    log = RequestLog(stream, debug=debug)
    log.finished(RequestRecord(id="read", method="GET", path="/api/tags", status=200, outcome="complete"))
    log.finished(RequestRecord(id="refused", method="GET", path="/api/tags", status=401, outcome="refused"))
    await written(log)
    levels = {line["id"]: line["level"] for line in map(json.loads, stream.getvalue().splitlines())}
    assert levels == ({"read": "debug"} if debug else {}) | {"refused": "info"}
