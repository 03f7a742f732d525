from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.protocol import stream as captured
from vllama_pool.router.protocol.openai.responses.stream import ResponsesStream
from vllama_pool.router.protocol.operation import StreamFailure, Usage

CAPTURED = ("responses-thinking", "responses-tools", "responses-custom-tool", "responses-length")
RESPONSE = {"id": "resp_1", "created_at": 5, "model": "served", "object": "response", "output": [], "usage": None}
USAGE = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}


def event(kind: str, number: int, **fields: Any) -> bytes:
    data = json.dumps({**fields, "sequence_number": number, "type": kind}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def response(kind: str, number: int, status: str = "in_progress", **fields: Any) -> bytes:
    return event(kind, number, response={**RESPONSE, "status": status, **fields})


BEGIN = response("response.created", 0) + response("response.in_progress", 1)
ADDED = event("response.output_item.added", 2, item={"type": "message"}, output_index=0)
COMPLETED = response("response.completed", 5, "completed", usage=USAGE)


def text(content: str, number: int) -> bytes:
    return event("response.output_text.delta", number, delta=content)


def events(data: bytes) -> list[dict[str, Any]]:
    """Return the events' data, whose type is that of the event line."""
    result = []
    for block in data.decode().split("\n\n")[:-1]:
        first, second = block.split("\n")
        result.append(json.loads(second.removeprefix("data: ")))
        assert first == f"event: {result[-1]['type']}"
    return result


def relay(data: bytes, size: int = 1_000_000, name: str = "Mine") -> tuple[bytes, ResponsesStream]:
    translator = ResponsesStream(name)
    parts = [translator.feed(data[start : start + size]) for start in range(0, len(data), size)]
    return b"".join(parts) + translator.finish(), translator


def renamed(whole: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**each, "response": {**each["response"], "model": "Mine"}} if "response" in each else each for each in whole
    ]


@pytest.mark.parametrize("name", CAPTURED)
@pytest.mark.parametrize("size", [1, 13, 1000, 1_000_000])
def test_vllms_stream_passes_with_the_models_name_and_rising_numbers(name: str, size: int) -> None:
    out, translator = relay(captured(name), size)
    received = events(out)
    assert [each["sequence_number"] for each in received] == list(range(len(received)))
    assert received[:-1] == renamed(events(captured(name)))[:-1]
    last = received[-1]["response"]
    assert (last["model"], received[-1]["type"]) == ("Mine", f"response.{last['status']}")
    assert translator.done
    assert translator.failure is None
    used = last["usage"]
    assert translator.usage == Usage(used["input_tokens"], used["output_tokens"], last["status"])


