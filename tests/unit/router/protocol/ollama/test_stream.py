from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.protocol import CLOCK, DONE, STAMP, TIMING, delta, event, objects, run, stream, usage
from vllama_pool.router.protocol.clock import TimestampFormatter
from vllama_pool.router.protocol.ollama import chat, generate
from vllama_pool.router.protocol.ollama.answer_builder import AnswerBuilder
from vllama_pool.router.protocol.ollama.chunks import UNFINISHED, Chunk, FinalFields
from vllama_pool.router.protocol.ollama.generate_response import GenerateWriter
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate
from vllama_pool.router.protocol.ollama.stream import RUNNER_ERROR, TextTranslator
from vllama_pool.router.protocol.operation import StreamFailure, Timing, Usage
from vllama_pool.router.protocol.vllm.think_tags import ThinkTagSplitter


def chat_translator(**fields: Any) -> TextTranslator:
    return chat.translator(decode_chat(json.dumps({"model": "Llama3"} | fields).encode()), TIMING, CLOCK)


def generate_translator(**fields: Any) -> TextTranslator:
    return generate.translator(decode_generate(json.dumps({"model": "Llama3"} | fields).encode()), TIMING, CLOCK)


LOGPROBS = {"logprobs": True, "top_logprobs": 2}
CAPTURED: list[tuple[str, Callable[..., TextTranslator], dict[str, Any]]] = [
    ("chat-plain", chat_translator, {}),
    ("chat-length", chat_translator, {}),
    ("chat-logprobs", chat_translator, LOGPROBS),
    ("chat-thinking", chat_translator, {}),
    ("chat-tools", chat_translator, {}),
    ("chat-tools-cut", chat_translator, {}),
    ("generate-ids", generate_translator, {}),
    ("generate-thinking-ids", generate_translator, {}),
    ("completion-logprobs", generate_translator, LOGPROBS | {"raw": True}),
    ("completion-stop", generate_translator, {"raw": True}),
]
NAMES = [name for name, _, _ in CAPTURED]


@pytest.mark.parametrize("stream_it", [True, False])
@pytest.mark.parametrize(("name", "make", "fields"), CAPTURED, ids=NAMES)
def test_captured_streams_may_be_split_at_any_byte(
    name: str, make: Callable[..., TextTranslator], fields: dict[str, Any], stream_it: bool
) -> None:
    data = stream(name)
    whole = run(make(stream=stream_it, **fields), data)
    assert run(make(stream=stream_it, **fields), data, range(1, len(data))) == whole
    for cut in range(1, len(data), 97):
        assert run(make(stream=stream_it, **fields), data, [cut]) == whole
    last = objects(whole)[-1]
    assert last["done"] is True
    assert all(last[key] >= 1 for key in METRICS)


METRICS = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)


@given(st.data())
def test_translation_does_not_depend_on_how_the_stream_is_split(data: st.DataObject) -> None:
    name, make, fields = data.draw(st.sampled_from(CAPTURED))
    body = stream(name).replace(b"\n", b"\r\n") if data.draw(st.booleans()) else stream(name)
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=10))
    stream_it = data.draw(st.booleans())
    assert run(make(stream=stream_it, **fields), body, cuts) == run(make(stream=stream_it, **fields), stream(name))


PIECES = st.one_of(
    st.builds(lambda text: delta(content=text), st.text(max_size=6)),
    st.builds(lambda text: delta(reasoning=text), st.text(max_size=6)),
    st.builds(lambda text: delta(content=text, reasoning=text), st.text(max_size=3)),
    st.just(b": ping\n\n"),
    st.just(delta(role="assistant", content="")),
    st.builds(
        lambda index, part: delta(
            tool_calls=[{"index": index, "id": f"t{index}", "function": {"name": "f", "arguments": part}}]
        ),
        st.integers(0, 2),
        st.sampled_from(["{", "}", '{"a":1}', '"', ""]),
    ),
)
ENDINGS = st.sampled_from(
    [
        delta("stop") + usage() + DONE,
        delta("length", content="x") + usage() + DONE,
        delta("tool_calls") + usage() + DONE,
        delta("stop") + DONE,
        delta("abort") + DONE,
        DONE,
        b"",
        event(error={"message": "no", "code": 503}) + DONE,
    ]
)


