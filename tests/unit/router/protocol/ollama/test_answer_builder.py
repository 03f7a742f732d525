"""Answers from single choices. Whole streams are tested in test_stream.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllama_pool.router.protocol.ollama.answer_builder import Aborted, AnswerBuilder
from vllama_pool.router.protocol.ollama.chat_response import ChatWriter
from vllama_pool.router.protocol.vllm.api import VllmChoice, VllmDelta


def builder(stream: bool = True) -> AnswerBuilder:
    return AnswerBuilder(ChatWriter("m"), stream=stream, logprobs=None)


def choice(finish_reason: str | None = None, **delta: Any) -> VllmChoice:
    return VllmChoice(delta=VllmDelta(**delta), finish_reason=finish_reason)


def contents(answer: AnswerBuilder) -> list[str]:
    return [json.loads(line)["message"]["content"] for line in answer.lines().splitlines()]


def test_an_answer_begins_with_its_first_content() -> None:
    answer = builder()
    answer.add(choice(content=""), 5)
    assert (answer.begun, answer.state.first) == (False, 0)
    answer.add(choice(content="hi"), 7)
    answer.add(choice(content="!"), 9)
    assert (answer.begun, answer.state.first, answer.state.last) == (True, 7, 9)
    assert contents(answer) == ["hi", "!"]
    assert answer.lines() == b""


@pytest.mark.parametrize(("reason", "status"), [("abort", 503), ("error", 500)])
def test_an_aborted_request_raises_before_its_text_is_written(reason: str, status: int) -> None:
    answer = builder()
    with pytest.raises(Aborted) as aborted:
        answer.add(choice(reason, content="x"), 1)
    assert aborted.value.status == status
    assert (answer.begun, answer.lines()) == (False, b"")


def test_blank_lines_between_thinking_and_text_are_stripped_across_chunks() -> None:
    answer = builder()
    answer.add(choice(reasoning="hm"), 1)
    for text in ("\n", "\n a", " b"):
        answer.add(choice(content=text), 2)
    assert contents(answer) == ["", "a", " b"]


def test_an_unstreamed_answer_writes_no_lines() -> None:
    answer = builder(stream=False)
    answer.add(choice(content="hi"), 1)
    answer.add(choice("stop", content="!"), 2)
    assert answer.lines() == b""
    assert answer.state.finish_reason == "stop"
