"""Answers from single choices. Whole streams are tested in test_stream.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllama_pool.router.protocol.ollama.answer_builder import Aborted, AnswerBuilder
from vllama_pool.router.protocol.ollama.chat_response import ChatWriter
from vllama_pool.router.protocol.vllm.api import VllmChoice, VllmDelta


class SteppedClock:
    """Moves by one nanosecond at each look."""

    def __init__(self) -> None:
        self.now = 0

    def time_ns(self) -> int:
        return self.now

    def monotonic_ns(self) -> int:
        self.now += 1
        return self.now


def builder(stream: bool = True) -> AnswerBuilder:
    answer = AnswerBuilder(ChatWriter("m"), SteppedClock(), stream, None)
    answer.set_time("2026-11-22T19:28:20.25Z")
    return answer


def choice(finish_reason: str | None = None, **delta: Any) -> VllmChoice:
    return VllmChoice(delta=VllmDelta(**delta), finish_reason=finish_reason)


def contents(lines: bytes) -> list[str]:
    assert lines == b"" or lines.endswith(b"\n")
    return [json.loads(line)["message"]["content"] for line in lines.splitlines()]


def test_an_answer_begins_with_its_first_content() -> None:
    answer = builder()
    assert answer.add(choice(content="")) == b""
    assert (answer.begun, answer.first) == (False, 0)
    assert contents(answer.add(choice(content="hi"))) == ["hi"]
    assert (answer.begun, answer.first) == (True, 1)
    assert contents(answer.add(choice(content="!"))) == ["!"]
    answer.add(choice("stop"))
    assert (answer.first, answer.last) == (1, 2)


@pytest.mark.parametrize(("reason", "status"), [("abort", 503), ("error", 500)])
def test_an_aborted_request_raises_before_its_text_is_written(reason: str, status: int) -> None:
    answer = builder()
    with pytest.raises(Aborted) as aborted:
        answer.add(choice(reason, content="x"))
    assert aborted.value.status == status
    assert not answer.begun


def test_blank_lines_between_thinking_and_text_are_stripped_across_chunks() -> None:
    answer = builder()
    texts = [contents(answer.add(choice(reasoning="hm")))]
    texts += [contents(answer.add(choice(content=text))) for text in ("\n", "\n a", " b")]
    assert texts == [[""], [], ["a"], [" b"]]


def test_an_unstreamed_answer_writes_no_lines() -> None:
    answer = builder(stream=False)
    assert answer.add(choice(content="hi")) == b""
    assert answer.add(choice("stop", content="!")) == b""
    assert answer.finish_reason == "stop"


@given(st.lists(st.text(min_size=1) | st.text('",\\\n[]a', min_size=1, max_size=3), min_size=1, max_size=6))
@example([",", "b"])
@example(["a", '",', "b"])
def test_texts_that_arrive_together_get_a_line_each(texts: list[str]) -> None:
    lines = builder().add_texts(texts)
    assert lines == b"".join(builder().add_texts([text]) for text in texts)
    assert [json.loads(line)["message"]["content"] for line in lines.split(b"\n")[:-1]] == texts