@pytest.mark.rule(44)
@pytest.mark.trap(3)
@given(st.lists(PIECES, max_size=8), ENDINGS, st.data())
def test_streamed_and_unstreamed_answers_agree(pieces: list[bytes], ending: bytes, data: st.DataObject) -> None:
    body = b"".join(pieces) + ending
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=6))
    streamed = run(chat_translator(), body, cuts)
    assert streamed == run(chat_translator(), body)
    assert streamed.endswith(b"\n")
    assert b"\n\n" not in streamed
    lines = objects(streamed)
    assert [line.get("done") for line in lines[:-1]] == [False] * (len(lines) - 1)
    [whole] = objects(run(chat_translator(stream=False), body, cuts))
    if "error" in lines[-1]:
        assert whole == lines[-1] == {"error": whole["error"]}
        return
    merged = {key: "".join(line["message"].get(key, "") for line in lines) for key in ("content", "thinking")}
    assert whole["message"]["content"] == merged["content"]
    assert whole["message"].get("thinking", "") == merged["thinking"]
    assert whole["message"].get("tool_calls", []) == [
        tool_call for line in lines for tool_call in line["message"].get("tool_calls", [])
    ]
    assert {key: whole.get(key) for key in METRICS} == {key: lines[-1].get(key) for key in METRICS}


@pytest.mark.parametrize("stream_it", [True, False])
@given(st.lists(st.text(max_size=4) | st.sampled_from([",", '",']), min_size=20, max_size=40), st.data())
def test_long_answers_do_not_depend_on_how_many_events_a_read_holds(
    stream_it: bool, texts: list[str], data: st.DataObject
) -> None:
    """After some events, those of a read are decoded at once. Byte by byte, each is decoded alone."""

    def compact(text: str) -> bytes:
        choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
        return b"data: " + json.dumps({"id": "c", "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"

    reads = [compact(text) for text in texts]
    body = b"".join(reads) + delta("stop") + usage() + DONE
    cuts = [sum(map(len, reads[:count])) for count in range(1, len(reads) + 1)]
    some = data.draw(st.lists(st.sampled_from(cuts) | st.integers(0, len(body)), max_size=20))
    spaced = body.replace(b'"content":', b'"content": ')  # no frame
    alone = run(chat_translator(stream=stream_it), spaced, range(1, len(spaced)))
    assert run(chat_translator(stream=stream_it), body, cuts) == alone
    assert run(chat_translator(stream=stream_it), body, some) == alone


TAGS = st.lists(st.sampled_from(["<think>", "</think>", "</", "think>", "a", "🦙", "\n"]), max_size=8).map("".join)


@given(TAGS, st.booleans(), st.data())
def test_tagged_thinking_does_not_depend_on_how_text_is_split(text: str, begun: bool, data: st.DataObject) -> None:
    """Streamed or whole, in one event or in many, with logprobs or without."""

    def translator(stream_it: bool) -> TextTranslator:
        body = {"model": "m", "prompt": "x", "stream": stream_it, "logprobs": True}
        request = decode_generate(json.dumps(body).encode())
        return generate.translator(request, TIMING, CLOCK, think_tags=ThinkTagSplitter(begun=begun))

    def answer(pieces: list[str]) -> tuple[str, str]:
        logs = {"tokens": ["t"], "token_logprobs": [-0.5], "top_logprobs": [None]}
        events = [event(choices=[{"text": piece, "token_ids": [7], "logprobs": logs}]) for piece in pieces]
        body = b"".join(events) + event(choices=[{"text": "", "finish_reason": "length"}]) + usage() + DONE
        cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=5))
        lines = objects(run(translator(True), body, cuts))
        [whole] = objects(run(translator(False), body, cuts))
        assert sum(len(line.get("logprobs", ())) for line in lines) == len(whole.get("logprobs", ())) == len(pieces)
        parts = tuple("".join(line.get(key, "") for line in lines) for key in ("thinking", "response"))
        assert parts == (whole.get("thinking", ""), whole["response"])
        assert whole["context"] == [7] * len(pieces)
        return parts[0], parts[1]

    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    assert answer(pieces) == answer([text])


