"""The headers that tell a request's route."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.keys import rights
from tests.support.tables import routing_table
from vllama_pool.config.routing.table import Place
from vllama_pool.router.handlers.trace import Trace, TracedWriter, begin_trace, header_value
from vllama_pool.router.routing.rules import Rule
from vllama_pool.router.server.writer import WRITER, SendWriter
from vllama_pool.router.telemetry.request_record import Fallback, RequestRecord


async def _send(message: Any) -> None: ...


def scope(**headers: str) -> dict[str, Any]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"headers": pairs, WRITER: SendWriter(_send)}


def record(**fields: Any) -> RequestRecord:
    return RequestRecord(id="id", **fields)


@pytest.mark.parametrize(
    ("value", "setting", "traced"),
    [(None, False, False), (None, True, True), ("1", False, True), (" 1 ", False, True), ("0", True, False)],
)
def test_only_requests_that_ask_for_a_trace_have_one_unless_a_setting_says_so(
    value: str | None, setting: bool, traced: bool
) -> None:
    asked = scope() if value is None else scope(x_vllama_trace=value)
    assert (begin_trace(asked, record(), always=setting) is not None) is traced


def headers_of(trace: Trace, writer: SendWriter) -> dict[bytes, bytes]:
    TracedWriter(writer, trace).start(200, ())
    trace.add_headers()
    names = [name for name, _ in writer.extra_headers]
    assert len(set(names)) == len(names), "added twice"
    return dict(writer.extra_headers)


def test_a_response_names_worker_attempts_time_in_queues_rule_and_fallbacks() -> None:
    writer = SendWriter(_send)
    writer.extra_headers = ((b"x-request-id", b"a"),)
    moves = (Fallback("overloaded", "b"), Fallback("error", "c"))
    trace = Trace(record(worker="w1", attempts=2, queue_ms=1.25, fallbacks=moves), writer, exposed=False)
    entry = routing_table(models={"llama3*": {}}).models["llama3*"]
    trace.rule = Rule("llama3*", entry, Place("/etc/vllama/routing.yaml", 12, 3))
    assert headers_of(trace, writer) == {
        b"x-request-id": b"a",
        b"X-Vllama-Worker": b"w1",
        b"X-Vllama-Attempts": b"2",
        b"X-Vllama-Queue-Ms": b"1.2",
        b"X-Vllama-Rule": b"llama3* routing.yaml:12",
        b"X-Vllama-Fallback": b"overloaded: b, error: c",
    }


def test_a_fallback_that_the_key_may_not_use_is_not_named() -> None:
    writer = SendWriter(_send)
    moves = (Fallback("overloaded", "theirs"), Fallback("error", "ours"))
    trace = Trace(record(fallbacks=moves), writer, exposed=False)
    trace.rights = rights("ours")
    assert headers_of(trace, writer)[b"X-Vllama-Fallback"] == b"overloaded: (another model), error: ours"


def test_a_refusal_before_any_attempt_has_an_id_and_neither_worker_nor_rule() -> None:
    writer = SendWriter(_send)
    headers = headers_of(Trace(record(), writer, exposed=False), writer)
    assert headers == {b"x-request-id": b"id", b"X-Vllama-Attempts": b"0", b"X-Vllama-Queue-Ms": b"0.0"}


def test_scripts_of_other_origins_may_read_the_headers() -> None:
    asked = scope(x_vllama_trace="1", origin="http://localhost")
    trace = begin_trace(asked, record(), always=False)
    assert trace is not None
    exposed = headers_of(trace, asked[WRITER])[b"access-control-expose-headers"]
    assert b"X-Vllama-Worker" in exposed.split(b", ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("qwen2.5:7b", b"qwen2.5:7b"),
        ("a\r\nSet-Cookie: x", b"a%0D%0ASet-Cookie: x"),
        ("größe", b"gr%C3%B6%C3%9Fe"),
        ("100%", b"100%25"),
        (" padded ", b"%20padded%20"),
        (" ", b"%20"),
        ("\x00\x7f\u2028", b"%00%7F%E2%80%A8"),
        ("\ud800", b"?"),
        ("", b""),
        ("x" * 10_000, b"x" * 500),
    ],
)
def test_a_value_is_safe_whatever_the_name_contains(text: str, value: bytes) -> None:
    assert header_value(text) == value
