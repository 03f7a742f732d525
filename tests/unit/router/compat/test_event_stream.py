"""Server-sent events of responses."""

from __future__ import annotations

import pytest

from vllama_pool.router.compat.event_stream import Event, chunks, events, typed_events
from vllama_pool.router.compat.expect import Differs
from vllama_pool.router.compat.wire import RawResponse


def response(body: str, kind: str = "text/event-stream; charset=utf-8", status: int = 200) -> RawResponse:
    return RawResponse(status, (("content-type", kind),), body.encode(), None)


def test_events_have_a_name_or_none() -> None:
    found = events(response('data: {"a":1}\n\nevent: ping\ndata:x\n\n: a comment\n\ndata: [DONE]\n\n'))
    assert found == [Event("", '{"a":1}'), Event("ping", "x"), Event("", "[DONE]")]


@pytest.mark.parametrize(
    "wrong",
    [
        response("data: x\n\n", kind="application/x-ndjson"),
        response("data: x\n\n", status=500),
        response("data: x\n"),
        response('{"a":1}\n\n'),
        response("data: x\ndata: y\n\n"),
        response("id: 1\ndata: x\n\n"),
    ],
    ids=["another type", "an error", "cut off", "lines of JSON", "two texts", "another field"],
)
def test_other_streams_differ(wrong: RawResponse) -> None:
    with pytest.raises(Differs):
        events(wrong)


def test_chunks_are_the_objects_before_done() -> None:
    assert chunks(response('data: {"a":1}\n\ndata: {"a":2}\n\ndata: [DONE]\n\n')) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    "body",
    [
        'data: {"a":1}\n\n',
        'data: {"error":{"message":"no"}}\n\ndata: [DONE]\n\n',
        "data: 1\n\ndata: [DONE]\n\n",
        "data: x\n\ndata: [DONE]\n\n",
    ],
    ids=["no end", "an error", "no object", "no JSON"],
)
def test_other_chunks_differ(body: str) -> None:
    with pytest.raises(Differs):
        chunks(response(body))


def test_typed_events_are_named_by_their_type() -> None:
    assert typed_events(response('event: a\ndata: {"type":"a","error":null}\n\n')) == [{"type": "a", "error": None}]


@pytest.mark.parametrize(
    "body",
    [
        'event: a\ndata: {"type":"b"}\n\n',
        'data: {"type":"a"}\n\n',
        'event: error\ndata: {"type":"error"}\n\n',
        ": x\n\n",
    ],
    ids=["another name", "no name", "an error", "no events"],
)
def test_other_typed_events_differ(body: str) -> None:
    with pytest.raises(Differs):
        typed_events(response(body))