@pytest.mark.rule(44, 67)
def test_chat_lines_are_exactly_ollamas() -> None:
    translator = chat_translator()
    body = delta(role="assistant", content="") + delta(content="Hi <b>\n🦙") + delta("stop") + usage() + DONE
    assert run(translator, body).decode() == (
        f'{{"model":"Llama3","created_at":"{STAMP}","message":{{"role":"assistant",'
        '"content":"Hi \\u003cb\\u003e\\n🦙"},'
        '"done":false}\n'
        f'{{"model":"Llama3","created_at":"{STAMP}","message":{{"role":"assistant","content":""}},"done":true,'
        '"done_reason":"stop","total_duration":10000000,"load_duration":2000000,"prompt_eval_count":5,'
        '"prompt_eval_duration":8000000,"eval_count":3,"eval_duration":1}\n'
    )


@pytest.mark.rule(67)
def test_generate_lines_are_exactly_ollamas() -> None:
    chunk = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": None, "token_ids": [7, 8]}
    end = {"index": 0, "delta": {"content": ""}, "finish_reason": "stop", "stop_reason": None, "token_ids": [2]}
    body = event(choices=[{"delta": {"role": "assistant", "content": ""}}], prompt_token_ids=[1, 5])
    body += event(choices=[chunk]) + event(choices=[end]) + usage() + DONE
    assert run(generate_translator(), body).decode() == (
        f'{{"model":"Llama3","created_at":"{STAMP}","response":"Hi","done":false}}\n'
        f'{{"model":"Llama3","created_at":"{STAMP}","response":"","done":true,"done_reason":"stop",'
        '"context":[1,5,7,8],"total_duration":10000000,"load_duration":2000000,"prompt_eval_count":5,'
        '"prompt_eval_duration":8000000,"eval_count":3,"eval_duration":1}\n'
    )


@pytest.mark.rule(40, 68, 86)
def test_an_unstreamed_answer_is_one_object_without_line_end() -> None:
    translator = chat_translator(stream=False)
    body = delta(reasoning="hm") + delta(content="Hi") + delta(content=" you") + delta("stop") + usage()
    assert translator.feed(body) == b""
    assert (translator.ready, translator.done) == (True, True)
    answer = translator.finish()
    assert not answer.endswith(b"\n")
    [whole] = objects(answer)
    assert whole["message"] == {"role": "assistant", "content": "Hi you", "thinking": "hm"}
    assert list(whole) == ["model", "created_at", "message", "done", "done_reason", *METRICS]
    assert translator.finish() == b""


@pytest.mark.rule(68)
def test_an_unstreamed_generate_answer_joins_the_streams_lines() -> None:
    body = stream("completion-logprobs")
    fields = LOGPROBS | {"raw": True}
    lines = objects(run(generate_translator(**fields), body))
    [whole] = objects(run(generate_translator(stream=False, **fields), body))
    assert whole["response"] == "".join(line["response"] for line in lines) != ""
    assert whole["logprobs"] == [entry for line in lines for entry in line.get("logprobs", [])] != []
    thoughtful = delta(reasoning="h") + delta(reasoning="m") + delta(content="Hi") + delta("stop") + usage()
    [whole] = objects(run(generate_translator(stream=False), thoughtful))
    assert (whole["thinking"], whole["response"]) == ("hm", "Hi")
    keys = [key for key in whole if key != "context"]
    assert keys == ["model", "created_at", "response", "thinking", "done", "done_reason", *METRICS]


@pytest.mark.rule(45)
def test_the_model_is_echoed_as_requested() -> None:
    assert {line["model"] for line in objects(run(chat_translator(), stream("chat-plain")))} == {"Llama3"}


@pytest.mark.rule(56)
def test_a_raw_answer_has_no_context() -> None:
    assert "context" not in objects(run(generate_translator(raw=True), stream("completion-stop")))[-1]