def test_a_shortened_answer_ends_with_the_event_for_incomplete_ones() -> None:
    last = events(relay(captured("responses-length"))[0])[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_reasoning_is_also_encrypted_content_for_a_client_that_sends_it_back() -> None:
    translator = ResponsesStream("Mine", encrypted=True)
    found = events(translator.feed(captured("responses-tools")) + translator.finish())
    plain = events(relay(captured("responses-tools"))[0])
    (done,) = (each["item"] for each in found if each["type"].endswith("item.done") and "summary" in each["item"])
    assert done["encrypted_content"] == done["content"][0]["text"] != ""
    assert found[-1]["response"]["output"][0] == done
    assert found[-1]["response"]["output"][1:] == plain[-1]["response"]["output"][1:]
    assert [each for each in found if each["type"].endswith("delta")] == [
        each for each in plain if each["type"].endswith("delta")
    ]


def test_an_answer_begins_with_its_first_item() -> None:
    translator = ResponsesStream("Mine")
    assert len(events(translator.feed(BEGIN))) == 2
    assert not translator.ready
    assert translator.feed(ADDED) == ADDED
    assert translator.ready


def test_an_answer_without_items_is_complete() -> None:
    _, translator = relay(BEGIN + COMPLETED)
    assert (translator.ready, translator.done) == (True, True)


def test_nothing_follows_the_end() -> None:
    out, translator = relay(BEGIN + ADDED + COMPLETED + b"data: [DONE]\n\n" + ADDED)
    assert events(out)[-1]["type"] == "response.completed"
    assert translator.done


def test_an_end_mark_of_other_apis_is_left_out() -> None:
    translator = ResponsesStream("Mine")
    translator.feed(BEGIN + ADDED)
    assert translator.feed(b"data: [DONE]\n\n") == b""
    assert not translator.done


def test_the_name_is_changed_in_the_response_only() -> None:
    fields = {"instructions": '"model":"served" {', "metadata": {"model": "served"}}
    ordered = {"id": "resp_1", **fields, "model": "served", "status": "in_progress"}
    out, _ = relay(event("response.created", 0, response=ordered) + text('"model":"served"', 1))
    first, delta, _ = events(out)
    assert first["response"] == {**ordered, "model": "Mine"}
    assert delta["delta"] == '"model":"served"'


@pytest.mark.parametrize(
    "failed",
    [
        response("response.failed", 2, "failed", error={"code": "rate_limit_exceeded", "message": "busy"}),
        response("response.completed", 2, "failed", error={"code": "rate_limit_exceeded", "message": "busy"}),
        event("error", 2, code="rate_limit_exceeded", message="busy"),
        event("error", 2, code=429, message="busy"),
        b'data: {"error":{"message":"busy","type":"x","code":429}}\n\n',
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_failure_is_not_passed_on_but_has_its_status(failed: bytes, begun: bool) -> None:
    translator = ResponsesStream("Mine")
    translator.feed(BEGIN + (ADDED if begun else b""))
    assert translator.feed(failed) == b""
    assert translator.failure == StreamFailure(429, "busy")
    assert (translator.ready, translator.done) == (begun, False)


def test_a_failure_without_a_known_code_is_the_workers_fault() -> None:
    translator = ResponsesStream("Mine")
    translator.feed(response("response.failed", 0, "failed", error={"code": "server_error", "message": "broken"}))
    assert translator.failure == StreamFailure(500, "broken")


def test_a_cancelled_response_is_a_failure() -> None:
    translator = ResponsesStream("Mine")
    translator.feed(BEGIN + response("response.completed", 2, "cancelled"))
    assert translator.failure == StreamFailure(503, "the worker stopped the request")


def test_an_event_that_is_no_json_is_a_failure() -> None:
    translator = ResponsesStream("Mine")
    assert translator.feed(b"data: {]\n\n") == b""
    assert translator.failure == StreamFailure(502, "the worker sent an invalid event")


@pytest.mark.parametrize(
    "before",
    [
        BEGIN + ADDED,
        BEGIN + ADDED + text("a", 3),
        BEGIN + ADDED + text("a", 3) + text('"sequence_number":99', 4) + text("cut", 5)[:-9],
    ],
)
@pytest.mark.parametrize("size", [7, 1_000_000])
def test_a_lost_stream_ends_with_the_response_failed(before: bytes, size: int) -> None:
    translator = ResponsesStream("Mine")
    out = b"".join(translator.feed(before[start : start + size]) for start in range(0, len(before), size))
    *passed, failed = events(out + translator.fail("the worker is lost"))
    assert failed["sequence_number"] == passed[-1]["sequence_number"] + 1
    assert failed == {
        "type": "response.failed",
        "sequence_number": len(passed),
        "response": {
            **RESPONSE,
            "model": "Mine",
            "status": "failed",
            "error": {"code": "server_error", "message": "the worker is lost"},
        },
    }
    assert translator.fail("again") == translator.finish() == b""


def test_a_stream_that_ends_too_early_ends_with_the_response_failed() -> None:
    out, translator = relay(BEGIN + ADDED + text("a", 3))
    assert events(out)[-1]["response"]["status"] == "failed"
    assert not translator.done


def test_a_failure_before_any_response_has_its_shape() -> None:
    failed = events(ResponsesStream("Mine").fail("lost"))[0]
    assert failed["sequence_number"] == 0
    assert {"object", "model", "status", "error", "output"} <= failed["response"].keys()


def test_parts_of_an_answer_pass_unread() -> None:
    translator = ResponsesStream("Mine")
    translator.feed(BEGIN + ADDED)
    parts = event("response.function_call_arguments.delta", 3, delta="{") + text("not JSON", 4).replace(
        b"not JSON", b'not " JSON'
    )
    assert translator.feed(parts) == parts
    assert translator.usage.completion_tokens == 2


def test_events_in_another_order_of_lines_pass() -> None:
    data = b'data: {"type":"response.output_text.delta","sequence_number":3,"delta":"a"}\n\n'
    out, _ = relay(BEGIN + ADDED + data)
    assert data in out
