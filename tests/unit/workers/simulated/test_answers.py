"""The content of simulated answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllama_pool.workers.simulated import vocabulary as v
from vllama_pool.workers.simulated.answers import (
    ASSISTANT,
    NO_THINKING,
    AnswerPlan,
    Call,
    Kind,
    SimulatedText,
    answer,
    document,
    invalid_type,
    question,
    untagged,
)


def chat(text: str) -> list[int]:
    return v.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")


def text(whole: SimulatedText, *kinds: Kind) -> str:
    return "".join(whole.token(i).text for i in range(whole.natural) if whole.token(i).kind in kinds)


def test_an_answer_says_that_it_is_simulated_and_counts() -> None:
    whole = answer(chat("What is 2+2?"), AnswerPlan(length=40))
    assert text(whole, Kind.CONTENT).startswith("Simulated answer to: What is 2+2?. I count: one two three four")
    assert whole.natural == 40


def test_the_question_is_the_last_users() -> None:
    prompt = v.encode("<|im_start|>user\nfirst<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n") + chat("second one")
    assert question(prompt) == "second one"
    assert question(v.encode("a plain prompt")) == "a plain prompt"
    assert len(question(v.encode("word " * 100)).split()) == 12


@settings(max_examples=60)
@given(st.text(max_size=30), st.integers(1, 50), st.booleans(), st.booleans())
def test_a_cut_answer_goes_on_where_it_was_cut(words: str, cut: int, raw: bool, thinking: bool) -> None:
    """As a completion of the prompt's tokens and those generated so far, on any worker."""
    prompt = v.encode(words or "?") if raw else chat(words)
    whole = answer(prompt, AnswerPlan(thinking=thinking and not raw, length=64))
    so_far = [whole.token(index).id for index in range(cut)]
    rest = answer([*prompt, *so_far], AnswerPlan(length=64))
    assert cut + rest.natural == whole.natural
    assert [rest.token(i).id for i in range(100)] == [whole.token(cut + i).id for i in range(100)]


def test_a_cut_answer_goes_on_behind_an_empty_thought() -> None:
    prompt = [*chat("Hi"), *NO_THINKING]
    whole = answer(prompt, AnswerPlan())
    rest = answer([*prompt, *(whole.token(i).id for i in range(3))], AnswerPlan())
    assert rest.token(0) == whole.token(3)


def test_an_unrelated_prefix_is_continued_by_counting() -> None:
    other = answer([*chat("Hi"), *v.encode("Something else")], AnswerPlan())
    assert text(other, Kind.CONTENT).startswith(" one two")


def test_reasoning_comes_first_and_apart() -> None:
    whole = answer(chat("Hi"), AnswerPlan(thinking=True))
    assert text(whole, Kind.REASONING) == "\nThe user asked something. I repeat their words.\n"
    assert text(whole, Kind.CONTENT).startswith("\n\nSimulated answer to: Hi")
    assert (whole.token(0).id, whole.token(0).kind) == (v.THINK, Kind.HIDDEN)


def test_a_call_is_a_head_and_pieces_of_its_arguments() -> None:
    whole = answer(chat("weather?"), AnswerPlan(calls=(Call("get_weather", '{"city": "Paris"}'),)))
    assert text(whole, Kind.CALL) == "get_weather"
    assert text(whole, Kind.ARGUMENTS) == '{"city": "Paris"}'
    assert text(whole, Kind.CONTENT) == ""
    assert whole.finish == "tool_calls"


def test_completions_see_the_markup() -> None:
    seen = untagged(answer(chat("Hi"), AnswerPlan(thinking=True)))
    assert text(seen, Kind.CONTENT).startswith("<think>\nThe user asked")


def test_ids_and_text_agree() -> None:
    whole = untagged(answer(chat("🦙 ünïcode"), AnswerPlan(length=60)))
    ids = [whole.token(i).id for i in range(60)]
    assert v.decode(ids) == text(whole, Kind.CONTENT)


def test_the_head_of_an_answer_is_what_the_template_writes() -> None:
    assert tuple(chat("x")[-len(ASSISTANT) :]) == ASSISTANT
    assert tuple(v.encode("<think>\n\n</think>\n\n")) == NO_THINKING


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "boolean"}, True),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": 5}, 5),
        ({"type": "string", "maxLength": 1}, "h"),
        ({"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}, {"n": 1, "s": "hi"}),
        ({"type": "array", "items": {"type": "null"}, "minItems": 2}, [None, None]),
        ({"anyOf": [{"type": "number", "minimum": 3}, {"type": "string"}]}, 3),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": ["string", "null"]}}}, "hi"),
    ],
)
def test_a_document_fits_its_schema(schema: dict[str, object], value: object) -> None:
    assert json.loads(document(schema, "hi")) == value


def test_a_document_without_a_schema_is_an_object() -> None:
    assert json.loads(document(None, "hi")) == {"simulated": True, "answer": "hi"}


def test_an_endless_schema_ends() -> None:
    endless = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    assert json.loads(document({**endless, "$defs": {"node": endless}}, "x"))


def test_types_that_json_schema_lacks_are_found() -> None:
    assert invalid_type({"type": "object", "properties": {"type": {"type": "nope"}}}) == "nope"
    assert invalid_type({"type": ["string", "null"], "enum": [{"type": "nope"}]}) is None