@pytest.mark.rule(64)
def test_logprobs_are_on_the_line_of_their_text_without_the_end_mark() -> None:
    lines = objects(run(chat_translator(**LOGPROBS), stream("chat-logprobs")))
    tokens = [entry["token"] for line in lines for entry in line.get("logprobs", [])]
    assert "".join(tokens) == "".join(line["message"]["content"] for line in lines)
    for line in lines[:-1]:
        for entry in line["logprobs"]:
            assert list(entry) == ["token", "logprob", "bytes", "top_logprobs"]
            assert bytes(entry["bytes"]).decode() == entry["token"]
            values = [alternative["logprob"] for alternative in entry["top_logprobs"]]
            assert values == sorted(values, reverse=True)
            assert len(values) <= 2
    assert all("logprobs" not in line for line in objects(run(chat_translator(), stream("chat-logprobs"))))


@pytest.mark.rule(65)
def test_alternatives_are_sent_only_if_requested() -> None:
    whole = objects(run(generate_translator(raw=True, stream=False, logprobs=True), stream("completion-logprobs")))[0]
    assert len(whole["logprobs"]) == whole["eval_count"] == 4
    assert all("top_logprobs" not in entry for entry in whole["logprobs"])


@pytest.mark.rule(67)
def test_context_is_prompt_and_answer_ids_without_the_end_mark() -> None:
    last = objects(run(generate_translator(), stream("generate-ids")))[-1]
    assert len(last["context"]) == last["prompt_eval_count"] + last["eval_count"] - 1


@pytest.mark.rule(69, 83)
@pytest.mark.trap(7)
@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "stop"),
        ("repetition", "stop"),
        ("content_filter", "stop"),
    ],
)
def test_done_reason_is_stop_or_length(finish: str, reason: str) -> None:
    translator = chat_translator()
    assert objects(run(translator, delta(content="x") + delta(finish) + usage() + DONE))[-1]["done_reason"] == reason
    assert translator.usage == Usage(5, 3, reason)


@pytest.mark.rule(70)
def test_durations_come_from_vllms_metrics() -> None:
    metrics = {"time_to_first_token_ms": 6.5, "generation_time_ms": 34.25, "queue_time_ms": 0.1}
    last = objects(run(chat_translator(), delta(content="x") + delta("stop") + usage(metrics=metrics) + DONE))[-1]
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (6_500_000, 34_250_000)


@pytest.mark.rule(42, 70)
@pytest.mark.trap(9)
def test_durations_of_a_fast_answer_are_positive_integers() -> None:
    metrics = {"time_to_first_token_ms": 0.0, "generation_time_ms": 0.0000001, "queue_time_ms": 0.0}
    body = delta(content="x") + delta("stop") + usage(metrics=metrics) + DONE
    now = CLOCK.monotonic_ns()
    for timing in (TIMING, Timing(arrived=now, sent=now)):
        for translator in (
            chat.translator(decode_chat(b'{"model":"m"}'), timing, CLOCK),
            generate.translator(decode_generate(b'{"model":"m"}'), timing, CLOCK),
        ):
            last = objects(run(translator, body))[-1]
            assert all(type(last[key]) is int and last[key] >= 1 for key in METRICS), last


@pytest.mark.rule(70)
def test_cached_tokens_are_counted() -> None:
    used = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
    body = delta(content="x") + delta("stop") + event(choices=[], usage=used) + DONE
    assert objects(run(chat_translator(), body))[-1]["prompt_eval_count"] == 9


@pytest.mark.rule(81)
def test_tool_calls_are_on_a_separate_line() -> None:
    lines = objects(run(chat_translator(), stream("chat-tools")))
    with_calls = [line for line in lines if "tool_calls" in line["message"]]
    assert len(with_calls) == 1
    assert with_calls[0] is lines[-2]
    assert with_calls[0]["message"]["content"] == ""
    [tool_call] = with_calls[0]["message"]["tool_calls"]
    assert tool_call["function"] == {
        "index": 0,
        "name": "get_weather",
        "arguments": {"city": "Paris", "unit": "celsius"},
    }
    assert list(tool_call) == ["id", "function"]
    assert len(tool_call["id"]) == 13
    assert tool_call["id"].startswith("call_")
    assert tool_call["id"][5:].isalnum()
    assert lines[-1]["done_reason"] == "stop"


