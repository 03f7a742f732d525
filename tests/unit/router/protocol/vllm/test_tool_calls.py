from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.protocol.vllm.api import VllmFunctionDelta, VllmToolCallDelta
from vllama_pool.router.protocol.vllm.tool_calls import InvalidArguments, ResponseToolCall, ToolCalls


def fragment(
    index: int = 0, id: str | None = None, name: str | None = None, text: str | None = None
) -> VllmToolCallDelta:
    return VllmToolCallDelta(index, id, VllmFunctionDelta(name, text))


def complete(*fragments: VllmToolCallDelta, truncated: bool = False) -> list[ResponseToolCall]:
    calls = ToolCalls()
    for each in fragments:
        calls.add([each])
    return calls.complete(truncated=truncated)


@pytest.mark.rule(81)
def test_fragments_of_parallel_calls_are_joined_by_index() -> None:
    first, second = complete(
        fragment(0, "a", "weather", '{"city":'),
        fragment(3, "b", "time", "{}"),
        fragment(0, text=' "Wien"}'),
    )
    assert (first.function.index, first.function.name, bytes(first.function.arguments)) == (
        0,
        "weather",
        b'{"city":"Wien"}',
    )
    assert (second.function.index, second.function.name, bytes(second.function.arguments)) == (1, "time", b"{}")
    assert first.id != second.id


@pytest.mark.rule(82)
def test_absent_arguments_are_an_empty_object() -> None:
    [call] = complete(fragment(name="f"))
    assert bytes(call.function.arguments) == b"{}"


@pytest.mark.parametrize("text", ["[1]", '"x"', "{", '{"a":1} trailing', "\ud800"])
def test_arguments_other_than_an_object_are_invalid(text: str) -> None:
    with pytest.raises(InvalidArguments):
        complete(fragment(name="f", text=text))


def test_truncation_drops_only_the_last_call_and_only_if_it_is_invalid() -> None:
    good, bad = fragment(0, name="f", text="{}"), fragment(1, name="g", text='{"a":')
    assert [call.function.name for call in complete(good, bad, truncated=True)] == ["f"]
    assert [call.function.name for call in complete(good, truncated=True)] == ["f"]
    with pytest.raises(InvalidArguments):
        complete(fragment(0, name="g", text='{"a":'), fragment(1, name="f", text="{}"), truncated=True)


@given(st.lists(st.integers(1, 40), max_size=5))
def test_calls_do_not_depend_on_the_fragments(cuts: list[int]) -> None:
    text = msgspec.json.encode({"numbers": [1, 2.50, "\n"], "nested": {"a": None}}).decode()
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    fragments = [fragment(name="f", text=text[start:end]) for start, end in itertools.pairwise(places)]
    assert complete(*fragments) == complete(fragment(name="f", text=text))
