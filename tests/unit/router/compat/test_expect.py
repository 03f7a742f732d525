"""Assertions on responses, and their messages."""

import re

import pytest

from vllama_pool.router.compat import expect
from vllama_pool.router.compat.expect import Differs
from vllama_pool.router.compat.wire import RawResponse


def response(status: int = 200, body: bytes = b"", content_type: str = "application/x-ndjson") -> RawResponse:
    return RawResponse(status, (("content-type", content_type),), body, None)


def test_same_compares_types_too() -> None:
    expect.same("done", True, True)
    for other in (1, "true", None, False):
        with pytest.raises(Differs, match="expected done true; got"):
            expect.same("done", True, other)


def test_brief_shortens_received_values() -> None:
    assert expect.brief("x" * 500) == "x" * 119 + "…"
    assert expect.brief({"a": [1, "é"]}) == '{"a": [1, "é"]}'
    assert expect.brief(b"\xff\n") == "\\xff\\n"


def test_error_requires_the_exact_text_and_no_other_key() -> None:
    expect.error(response(404, b'{"error": "not here"}'), 404, "not here")
    expect.error(response(404, b'{"error": "not here"}'), 404, re.compile("^not"))
    for status, body in (
        (400, b'{"error": "not here"}'),
        (404, b'{"error": "Not here"}'),
        (404, b'{"error": {"message": "not here"}}'),
        (404, b'{"error": "not here", "code": 1}'),
        (404, b"[]"),
        (404, b"404 page not found"),
        (404, b""),
    ):
        with pytest.raises(Differs):
            expect.error(response(status, body), 404, "not here")
    with pytest.raises(Differs, match="expected 404 not here; got 400 nowhere"):
        expect.error(response(400, b'{"error": "nowhere"}'), 404, "not here")


def test_lines_requires_one_object_per_line() -> None:
    assert expect.lines(response(body=b'{"a": 1}\n{"b": 2}\n')) == [{"a": 1}, {"b": 2}]
    for body in (b'{"a": 1}', b'{"a": 1}\n\n', b'\n{"a": 1}\n', b'data: {"a": 1}\n', b"[]\n", b": ping\n", b""):
        with pytest.raises(Differs):
            expect.lines(response(body=body))
    for content_type in ("application/x-ndjson; charset=utf-8", "application/json", "text/event-stream"):
        with pytest.raises(Differs, match="Content-Type"):
            expect.lines(response(body=b"{}\n", content_type=content_type))


def test_field_requires_presence_and_type() -> None:
    assert expect.field({"n": 1}, "n", int) == 1
    assert expect.field({"n": 1}, "n", float) == 1
    for data in ({}, {"n": True}, {"n": 1.5}, {"n": "1"}, {"n": None}):
        with pytest.raises(Differs, match="expected n"):
            expect.field(data, "n", int)


@pytest.mark.parametrize(
    "text",
    [
        "2026-08-21T10:11:12Z",
        "2026-08-21T10:11:12.5Z",
        "2026-08-21T10:11:12.123456789+02:00",
        "2318-01-01T00:00:00-07:00",
    ],
)
def test_times_in_gos_format_pass(text: str) -> None:
    expect.timestamp(text)


@pytest.mark.parametrize(
    "text",
    ["2026-08-21T10:11:12", "2026-08-21 10:11:12Z", "2026-08-21T10:11:12.50Z", "2026-08-21T10:11:12.0Z", "", "now"],
)
def test_times_in_other_formats_differ(text: str) -> None:
    with pytest.raises(Differs):
        expect.timestamp(text)


def test_times_of_answers_must_be_utc() -> None:
    with pytest.raises(Differs, match="in UTC"):
        expect.timestamp("2026-08-21T10:11:12+02:00", utc=True)


def test_a_list_of_objects_may_be_absent() -> None:
    assert expect.objects({}, "a") == expect.objects({"a": None}, "a") == expect.objects({"a": []}, "a") == []
    assert expect.objects({"a": [{"b": 1}]}, "a") == [{"b": 1}]
    for wrong in (5, "x", [1], {"b": 1}):
        with pytest.raises(Differs, match="a list of objects"):
            expect.objects({"a": wrong}, "a")


def test_a_field_needs_an_object() -> None:
    with pytest.raises(Differs, match="an object with a"):
        expect.field([1], "a", int)  # type: ignore[arg-type]