def calls(*texts: str) -> bytes:
    deltas = [
        {"index": index, "id": f"chatcmpl-tool-{index}", "type": "function", "function": {"name": "f"}}
        for index in range(len(texts))
    ]
    parts = [{"index": index, "function": {"arguments": text}} for index, text in enumerate(texts)]
    return delta(content=None, tool_calls=deltas) + b"".join(delta(content=None, tool_calls=[part]) for part in parts)


@pytest.mark.rule(82)
def test_tool_calls_are_numbered_and_keep_the_order_of_arguments() -> None:
    body = calls('{"z": 1.50,\n "a": [ ]}', "") + delta("tool_calls") + usage() + DONE
    [line] = [line for line in run(chat_translator(), body).split(b"\n") if b"tool_calls" in line]
    assert b'"arguments":{"z":1.50,"a":[]}' in line
    tool_calls = json.loads(line)["message"]["tool_calls"]
    assert [entry["function"]["index"] for entry in tool_calls] == [0, 1]
    assert tool_calls[1]["function"]["arguments"] == {}
    assert tool_calls[0]["id"] != tool_calls[1]["id"]


ODD_CALLS: dict[str, list[Any]] = {
    "one index": [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"index": 0, "id": "b", "function": {"name": "g", "arguments": '{"x":2}'}},
    ],
    "no index": [
        {"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "function": {"name": "g", "arguments": '{"x":2}'}},
    ],
    "null index and id": [
        {"index": None, "id": None, "function": {"name": "f", "arguments": {"x": 1}}},
        {"index": None, "id": None, "function": {"name": "g", "arguments": '"{\\"x\\":2}"'}},
    ],
}


@pytest.mark.rule(81, 82)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("parts", ODD_CALLS.values(), ids=ODD_CALLS)
def test_two_calls_that_vllm_marks_poorly_arrive_as_two(parts: list[Any], at_once: bool, stream: bool) -> None:
    events = [parts] if at_once else [[part] for part in parts]
    body = b"".join(delta(content=None, tool_calls=event) for event in events) + delta("tool_calls") + usage() + DONE
    lines = objects(run(chat_translator(stream=stream), body))
    found = [call for line in lines for call in line["message"].get("tool_calls", ())]
    assert [call["function"] for call in found] == [
        {"index": 0, "name": "f", "arguments": {"x": 1}},
        {"index": 1, "name": "g", "arguments": {"x": 2}},
    ]
    assert found[0]["id"] != found[1]["id"]
    assert lines[-1]["done_reason"] == "stop"


@pytest.mark.rule(48)
def test_a_tool_call_without_a_name_is_an_error() -> None:
    part = {"index": 0, "id": "a", "function": {"arguments": "{}"}}
    translator = chat_translator()
    lines = objects(run(translator, delta(content=None, tool_calls=[part]) + delta("tool_calls") + usage() + DONE))
    assert lines == [{"error": "an error was encountered while running the model: a tool call has no name"}]
    assert translator.failure is not None
    assert translator.failure.status == 500


@pytest.mark.rule(48, 81)
@pytest.mark.trap(1)
@pytest.mark.parametrize("text", ["{", "[1]", '"x"', "{}{}", "nonsense"])
def test_invalid_tool_arguments_are_an_error(text: str) -> None:
    translator = chat_translator()
    lines = objects(run(translator, delta(content="x") + calls(text) + delta("tool_calls") + usage() + DONE))
    assert list(lines[-1]) == ["error"]
    assert translator.failure is not None
    assert (translator.failure.status, translator.failure.model_at_fault) == (500, True)


def test_text_that_comes_with_an_invalid_tool_call_is_written_before_the_error() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "nonsense"}}
    lines = objects(run(chat_translator(), delta("tool_calls", content="x", tool_calls=[call]) + usage() + DONE))
    assert [next(iter(line)) for line in lines] == ["model", "error"]
    assert lines[0]["message"]["content"] == "x"


