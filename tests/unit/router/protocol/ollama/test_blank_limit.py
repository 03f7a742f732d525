from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.protocol import CLOCK, DONE, TIMING, delta, event, objects, run, usage
from vllama_pool.router.protocol.ollama import chat, generate
from vllama_pool.router.protocol.ollama.blank_limit import MAX_BLANKS
from vllama_pool.router.protocol.ollama.requests import decode_chat, decode_generate
from vllama_pool.router.protocol.ollama.stream import TextTranslator

SCHEMA = {"type": "object"}


def chat_translator(**fields: Any) -> TextTranslator:
    return chat.translator(decode_chat(json.dumps({"model": "m"} | fields).encode()), TIMING, CLOCK)


def generate_translator(**fields: Any) -> TextTranslator:
    return generate.translator(decode_generate(json.dumps({"model": "m"} | fields).encode()), TIMING, CLOCK)


def completion(text: str) -> bytes:
    return event(choices=[{"index": 0, "text": text, "token_ids": [1]}])


def content(text: str) -> bytes:
    return delta(content=text)


KINDS = [(chat_translator, content), (generate_translator, completion)]
Make = Callable[..., TextTranslator]
Part = Callable[[str], bytes]


@pytest.mark.parametrize("format_", ["json", SCHEMA])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("make", "part"), KINDS)
def test_an_endless_run_of_blanks_ends_a_structured_answer(make: Make, part: Part, stream: bool, format_: Any) -> None:
    translator = make(format=format_, stream=stream)
    endless = part('{"a":') + part("\n  ") * 200
    answer = run(translator, endless)
    last = objects(answer)[-1]
    assert translator.done
    assert translator.cut_off
    assert (last["done"], last["done_reason"]) == (True, "length")
    assert last["eval_count"] == translator.usage.completion_tokens > 1
    texts = "".join(line.get("response", "") or line.get("message", {}).get("content", "") for line in objects(answer))
    assert texts.startswith('{"a":\n')
    assert MAX_BLANKS < len(texts) < MAX_BLANKS + 10


def test_tokens_of_grouped_events_are_counted_by_their_ids() -> None:
    def grouped(text: str) -> bytes:
        return event(choices=[{"index": 0, "delta": {"content": text}, "token_ids": [1, 2, 3]}])

    translator = chat_translator(format=SCHEMA, stream=False)
    [answer] = objects(run(translator, grouped("{") + grouped(" " * 60) * 2))
    assert (answer["done_reason"], answer["eval_count"]) == ("length", 9)


@pytest.mark.parametrize(("make", "part"), KINDS)
def test_blanks_between_other_text_end_nothing(make: Make, part: Part) -> None:
    translator = make(format=SCHEMA)
    translator.feed((part(" " * MAX_BLANKS) + part("x")) * 3)
    assert not translator.done
    assert not translator.cut_off


@pytest.mark.parametrize(("make", "part"), KINDS)
def test_an_answer_without_a_format_may_be_blank(make: Make, part: Part) -> None:
    translator = make()
    translator.feed(part(" " * 500) * 3)
    assert not translator.cut_off
    assert not translator.done


def test_blank_reasoning_does_not_end_a_structured_answer() -> None:
    translator = chat_translator(format=SCHEMA)
    translator.feed(delta(reasoning="x") + delta(reasoning=" " * 500) + delta(content="{}"))
    assert not translator.cut_off


def test_an_answer_that_the_worker_ends_keeps_its_reason() -> None:
    lines = objects(run(chat_translator(format=SCHEMA), delta("stop", content=" " * 500) + usage() + DONE))
    assert lines[-1]["done_reason"] == "stop"
    assert lines[-1]["eval_count"] == 3
