from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.protocol.vllm.api import VllmFunctionDelta, VllmToolCallDelta
from vllama_pool.router.protocol.vllm.tool_calls import InvalidToolCall, ResponseToolCall, ToolCalls


def fragment(
    index: int | None = 0, id: str | None = None, name: str | None = None, text: Any = None
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


@pytest.mark.parametrize("text", ["[1]", '"x"', "{", '{"a":1} trailing', "\ud800", "5", "true"])
def test_arguments_other_than_an_object_are_invalid(text: str) -> None:
    with pytest.raises(InvalidToolCall):
        complete(fragment(name="f", text=text))


def test_truncation_drops_only_the_last_call_and_only_if_it_is_invalid() -> None:
    good, bad = fragment(0, name="f", text="{}"), fragment(1, name="g", text='{"a":')
    assert [call.function.name for call in complete(good, bad, truncated=True)] == ["f"]
    assert [call.function.name for call in complete(good, truncated=True)] == ["f"]
    with pytest.raises(InvalidToolCall):
        complete(fragment(0, name="g", text='{"a":'), fragment(1, name="f", text="{}"), truncated=True)


@given(st.lists(st.integers(1, 40), max_size=5))
def test_calls_do_not_depend_on_the_fragments(cuts: list[int]) -> None:
    text = msgspec.json.encode({"numbers": [1, 2.50, "\n"], "nested": {"a": None}}).decode()
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    fragments = [fragment(name="f", text=text[start:end]) for start, end in itertools.pairwise(places)]
    assert complete(*fragments) == complete(fragment(name="f", text=text))


def described(calls: list[ResponseToolCall]) -> list[tuple[str, Any]]:
    assert [call.function.index for call in calls] == list(range(len(calls)))
    assert len({call.id for call in calls}) == len(calls)
    return [(call.function.name, msgspec.json.decode(call.function.arguments)) for call in calls]


Fragments = list[VllmToolCallDelta]
A = fragment(0, "a", "f", '{"x":1}')
TWO = [("f", {"x": 1}), ("f", {"x": 2})]
DIFFERENT = [("f", {"x": 1}), ("g", {"x": 2})]
SHAPES: dict[str, tuple[Fragments, list[tuple[str, Any]]]] = {
    "two ids under one index": ([A, fragment(0, "b", "f", '{"x":2}')], TWO),
    "two ids under one index, split": (
        [
            *(fragment(0, "a", "f"), fragment(0, text='{"x":'), fragment(0, text="1}")),
            *(fragment(0, "b", "f"), fragment(0, text='{"x":'), fragment(0, text="2}")),
        ],
        TWO,
    ),
    "two ids under one index, interleaved": (
        [
            *(fragment(0, "a", "f", '{"x"'), fragment(0, "b", "g", '{"x"')),
            *(fragment(0, "a", text=":1}"), fragment(0, "b", text=":2}")),
        ],
        DIFFERENT,
    ),
    "two names under one index": (
        [fragment(0, name="f", text='{"x":1}'), fragment(0, name="g", text='{"x":2}')],
        DIFFERENT,
    ),
    "one name twice under one index": (
        [fragment(0, name="f", text='{"x":1}'), fragment(0, name="f", text='{"x":2}')],
        TWO,
    ),
    "one id twice under one index": ([A, fragment(0, "a", "g", '{"x":2}')], DIFFERENT),
    "one id and name twice": ([A, fragment(0, "a", "f", '{"x":2}')], TWO),
    "one id under two indices": ([A, fragment(1, "a", "f", '{"x":2}')], TWO),
    "no index, two ids": ([fragment(None, "a", "f", '{"x":1}'), fragment(None, "b", "f", '{"x":2}')], TWO),
    "no index, no ids": (
        [fragment(None, name="f", text='{"x":1}'), fragment(None, name="g", text='{"x":2}')],
        DIFFERENT,
    ),
    "no index, split": (
        [
            *(fragment(None, "a", "f"), fragment(None, text='{"x":1}')),
            *(fragment(None, "b", "f"), fragment(None, text='{"x":2}')),
        ],
        TWO,
    ),
    "interleaved indices": (
        [
            *(fragment(0, "a", "f", '{"x"'), fragment(1, "b", "f", '{"x"')),
            *(fragment(0, text=":1}"), fragment(1, text=":2}")),
        ],
        TWO,
    ),
    "an index that counts the fragments": (
        [fragment(0, "a", "f"), fragment(1, "a", text='{"x"'), fragment(2, "a", text=":1}")],
        TWO[:1],
    ),
    "the name after the arguments": ([fragment(0, "a", text='{"x":1}'), fragment(0, name="f")], TWO[:1]),
    "the id after the name": ([fragment(0, name="f"), fragment(0, "a", text='{"x":1}')], TWO[:1]),
    "id and name in every fragment": ([fragment(0, "a", "f", '{"x"'), fragment(0, "a", "f", ":1}")], TWO[:1]),
    "a last fragment without text": ([A, fragment(0, "a", "f", "")], TWO[:1]),
    "a repetition": ([A, fragment(0, "a", "f", '{"x": 1}')], TWO[:1]),
    "a repetition without id": ([A, fragment(0, name="f", text='{"x":1}')], TWO[:1]),
    "a repetition of the arguments alone": ([A, fragment(0, text='{"x":1}')], TWO[:1]),
    "a repetition in another spelling": ([A, fragment(0, text='{"x" : 1}')], TWO[:1]),
    "a repetition in fragments": ([A, fragment(0, text='{"x"'), fragment(0, text=":1}")], TWO[:1]),
    "a whole after a part": ([fragment(0, "a", "f", '{"x"'), fragment(0, text='{"x":1}')], TWO[:1]),
    "each fragment holds all so far": (
        [fragment(0, "a", "f", '{"x"'), fragment(0, text='{"x":'), fragment(0, text='{"x":1}')],
        TWO[:1],
    ),
    "an object": ([fragment(0, "a", "f", {"x": 1})], TWO[:1]),
    "a call of nothing": ([A, fragment(1), fragment(2, "z", text="")], TWO[:1]),
}


@pytest.mark.rule(82)
@pytest.mark.parametrize(("fragments", "calls"), SHAPES.values(), ids=SHAPES)
def test_every_call_arrives_once_and_complete(fragments: Fragments, calls: list[tuple[str, Any]]) -> None:
    assert described(complete(*fragments)) == calls


def test_calls_of_one_event_without_index_and_id_are_all_kept() -> None:
    calls = ToolCalls()
    calls.add([fragment(None, name="f"), fragment(None, name="f"), fragment(None, name="f", text="{}")])
    assert described(calls.complete(truncated=False)) == [("f", {})] * 3


def test_arguments_without_a_name_are_an_error() -> None:
    with pytest.raises(InvalidToolCall, match=r"^a tool call has no name$"):
        complete(fragment(0, "a", text="{}"))
    assert complete(fragment(0, "a", text="{}"), truncated=True) == []


@pytest.mark.parametrize("text", [None, "", " ", "null", " null\n", '""', '"null"', '"{}"', {}])
def test_arguments_of_null_or_nothing_are_an_empty_object(text: Any) -> None:
    assert described(complete(fragment(0, "a", "f", text))) == [("f", {})]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_arguments_inside_json_strings_are_unwrapped(times: int) -> None:
    text = '{"city":"W\u00fcrzburg","n":1.50}'
    for _ in range(times):
        text = msgspec.json.encode(text).decode()
    [call] = complete(fragment(0, "a", "f", text[:5]), fragment(0, text=text[5:]))
    assert bytes(call.function.arguments) == '{"city":"Würzburg","n":1.50}'.encode()


@pytest.mark.parametrize("text", ['"[1]"', '"\\"x\\""', '"{"', [1], 5, '{"a":1}{"a":2}', '"' + "\\" * 9])
def test_arguments_that_hold_no_object_are_invalid(text: Any) -> None:
    with pytest.raises(InvalidToolCall, match=r"^the arguments of a tool call are not a JSON object$"):
        complete(fragment(0, "a", "f", text))


NAMES = st.sampled_from(["f", "g"])
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)), max_size=4)


@given(CALLS, st.booleans(), st.booleans(), st.data())
def test_calls_with_their_own_ids_never_mix(
    calls: list[tuple[str, Any]], one_index: bool, named: bool, data: st.DataObject
) -> None:
    """Fragments carry the id, and may be interleaved."""
    queues = []
    for number, (name, arguments) in enumerate(calls):
        text = msgspec.json.encode(arguments).decode()
        cut = data.draw(st.integers(0, len(text)))
        index = 0 if one_index else number
        queues.append(
            [
                fragment(index, f"id{number}", name, text[:cut]),
                fragment(index, f"id{number}", name if named and cut < len(text) else None, text[cut:]),
            ]
        )
    order = data.draw(st.permutations([number for number in range(len(calls)) for _ in range(2)]))
    fragments = [queues[number].pop(0) for number in order]
    found = described(complete(*fragments))
    key = repr
    assert sorted(found, key=key) == sorted(calls, key=key)