def test_a_tool_call_cut_by_the_length_limit_is_dropped() -> None:
    lines = objects(run(chat_translator(), stream("chat-tools-cut")))
    assert [line.get("done_reason") for line in lines] == ["length"]
    body = calls('{"a":1}', '{"b":') + delta("length") + usage() + DONE
    whole = objects(run(chat_translator(stream=False), body))[0]
    assert [tool_call["function"]["arguments"] for tool_call in whole["message"]["tool_calls"]] == [{"a": 1}]


@pytest.mark.rule(84)
def test_thinking_is_separate_and_stripped_of_blank_lines() -> None:
    lines = objects(run(chat_translator(), stream("chat-thinking")))
    thinking = [line for line in lines if "thinking" in line["message"]]
    assert thinking == lines[: len(thinking)]
    assert all(line["message"]["content"] == "" for line in thinking)
    whole = objects(run(chat_translator(stream=False), stream("chat-thinking")))[0]
    assert whole["message"]["thinking"].startswith("The user said something.")
    assert whole["message"]["content"].startswith("Hello! I am a tiny llama 🦙")


def test_reasoning_content_is_an_alias_of_reasoning() -> None:
    assert b'"thinking":"hm"' in run(chat_translator(), delta(reasoning_content="hm") + delta("stop") + usage())


def test_a_translator_is_not_ready_before_content() -> None:
    translator = chat_translator()
    assert translator.feed(b": ping\n\n" + delta(role="assistant", content="")) == b""
    assert not translator.ready
    for first in (delta(content="x"), delta(reasoning="x"), calls("{}"), delta("stop"), usage()):
        translator = chat_translator()
        translator.feed(first)
        assert translator.ready


def test_an_unstreamed_answer_is_ready_when_complete() -> None:
    translator = chat_translator(stream=False)
    translator.feed(delta(content="x") + delta("stop"))
    assert not translator.ready
    translator.feed(usage())
    assert translator.ready


@pytest.mark.rule(47)
@pytest.mark.trap(9)
def test_the_last_line_waits_for_usage() -> None:
    translator = chat_translator()
    assert b"done_reason" not in translator.feed(delta(content="x") + delta("stop"))
    assert not translator.done
    assert b'"done":true' in translator.feed(usage())
    assert translator.done
    assert translator.feed(DONE) == translator.finish() == translator.fail("too late") == b""


def test_without_usage_the_done_mark_or_the_end_finishes_a_stream() -> None:
    for ending in (DONE, b""):
        translator = chat_translator()
        last = objects(run(translator, delta(content="x") + delta("stop") + ending))[-1]
        assert last["done"] is True
        assert "eval_count" not in last
        assert translator.done


@pytest.mark.parametrize("whole", [True, False])
def test_an_unfinished_answer_counts_its_content_events_as_tokens(whole: bool) -> None:
    translator = chat_translator(stream=not whole)
    translator.feed(delta(role="assistant", content="") + delta(content="a") + delta(content="b") + delta(content="c"))
    assert translator.usage.completion_tokens == 3


@pytest.mark.rule(47)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("ending", [b"", DONE, delta(content="y")[:-9]])
def test_a_truncated_stream_ends_in_one_error_line(ending: bytes, whole: bool) -> None:
    translator = chat_translator(stream=not whole)
    lines = objects(run(translator, delta(content="x") + ending))
    assert lines[-1] == {"error": "an error was encountered while running the model: unexpected EOF"}
    assert len(lines) == (1 if whole else 2)
    assert not translator.done
    assert translator.finish() == translator.fail("again") == b""


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        ({"message": "busy", "type": "Service Unavailable", "code": 503}, StreamFailure(503, "busy")),
        ({"message": "bad", "code": "400"}, StreamFailure(400, "bad")),
        ({"message": "odd", "code": None}, StreamFailure(500, "odd")),
        ({"message": "odd", "code": 7}, StreamFailure(500, "odd")),
        ("Unauthorized", StreamFailure(500, "Unauthorized")),
    ],
)
def test_an_error_event_fails_with_its_code(error: Any, failure: StreamFailure) -> None:
    translator = chat_translator()
    assert translator.feed(event(error=error) + DONE) == b""
    assert (translator.failure, translator.ready, translator.done) == (failure, False, False)
    assert objects(translator.finish()) == [{"error": RUNNER_ERROR + failure.text}]


