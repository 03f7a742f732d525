"""The judgement of answers: whatever is not whole, right or a proper error is lost."""

from __future__ import annotations

import json

import pytest

from tests.chaos.requests import Request, Result, Route, judge

REQUEST = Request("how are you", 12)
PIECES = ["Simulated answer to: how", " are you. I count:"]
TEXT = REQUEST.expected()


def response(body: bytes, *, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + end


def line(text: str, **members: object) -> bytes:
    return json.dumps({"message": {"content": text}, **members}).encode() + b"\n"


LAST = line("", done=True, eval_count=12)


def test_the_expected_text_is_what_the_simulated_worker_answers() -> None:
    assert TEXT.startswith("Simulated answer to: how are you. I count:")


def test_a_whole_stream_is_complete() -> None:
    assert judge(REQUEST, chunked(line(TEXT[:5]), line(TEXT[5:]), LAST)).result is Result.COMPLETE


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "without a response"),
        (chunked(line(TEXT), LAST, end=b""), "no last chunk"),
        (chunked(line(TEXT[:5]), line(TEXT[4:]), LAST), "at character 5"),
        (chunked(line(TEXT[:5]), line(TEXT[6:]), LAST), "at character 5"),
        (chunked(line(TEXT), line("", done=True, eval_count=11)), "counts 11 tokens"),
        (chunked(line(TEXT)), "without done"),
        (chunked(line(TEXT)[:-3]), "half a line"),
        (response(b"oops", status="503 Service Unavailable"), "JSONDecodeError"),
        (chunked(line("other"), b'{"error": "gone"}\n'), "wrong text before the error"),
    ],
)
def test_everything_else_is_lost(raw: bytes, why: str) -> None:
    verdict = judge(REQUEST, raw)
    assert verdict.result is Result.LOST
    assert why in verdict.why


def test_an_error_is_told_by_its_status_or_by_its_place() -> None:
    before = judge(REQUEST, response(b'{"error": "full"}', status="503 Service Unavailable"))
    within = judge(REQUEST, chunked(line(TEXT[:5]), b'{"error": "gone"}\n'))
    assert (before.result, before.kind, before.why) == (Result.ERROR, "503", "full")
    assert (within.result, within.kind, within.why) == (Result.ERROR, "line", "gone")


def test_an_event_stream_needs_its_end_and_its_count() -> None:
    request = Request("how are you", 12, Route.V1_STREAM)
    delta = json.dumps({"choices": [{"delta": {"content": TEXT}, "finish_reason": "length"}]})
    usage = json.dumps({"choices": [], "usage": {"completion_tokens": 12}})
    events = [f"data: {text}\n\n".encode() for text in (delta, usage, "[DONE]")]
    assert judge(request, chunked(*events)).result is Result.COMPLETE
    assert judge(request, chunked(*events[:2])).result is Result.LOST