def test_an_aborted_request_is_a_failure() -> None:
    translator = chat_translator()
    translator.feed(delta("abort") + DONE)
    assert translator.failure is not None
    assert (translator.failure.status, translator.ready) == (503, False)


@pytest.mark.parametrize(
    "garbage", [b"data: <html>\n\n", b'data: {"choices":[{"delta":{"content":1}}]}\n\n', b"data: []\n\n"]
)
def test_invalid_events_are_a_failure(garbage: bytes) -> None:
    translator = chat_translator()
    translator.feed(garbage)
    assert translator.failure is not None
    assert translator.failure.status == 502


@pytest.mark.rule(163)
def test_an_error_within_a_stream_has_ollamas_prefix_and_is_last() -> None:
    translator = chat_translator()
    translator.feed(delta(content="x") + delta("stop"))
    assert objects(translator.fail("gone")) == [{"error": RUNNER_ERROR + "gone"}]
    assert translator.feed(usage()) == translator.finish() == b""


def test_a_completions_prompt_ids_come_with_its_first_text() -> None:
    first = {"index": 0, "text": "Hi", "prompt_token_ids": [1, 5], "token_ids": [7]}
    end = {"index": 0, "text": "!", "finish_reason": "length", "token_ids": [8]}
    body = event(choices=[first]) + event(choices=[end]) + usage() + DONE
    assert objects(run(generate_translator(), body))[-1]["context"] == [1, 5, 7, 8]


def test_text_with_token_ids_takes_the_fast_path() -> None:
    """Every token of generate has ids. An object for each would cost a fifth more time."""

    class TextOnlyWriter(GenerateWriter):
        def chunk(self, timestamp: str, chunk: Chunk, final: FinalFields = UNFINISHED) -> bytes:
            raise AssertionError(chunk)

    answer = AnswerBuilder(TextOnlyWriter("m"), CLOCK, True, None, keep_ids=True)
    translator = TextTranslator(answer, TIMING, CLOCK, True, TimestampFormatter())
    out = translator.feed(b'data: {"choices":[{"delta":{"content":"hi"},"token_ids":[7]}]}\n\n')
    assert json.loads(out) == {"model": "m", "created_at": STAMP, "response": "hi", "done": False}


def with_ids(text: str | None, ids: list[int]) -> bytes:
    """Return a chat event as vLLM writes it; None: its text is held back."""
    held = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": held, "logprobs": None, "finish_reason": None, "token_ids": ids}
    return event(id="chatcmpl-1", choices=[choice]).replace(b'": ', b'":').replace(b', "', b',"')


TOKENS_WITH_IDS = st.tuples(
    st.none() | st.sampled_from(["", " a", "é", "\n", "\r", "[1]", '"}', "\\"]),
    st.lists(st.integers(0, 200_000), min_size=1, max_size=3),
)


@given(tokens=st.lists(TOKENS_WITH_IDS, min_size=12, max_size=90), per_read=st.integers(1, 4), keeps=st.booleans())
def test_token_ids_change_neither_lines_nor_context(
    tokens: list[tuple[str | None, list[int]]], per_read: int, keeps: bool
) -> None:
    """Whatever comes in one read, and also where the fast path finds the texts beside the ids."""
    make = generate_translator if keeps else chat_translator
    head = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}], prompt_token_ids=[1, 2])
    parts = [head, with_ids("begin", [3]), *(with_ids(text, ids) for text, ids in tokens)]
    end = with_ids("", [9]).replace(b'"finish_reason":null', b'"finish_reason":"length"') + usage() + DONE
    reads = [b"".join(parts[at : at + per_read]) for at in range(0, len(parts), per_read)]
    translator, slow = make(), make()
    lines = objects(b"".join(map(translator.feed, [*reads, end])) + translator.finish())
    data = b"".join((*parts, end))
    assert lines == objects(run(slow, data, range(1, len(data))))
    assert "".join(line.get("response") or line.get("message", {}).get("content", "") for line in lines) == "".join(
        ("begin", *(text or "" for text, _ in tokens))
    )
    if keeps:
        assert lines[-1]["context"] == [1, 2, 3, *(each for _, ids in tokens for each in ids), 9]
